"""Footnotes on numbers that are no training here, or not at the present settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from leapalign.experiments import load_experiments
from paper import tables
from paper.estimates import Estimates
from paper.ledger import Ledger
from paper.origin import origin, own_metrics
from tests.paper.factory import Maker

Edit = Callable[[str, Callable[[dict[str, Any]], object]], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Maker(tmp_path, prompts=6, images=1).write({"base": 0, "refl": 1, "leapalign": 2})


@pytest.fixture
def edit(folder: Path) -> Edit:
    """Edits the provenance of a run."""

    def change(run: str, how: Callable[[dict[str, Any]], object]) -> None:
        path = folder / run / "seed0" / "provenance.json"
        record = json.loads(path.read_text())
        how(record)
        path.write_text(json.dumps(record))

    return change


def test_a_ledger_of_the_present_settings_has_no_remark(folder: Path) -> None:
    ledger = Ledger.open(folder)
    assert [origin(ledger, run) for run in ("base", "refl", "leapalign")] == [[], [], []]


@pytest.mark.parametrize(
    ("keys", "was", "told"),
    [
        (("train", "training", "ema"), 0.5, "train.training.ema = 0.5 against 0.95"),
        (("train", "method", "settings", "last"), 9, "train.method.settings.last = 9 against"),
        (("generate", "evaluation", "steps"), 7, "generate.evaluation.steps = 7 against 25"),
        (("score", "evaluators", "hpsv2"), "old", "score.evaluators.hpsv2 = old against pocket"),
    ],
)
def test_a_ledger_of_other_settings_is_marked_key_by_key(
    folder: Path, edit: Edit, keys: tuple[str, ...], was: object, told: str
) -> None:
    def change(record: dict[str, Any]) -> None:
        stage, *parents, last = keys
        inner = record[stage]["settings"]
        for key in parents:
            inner = inner[key]
        assert inner[last] != was
        inner[last] = was

    edit("refl", change)
    [text] = origin(Ledger.open(folder), "refl")
    assert text.startswith("Measured with other settings than the present ones: ")
    assert told in text
    exhibit = load_experiments().tables["main"]
    table = tables.build("main", exhibit, Estimates(Ledger.open(folder)))
    assert any(text == note.text for note in table.notes)


def test_what_changes_no_result_is_no_other_setting(folder: Path, edit: Edit) -> None:
    def change(record: dict[str, Any]) -> None:
        record["train"]["settings"]["training"].update(micro_batch=3, checkpoint_every=7)
        record["generate"]["settings"]["evaluation"].update(batch=1)

    edit("refl", change)
    assert origin(Ledger.open(folder), "refl") == []


def test_weights_that_were_brought_are_named_with_their_digest(folder: Path, edit: Edit) -> None:
    edit("base", lambda r: r["generate"]["weights"].update({"dance": {"a.safetensors": "cd" * 32}}))
    [text] = origin(Ledger.open(folder), "base")
    assert text == "Weights from dance (SHA-256 cdcdcdcdcdcd…), not trained here."


def test_a_reward_of_ones_own_is_a_score_by_its_class(folder: Path, edit: Edit) -> None:
    assert own_metrics(Ledger.open(folder)) == ()
    edit("refl", lambda r: r["score"]["settings"]["evaluators"].update({"a/b.py:Mine": "c"}))
    assert [metric.label for metric in own_metrics(Ledger.open(folder))] == ["Mine"]


def test_a_cell_without_a_published_number_is_a_dash(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exhibit = load_experiments().tables["main"]
    monkeypatch.setattr("paper.published.PublishedTable.get", lambda *_: None)
    table = tables.build("main", exhibit, Estimates(Ledger.open(folder)))
    assert all(cell.published is None for row in table.rows for cell in row.cells)
