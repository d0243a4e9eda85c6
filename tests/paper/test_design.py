"""Tables of what methods are: read from the designs, compared with the paper's Table 1."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from leapalign.design import Design
from leapalign.errors import UserError
from leapalign.experiments import load_experiments
from leapalign.parsing import dump
from paper import markup, tables
from paper.estimates import Estimates
from paper.ledger import Ledger
from paper.table import Table

REFL = Design(
    steps=4,
    reward_on="prediction",
    leaps=("jump",),
    nesting=0.0,
    trained=(0.0, 0.0, 0.4, 0.6),
    active=(1, 1),
    forwards=3.6,
    replays=1.0,
)
LEAPALIGN = Design(
    steps=4,
    reward_on="endpoint",
    leaps=("jump", "jump"),
    nesting=0.3,
    trained=(0.5, 0.5, 0.5, 0.5),
    active=(2, 2),
    forwards=4.0,
    replays=2.0,
)
FULL = replace(LEAPALIGN, leaps=("step",) * 4, nesting=1.0, active=(4, 4), replays=4.0)


def built(name: str, folder: Path, designs: dict[str, Design]) -> Table:
    text = json.dumps({run: dump(design) for run, design in designs.items()})
    (folder / "designs.json").write_text(text)
    exhibit = load_experiments().tables[name]
    return tables.build(name, exhibit, Estimates(Ledger.open(folder, exhibit.runs)))


def words(table: Table) -> dict[str, list[str | None]]:
    return {row.key: [cell.words for cell in row.cells] for row in table.rows if not row.gap}


def test_properties_are_answered_and_compared_with_the_papers(tmp_path: Path) -> None:
    table = built("properties", tmp_path, {"refl": REFL, "leapalign": LEAPALIGN})
    assert words(table) == {"refl": ["no"] * 4, "leapalign": ["yes"] * 4}
    assert table.notes[-1].text == "8 of the 8 entries of the paper's Table 1 are the same."


def test_an_entry_that_differs_from_the_papers_is_named(tmp_path: Path) -> None:
    table = built("properties", tmp_path, {"leapalign": replace(LEAPALIGN, nesting=0.0)})
    assert table.notes[-1].text == (
        "3 of the 4 entries of the paper's Table 1 are the same; "
        "not so: LeapAlign, nested gradient kept."
    )


def test_the_design_space_says_what_is_rewarded_trained_and_paid(tmp_path: Path) -> None:
    designs = {"refl": REFL, "leapalign": LEAPALIGN, "full_backprop": FULL}
    table = built("design_space", tmp_path, designs)
    found = words(table)
    assert found["refl"][:5] == ["prediction", "leap", "1", "2 of 4", "no"]
    assert found["leapalign"][:5] == ["image", "2 leaps", "2", "4 of 4", "0.3"]
    assert found["full_backprop"][1] == "4 steps"
    numbers = {row.key: [cell.ours.mean for cell in row.cells if cell.ours] for row in table.rows}
    assert numbers["refl"] == pytest.approx([1, 1.0, 6.6])
    assert numbers["leapalign"] == pytest.approx([2, 2.0, 10.0])
    assert numbers["full_backprop"] == pytest.approx([4, 4.0, 16.0])


def test_a_method_that_was_not_surveyed_is_a_gap_and_the_rest_renders(tmp_path: Path) -> None:
    table = built("design_space", tmp_path, {"refl": REFL})
    row = next(row for row in table.rows if row.key == "drtune")
    notes = {note.mark: note.text for note in table.notes}
    assert [notes[mark] for mark in row.marks] == [f"No results: {row.gap}."]
    markup.write_all(table, tmp_path)
    assert "prediction" in (tmp_path / "design_space.md").read_text()


def test_a_damaged_file_of_designs_is_named_with_its_key(tmp_path: Path) -> None:
    broken = dump(REFL) | {"reward_on": "noise"}
    (tmp_path / "designs.json").write_text(json.dumps({"refl": broken}))
    with pytest.raises(UserError, match=r"designs\.json: `refl\.reward_on`"):
        _ = Ledger.open(tmp_path).designs
