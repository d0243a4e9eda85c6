"""Every claim gets the verdict that a ledger of known differences deserves."""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from paper.estimates import Estimates
from paper.judge import verdicts
from paper.kinds import (
    Above,
    AtMost,
    DesignIs,
    Flat,
    Grows,
    NoGain,
    Ordered,
    Progress,
    Sooner,
    Test,
    Throughout,
    runs,
)
from paper.ledger import Ledger
from paper.published import published
from paper.statements import Claim
from paper.verdict import Outcome, Verdict
from tests.paper.conftest import ROOT
from tests.paper.factory import SPREADS, STEP, Maker

COMMITTED = ROOT / "results" / "ledger" / "pocket"
CLEAR, SEEDS = 0.02, (0, 1, 2)


def ledger(
    folder: Path,
    effects: Mapping[str, float],
    spread: tuple[float, float] = (0.0005, 0.01),
    seeds: tuple[int, ...] = SEEDS,
) -> Estimates:
    """Runs whose HPSv2.1 is raised by a known effect, with seeds and images that vary.

    Args:
        folder: of the ledger.
        effects: run → its effect.
        spread: standard deviations between a run's seeds, and between its images.
        seeds: the training seeds.
    """
    maker = Maker(folder, prompts=40)
    for run, effect in effects.items():
        for seed in seeds[: 1 if run == "base" else None]:
            path = maker.entry(run, 0.0, seed) / "scores.csv"
            rng = np.random.default_rng([seed, zlib.crc32(run.encode())])
            frame = pd.read_csv(path)
            chosen = frame["evaluator"] == "hpsv2"
            noise = spread[0] * rng.normal() + spread[1] * rng.normal(size=chosen.sum())
            frame.loc[chosen, "score"] += effect + (0.0 if run == "base" else noise)
            frame.to_csv(path, index=False)
    return Estimates(Ledger.open(folder))


def judged(estimates: Estimates, *tests: Test) -> list[Verdict]:
    """The verdicts on tests alone."""
    stated = [
        Claim(f"claim-{index}", "leapalign", "Figure 0", "It is so.", test)
        for index, test in enumerate(tests)
    ]
    return list(verdicts(estimates, stated))


def above(better: str, worse: str, metric: str = "hpsv2") -> Above:
    return Above((better,), (worse,), metric)


def test_clear_differences_are_replicated_or_contradicted(tmp_path: Path) -> None:
    estimates = ledger(tmp_path, {"leapalign": CLEAR, "refl": 0.0})
    right, wrong = judged(estimates, above("leapalign", "refl"), above("refl", "leapalign"))
    assert right.outcome is Outcome.REPLICATED
    assert wrong.outcome is Outcome.CONTRADICTED
    assert right.effect == pytest.approx(-wrong.effect)
    assert right.low < CLEAR < right.high
    assert (right.seeds, len(right.per_seed)) == (SEEDS, 3)
    assert np.mean(right.per_seed) == pytest.approx(right.effect)
    assert right.p == pytest.approx(wrong.p)
    assert right.p_holm == pytest.approx(min(1.0, 2 * right.p))
    assert right.family == 2
    assert right.seeds_to_decide is None


def test_an_unclear_difference_is_undecided_and_says_how_many_seeds_would_decide(
    tmp_path: Path,
) -> None:
    estimates = ledger(tmp_path, {"leapalign": 0.004, "refl": 0.0}, spread=(0.004, 0.005))
    [found] = judged(estimates, above("leapalign", "refl"))
    assert found.outcome is Outcome.UNDECIDED
    assert found.seeds_to_decide is not None
    assert found.seeds_to_decide > len(SEEDS)
    assert f"{found.seeds_to_decide} seeds would decide it" in found.sentence


def test_no_difference_is_decided_by_no_number_of_seeds(tmp_path: Path) -> None:
    maker = Maker(tmp_path)
    maker.write({"leapalign": 1.0, "refl": 1.0}, seeds=SEEDS)
    [found] = judged(Estimates(Ledger.open(tmp_path)), above("leapalign", "refl"))
    assert (found.outcome, found.effect, found.p) == (Outcome.UNDECIDED, 0.0, 1.0)
    assert found.seeds_to_decide is None
    assert found.reason == "More than 1000 seeds would be needed."


def test_a_claim_without_its_runs_or_scores_says_what_is_missing(tmp_path: Path) -> None:
    estimates = ledger(tmp_path, {"leapalign": CLEAR, "refl": 0.0})
    found = judged(
        estimates,
        above("leapalign", "drtune"),
        above("leapalign", "refl", "imagereward"),
        Progress(("leapalign",), ("refl",), "overall"),
        Sooner("leapalign", "drtune", "hpsv2"),
        DesignIs("leapalign"),
        Flat("leapalign", "saved_mb"),
    )
    assert {verdict.outcome for verdict in found} == {Outcome.UNMEASURED}
    assert [verdict.reason for verdict in found] == [
        "No results of DRTune: not in the ledger: it has not been run.",
        "ImageReward of LeapAlign was not measured.",
        "GenEval of LeapAlign was not measured over training.",
        "HPSv2.1 of LeapAlign was not measured over training.",
        "The Plans of LeapAlign have not been surveyed at this scale.",
        "LeapAlign was not measured at several numbers of steps.",
    ]


def test_seeds_scored_on_different_prompts_are_no_evidence(tmp_path: Path) -> None:
    estimates = ledger(tmp_path, {"leapalign": CLEAR, "refl": 0.0}, seeds=(0, 1))
    for run in estimates.ledger.runs.values():
        path = run.folders[1] / "scores.csv"
        frame = pd.read_csv(path)
        frame.assign(prompt_index=frame["prompt_index"] + 1000).to_csv(path, index=False)
    [found] = judged(Estimates(Ledger.open(tmp_path)), above("leapalign", "refl"))
    assert found.outcome is Outcome.UNMEASURED
    assert "no prompt in common" in found.reason


def test_a_verdict_on_one_seed_says_so(tmp_path: Path) -> None:
    estimates = ledger(tmp_path, {"leapalign": CLEAR, "refl": 0.0}, seeds=(0,))
    logs = Throughout("leapalign", "refl", "reward")
    clear, logged = judged(estimates, above("leapalign", "refl"), logs)
    assert clear.outcome is Outcome.REPLICATED
    assert "rests on one training seed" in clear.sentence
    assert logged.outcome is Outcome.UNDECIDED  # a log holds one difference a seed
    assert (logged.p, logged.low, logged.seeds_to_decide) == (None, None, None)
    assert "rests on one training seed" in logged.sentence


def test_sources_are_corrected_apart(tmp_path: Path) -> None:
    estimates = ledger(tmp_path, {"leapalign": 0.003, "refl": 0.0, "drtune": 0.0})
    tests = (above("leapalign", "refl"), above("leapalign", "drtune"))
    together = verdicts(estimates, [Claim(str(t), "leapalign", "", "", t) for t in tests])
    sources = zip(tests, ("leapalign", "flowbp"), strict=True)
    apart = verdicts(estimates, [Claim(str(t), source, "", "", t) for t, source in sources])
    assert [verdict.family for verdict in together] == [2, 2]
    assert [verdict.family for verdict in apart] == [1, 1]
    assert min(v.p_holm for v in together) == pytest.approx(2 * min(v.p for v in together))
    assert [verdict.p_holm for verdict in apart] == [verdict.p for verdict in apart]


def test_a_claim_about_several_pairs_is_as_strong_as_its_weakest(tmp_path: Path) -> None:
    effects = {"leapalign": CLEAR, "refl": 0.0, "drtune": CLEAR, "draft_lv": 2 * CLEAR}
    estimates = ledger(tmp_path, effects)
    every, equal, lower, alone = judged(
        estimates,
        Above(("leapalign", "draft_lv"), ("refl",), "hpsv2"),
        Above(("leapalign",), ("refl", "drtune"), "hpsv2"),
        Above(("leapalign",), ("refl", "drtune", "draft_lv"), "hpsv2"),
        above("leapalign", "draft_lv"),
    )
    assert every.outcome is Outcome.REPLICATED
    assert every.measure.endswith("− ReFL")
    assert equal.outcome is Outcome.UNDECIDED
    assert equal.measure == "HPSv2.1: LeapAlign − DRTune"
    assert lower.outcome is Outcome.CONTRADICTED
    assert lower.p == pytest.approx(3 * alone.p)


@pytest.mark.parametrize(
    ("lead", "outcome"),
    [(0.0, Outcome.REPLICATED), (CLEAR, Outcome.CONTRADICTED), (-CLEAR, Outcome.REPLICATED)],
)
def test_a_gain_is_none_where_it_is_a_small_share_of_what_training_gains(
    tmp_path: Path, lead: float, outcome: Outcome
) -> None:
    trained = 4 * CLEAR
    effects = {"base": 0.0, "leapalign": trained, "leapalign-three-leaps": trained + lead}
    estimates = ledger(tmp_path, effects, spread=(0.0002, 0.002))
    [found] = judged(estimates, NoGain("leapalign-three-leaps", "leapalign", "hpsv2", 0.1))
    assert found.outcome is outcome
    assert found.effect == pytest.approx(0.1 * trained - lead, abs=0.1 * CLEAR)


def test_a_run_keeps_what_changes_by_less_than_a_share_of_anothers_change(tmp_path: Path) -> None:
    estimates = ledger(tmp_path, {"refl": 0.0, "leapalign": 1.0}, spread=(0.0, 0.0))
    base = estimates.ledger.runs["refl"].of("hpsv2")["score"].mean()
    kept, changed = judged(
        estimates,
        AtMost("refl", ("leapalign",), "hpsv2", 0.5),
        AtMost("leapalign", ("refl",), "hpsv2", 0.5),
    )
    assert kept.effect == pytest.approx(0.5 * (1 + base) - base)
    assert kept.outcome is Outcome.REPLICATED
    assert changed.effect == pytest.approx(0.5 * base - (1 + base))
    assert changed.outcome is Outcome.CONTRADICTED


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Estimates:
    """Three seeds whose training logs differ by known gains."""
    folder = tmp_path_factory.mktemp("logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        Maker(folder).write({"refl": 1.0, "drtune": 2.0, "leapalign": 6.0}, seeds=SEEDS)
    shutil.copy(COMMITTED / "designs.json", folder)
    lengths = [
        {"method": method, "steps": steps, "grad_norm": norm, "saved_mb": saved, "seconds": 1.0}
        for method, norm, saved in (("leapalign", 1.0, 900.0), ("full_backprop", 3.0, 300.0))
        for steps, norm, saved in (
            (5, norm, saved),
            (10, norm * 2, saved * (1.01 if method == "leapalign" else 2)),
            (25, norm, saved * (1.0 if method == "leapalign" else 5)),
        )
    ]
    (folder / "trajectories.json").write_text(json.dumps({"lengths": lengths}))
    return Estimates(Ledger.open(folder))


def test_a_column_of_the_logs_is_ordered_by_its_log_ratios(logs: Estimates) -> None:
    rising, falling = judged(
        logs,
        Ordered(("refl", "drtune", "leapalign"), "grad_norm"),
        Ordered(("refl", "leapalign", "drtune"), "grad_norm"),
    )
    assert rising.unit == "log ratio"
    assert rising.effect == pytest.approx(np.log(4 / 3))  # the smaller of the two steps
    assert rising.outcome is Outcome.REPLICATED
    assert falling.effect == pytest.approx(np.log(4 / 8))
    assert falling.outcome is Outcome.CONTRADICTED


def test_a_curve_is_above_another_where_every_part_of_it_is(logs: Estimates) -> None:
    [found] = judged(logs, Throughout("leapalign", "drtune", "reward"))
    rise = 1 - np.exp(-3 * np.arange(1, 5) / 12)  # the first third of 12 iterations
    assert found.effect == pytest.approx(SPREADS["hpsv2"] * STEP * 4.0 * rise.mean())
    assert found.outcome is Outcome.REPLICATED
    assert "part 1 of 3" in found.measure


def test_facts_need_no_statistics(logs: Estimates) -> None:
    designs = [DesignIs(run) for run in published().properties.rows]
    *drawn, flat, grows, level, bent = judged(
        logs,
        *designs,
        Flat("leapalign", "saved_mb"),
        Grows("full_backprop", "saved_mb"),
        Flat("full_backprop", "saved_mb"),
        Grows("full_backprop", "grad_norm"),
    )
    assert {verdict.outcome for verdict in (*drawn, flat, grows)} == {Outcome.REPLICATED}
    assert {verdict.outcome for verdict in (level, bent)} == {Outcome.CONTRADICTED}
    assert drawn[0].measure == "4 of 4 properties as in Table 1"
    assert flat.effect == pytest.approx(0.01)
    assert level.effect == pytest.approx(4.0)
    assert {verdict.p for verdict in (*drawn, flat, level)} == {None}


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Estimates:
    """Trainings of 12 iterations whose scores rise evenly from the untrained model's to the end."""
    effects = {"base": 0.0, "leapalign": CLEAR, "refl": CLEAR / 4}
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        estimates = ledger(folder, effects, spread=(0.0, 0.0))
    for run in ("leapalign", "refl"):
        for seed in estimates.ledger.runs[run].folders.values():
            scores = pd.read_csv(seed / "scores.csv")
            one = scores[(scores["image_index"] == 0) & (scores["evaluator"] == "hpsv2")]
            snapshots = [
                one.assign(iteration=at, score=one["score"] - effects[run] * (1 - at / 12))
                for at in (4, 8)
            ]
            pd.concat(snapshots).to_csv(seed / "progress.csv", index=False)
    return Estimates(Ledger.open(folder))


def test_progress_is_the_mean_over_snapshots_and_the_end(tracked: Estimates) -> None:
    [found] = judged(tracked, Progress(("leapalign",), ("refl",), "hpsv2"))
    assert found.effect == pytest.approx(0.75 * CLEAR * (4 + 8 + 12) / 12 / 3)
    assert found.outcome is Outcome.REPLICATED


def test_a_run_is_sooner_by_the_training_it_saves(tracked: Estimates) -> None:
    forth, back = judged(
        tracked, Sooner("leapalign", "refl", "hpsv2"), Sooner("refl", "leapalign", "hpsv2")
    )
    assert forth.effect == pytest.approx(0.75)  # a quarter of the rise takes a quarter of the time
    assert back.effect == pytest.approx(-0.75)
    assert (forth.outcome, back.outcome) == (Outcome.REPLICATED, Outcome.CONTRADICTED)


def test_a_scale_that_tells_a_task_apart_is_asked_for_its_runs(tmp_path: Path) -> None:
    test = above("leapalign", "refl", "overall")
    claim = Claim("id", "leapalign", "", "", test, task="compositional")
    own, apart = (tmp_path / name for name in ("own", "apart"))
    for folder, ending in ((own, ""), (apart, "-compositional")):
        (folder / f"leapalign{ending}" / "seed0").mkdir(parents=True)
    assert claim.at(Ledger.open(own)) == test
    assert runs(claim.at(Ledger.open(apart))) == ("leapalign-compositional", "refl-compositional")
