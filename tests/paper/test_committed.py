"""The committed ledger of the pocket scale, and the README's table of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from leapalign.experiments import load_experiments
from paper import markup, tables
from paper.estimates import Estimates
from paper.ledger import Ledger

ROOT = Path(__file__).parents[2]
COMMITTED = Path("results/ledger/pocket")


@pytest.fixture(scope="module")
def committed() -> Estimates:
    """Estimates from the committed ledger."""
    return Estimates(Ledger.open(ROOT / COMMITTED))


def test_it_holds_every_run_of_the_default_tables_with_three_seeds(committed: Estimates) -> None:
    shown = load_experiments().default.runs
    assert {run: committed.ledger.gap(run) for run in shown} == dict.fromkeys(shown)
    for run in shown:
        assert set(committed.ledger.runs[run].scores["seed"]) >= {0, 1, 2}, run


def test_it_holds_the_design_of_every_method_that_is_shown_one(committed: Estimates) -> None:
    assert set(committed.ledger.designs) == set(load_experiments().of("designs"))


def test_the_readme_shows_what_it_holds(committed: Estimates) -> None:
    table = tables.build("main", load_experiments().tables["main"], committed)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert markup.markdown(table).partition("\n\n")[2].partition("\n\n")[0] in readme
