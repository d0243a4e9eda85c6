"""The verdicts on all claims from the committed ledger, and the files that hold them."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from leapalign.errors import UserError
from paper.claims import Verdicts, main, tables
from paper.estimates import Estimates
from paper.kinds import Above, DesignIs, Ordered, Throughout, runs
from paper.ledger import Ledger
from paper.published import published
from paper.statements import claims
from paper.verdict import Outcome, tally
from tests.paper.conftest import ROOT
from tests.paper.factory import Maker

COMMITTED = ROOT / "results" / "ledger" / "pocket"


@pytest.fixture(scope="module")
def committed() -> Verdicts:
    """The verdicts from the committed ledger."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return Verdicts.of(Estimates(Ledger.open(COMMITTED)))


def test_every_claim_whose_runs_are_committed_has_a_verdict(committed: Verdicts) -> None:
    held = Ledger.open(COMMITTED)
    scored = {name: set(run.scores["evaluator"]) for name, run in held.runs.items()}
    seeds = {name: set(run.folders) for name, run in held.runs.items() if run.trained}
    for claim, verdict in zip(claims(), committed.claims, strict=True):
        assert claim.id == verdict.id
        match claim.test:
            case Above(metric=metric):
                evaluator = "geneval" if metric == "overall" else metric
                compared = runs(claim.test)
                there = all(evaluator in scored.get(run, ()) for run in compared)
                shared = [seeds[run] for run in compared if run in seeds]
                there = there and bool(set.intersection(*shared))
            case Throughout() | Ordered():
                there = set(runs(claim.test)) <= set(held.runs)
            case DesignIs():
                there = claim.test.run in held.designs
            case _:
                continue
        assert (verdict.outcome is not Outcome.UNMEASURED) == there, claim.id
        assert (verdict.outcome is Outcome.UNMEASURED) <= bool(verdict.reason), claim.id


def test_counts_are_those_of_the_verdicts(committed: Verdicts) -> None:
    assert set(committed.counts) == set(published().sources)
    assert sum(sum(counts.values()) for counts in committed.counts.values()) == len(claims())
    assert tally(committed.claims)["replicated"] == sum(
        counts["replicated"] for counts in committed.counts.values()
    )


def test_an_outcome_is_what_interval_and_corrected_test_say(committed: Verdicts) -> None:
    for verdict in committed.claims:
        if verdict.p_holm is None:
            continue
        assert verdict.p <= verdict.p_holm <= 1.0
        beyond = verdict.p_holm < committed.level
        assert (verdict.outcome is Outcome.REPLICATED) == (beyond and verdict.low > 0)
        assert (verdict.outcome is Outcome.CONTRADICTED) == (beyond and verdict.high < 0)


def test_they_are_written_and_read_back(committed: Verdicts, tmp_path: Path) -> None:
    committed.write(tmp_path)
    assert Verdicts.read(tmp_path / "claims.json") == committed
    frame = pd.read_csv(tmp_path / "claims.csv").set_index("id")
    assert len(frame) == len(committed.claims)
    [one] = [verdict for verdict in committed.claims if verdict.id == "table-2-hpsv2-refl"]
    assert frame.loc[one.id, "effect"] == one.effect
    assert frame.loc[one.id, "runs"] == "leapalign refl"
    for suffix in ("csv", "md", "tex", "json"):
        text = (tmp_path / f"claims.{suffix}").read_text(encoding="utf-8")
        assert not re.search(r"\b(nan|NaN|None|inf)\b", text), suffix
    assert (tmp_path / "claims.tex").read_text(encoding="utf-8").isascii()
    overview, *parts = tables(committed.claims)
    assert sum(len(part.rows) for part in parts) == len(claims())
    assert sum(int(cell.ours.mean) for row in overview.rows for cell in row.cells) == len(claims())


def test_damaged_verdicts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "claims.json"
    with pytest.raises(UserError, match="no such file"):
        Verdicts.read(path)
    path.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        Verdicts.read(path)


def test_the_command_line_writes_them_and_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Maker(tmp_path / "ledger", prompts=6, images=1).write({"base": 0, "leapalign": 1}, seeds=(0, 1))
    arguments = ["--ledger", str(tmp_path / "ledger"), "--seeds", "0", "--output", str(tmp_path)]
    main(arguments)
    assert {path.suffix for path in tmp_path.glob("claims.*")} == {".csv", ".md", ".tex", ".json"}
    assert re.search(r"leapalign: \d+ replicated", capsys.readouterr().out)
