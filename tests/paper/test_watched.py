"""Watched trainings: how scores went, whether a reward is hacked, and what equal budgets buy."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from leapalign.experiments import Exhibit
from paper import tables
from paper.budgets import spent
from paper.estimates import Estimates
from paper.hacking import alarms
from paper.ledger import Ledger
from paper.progress import points
from paper.seeds import seed_means
from paper.style import GENEVAL, HPSV2, PICKSCORE
from paper.table import Table
from tests import tolerances
from tests.paper.factory import SPREADS, STEP, Maker

SNAPSHOTS = {4: 0.5, 8: 1.0}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Estimates:
    """Two seeds of a training that had half of its gain at iteration 4 and all of it at 8."""
    maker = Maker(tmp_path_factory.mktemp("watched"), snapshots=SNAPSHOTS)
    folder = maker.write({"base": 0.0, "drtune": 2.0, "leapalign": 4.0}, seeds=(0, 1))
    return Estimates(Ledger.open(folder))


def build(name: str, estimates: Estimates, *runs: str, **changes: str) -> Table:
    """A table over these runs."""
    return tables.build(name, Exhibit(runs, name, **changes), estimates)


def test_a_watched_run_begins_at_the_untrained_model_and_ends_at_its_own_evaluation(
    watched: Estimates,
) -> None:
    found = points(watched, "leapalign", "base", HPSV2)
    means = {at: rows["score"].mean() for at, rows in found.items()}
    assert list(means) == [0, 4, 8, 12]
    rise = SPREADS["hpsv2"] * STEP
    for at, share in {4: 0.5, 8: 1.0, 12: 1.0}.items():
        assert means[at] - means[0] == pytest.approx(4.0 * share * rise, abs=tolerances.KNOWN_MEAN)
    assert all(sorted(rows["seed"].unique()) == [0, 1] for rows in found.values())


def test_a_seed_that_was_not_watched_has_no_points(tmp_path: Path) -> None:
    folder = Maker(tmp_path, snapshots=SNAPSHOTS).write(
        {"base": 0.0, "leapalign": 4.0}, seeds=(0, 1)
    )
    (folder / "leapalign" / "seed1" / "progress.csv").unlink()
    found = points(Estimates(Ledger.open(folder)), "leapalign", "base", HPSV2)
    assert list(found) == [0, 4, 8, 12]
    assert all(set(rows["seed"]) == {0} for rows in found.values())


def test_a_run_that_was_not_watched_has_no_points(estimates: Estimates) -> None:
    assert points(estimates, "leapalign", "base", HPSV2) == {}


def test_no_alarm_is_raised_where_every_score_rises(watched: Estimates) -> None:
    assert alarms(watched, "leapalign", "base") == []


def test_an_alarm_is_raised_where_a_held_out_score_falls_while_the_reward_rises(
    tmp_path: Path,
) -> None:
    folder = Maker(tmp_path, snapshots=SNAPSHOTS).write({"base": 0.0, "leapalign": 4.0})
    path = folder / "leapalign" / "seed0" / "progress.csv"
    rows = pd.read_csv(path)
    late = (rows["evaluator"] == "pickscore") & (rows["iteration"] == 8)
    rows.loc[late, "score"] -= 3.0
    rows.to_csv(path, index=False)
    found = alarms(Estimates(Ledger.open(folder)), "leapalign", "base")
    first = found[0]
    assert (first.metric, first.since, first.until) == ("pickscore", 4, 8)
    assert first.reward.mean > 0 > first.change.high
    words = (
        build("hacking", Estimates(Ledger.open(folder)), "base", "leapalign", reads="progress")
        .rows[0]
        .cells[-1]
        .words
    )
    assert words.startswith("iterations 4 to 8: PickScore −")


def test_a_falling_reward_raises_no_alarm(tmp_path: Path) -> None:
    folder = Maker(tmp_path, snapshots=SNAPSHOTS).write({"base": 0.0, "leapalign": -2.0})
    assert alarms(Estimates(Ledger.open(folder)), "leapalign", "base") == []


def test_equal_budgets_take_each_run_where_it_had_spent_as_much(tmp_path: Path) -> None:
    folder = Maker(tmp_path, snapshots=SNAPSHOTS).write(
        {"base": 0.0, "drtune": 2.0, "leapalign": 4.0}
    )
    path = folder / "leapalign" / "seed0" / "train.csv"
    log = pd.read_csv(path)
    log["seconds"] *= 3.0  # its 4 first iterations take what all 12 of the other do
    log.to_csv(path, index=False)
    estimates = Estimates(Ledger.open(folder))
    table = build("budgets", estimates, "drtune", "leapalign")
    column = [column.key for column in table.columns].index("seconds_iterations")
    iterations = {row.key: row.cells[column].ours.mean for row in table.rows}
    assert iterations == {"drtune": 12, "leapalign": 4}
    geneval = {row.key: row.cells[column + 2].ours.mean for row in table.rows}
    at_four = points(estimates, "leapalign", "base", GENEVAL)[4]
    assert geneval["leapalign"] == pytest.approx(
        seed_means(at_four, GENEVAL).mean(), abs=tolerances.KNOWN_MEAN
    )


def test_what_a_run_spends_is_cumulative_per_seed(watched: Estimates) -> None:
    table = spent(watched.ledger.runs["leapalign"].training, "images")
    assert list(table.columns) == [0, 1]
    assert table.iloc[-1].tolist() == [192, 192]


def test_the_spread_of_seeds_is_the_sample_deviation_of_their_means(watched: Estimates) -> None:
    table = build("seeds", watched, "leapalign")
    means = seed_means(watched.scores("leapalign", HPSV2), HPSV2)
    assert table.rows[0].cells[0].ours.mean == pytest.approx(
        means.mean(), abs=tolerances.KNOWN_MEAN
    )
    assert table.rows[0].cells[1].ours.mean == pytest.approx(
        means.std(ddof=1), abs=tolerances.KNOWN_MEAN
    )


def test_a_column_of_rewards_shows_the_runs_trained_on_it(tmp_path: Path) -> None:
    gains = {
        "base": 0.0,
        "base-mjhq": 0.5,
        "leapalign": 4.0,
        "leapalign-hpsv3": 2.0,
        "refl-hpsv3": 1.0,
    }
    estimates = Estimates(Ledger.open(Maker(tmp_path).write(gains)))
    table = build("rewards", estimates, *gains, "refl", "leapalign-pickscore")
    cells = {
        row.key: dict(zip(("hpsv2", "pickscore", "hpsv3"), row.cells, strict=True))
        for row in table.rows
    }
    step = SPREADS["hpsv3"] * STEP
    assert cells["refl"]["hpsv3"].difference.mean == pytest.approx(-step, abs=tolerances.KNOWN_MEAN)
    assert cells["base"]["hpsv3"].difference.mean == pytest.approx(
        -1.5 * step, abs=tolerances.KNOWN_MEAN
    )
    assert cells["leapalign"]["pickscore"].ours is None
    assert cells["leapalign"]["pickscore"].published == 25.7589
    assert cells["base"]["pickscore"].ours.mean == pytest.approx(
        estimates.mean("base", PICKSCORE).mean, abs=tolerances.KNOWN_MEAN
    )
