"""A small ledger that the tests of the paper share."""

from __future__ import annotations

from pathlib import Path

import pytest

from paper.__main__ import main
from paper.estimates import Estimates
from paper.ledger import Ledger
from tests.paper.factory import Maker

ROOT = Path(__file__).parents[2]
GAINS = {
    "base": 0.0,
    "dance_grpo": 0.5,
    "mix_grpo": 0.4,
    "refl": 1.0,
    "draft_lv": 1.5,
    "drtune": 2.0,
    "leapalign": 3.0,
    "leapalign-early-half": 2.5,
    "leapalign-alpha-0": 2.8,
    "leapalign-weight-dj": 3.2,
    "leapalign-weight-none": 2.6,
}
"""Every run of the experiments but one: leapalign-alpha-1 has not been run."""


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings files are named relative to the repository's root."""
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="session")
def ledger_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of two seeds that lacks one run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        return Maker(tmp_path_factory.mktemp("ledger")).write(GAINS, seeds=(0, 1))


@pytest.fixture(scope="session")
def estimates(ledger_folder: Path) -> Estimates:
    """Estimates from that ledger."""
    return Estimates(Ledger.open(ledger_folder))


@pytest.fixture(scope="session")
def rendered(ledger_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That ledger's tables, figures, claims and report."""
    folder = tmp_path_factory.mktemp("rendered")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        main(["--ledger", str(ledger_folder), "--output", str(folder)])
    return folder
