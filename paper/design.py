"""What each method does to a trajectory, computed from its Plans: Table 1, and FlowBP's table."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby

from leapalign.design import Design
from leapalign.experiments import Exhibit
from paper import numbers
from paper.estimates import Estimates
from paper.ledger import Ledger
from paper.names import run_label
from paper.published import published
from paper.table import Cell, Column, Interval, Note, Row, Table, number_notes

UNKNOWN = "it draws no Plans, or they have not been surveyed at this scale"
KINDS = {
    "step": ("step", "steps"),
    "euler": ("Euler path", "Euler paths"),
    "jump": ("leap", "leaps"),
    "euler+jump": ("Euler path and leap", "Euler paths and leaps"),
    "quadrature": ("quadrature", "quadratures"),
}
CHOICES: dict[Column, Callable[[Design], Cell]] = {
    Column("reward", "Reward on"): lambda design: Cell(
        words="image" if design.reward_on == "endpoint" else "prediction"
    ),
    Column("trajectory", "Trajectory"): lambda design: Cell(words=_trajectory(design)),
    Column("active", "Active steps"): lambda design: Cell(words=_span(*design.active)),
    Column("reached", "Reached steps"): lambda design: Cell(
        words=f"{design.reached} of {design.steps}"
    ),
    Column("nesting", "Coupling α"): lambda design: Cell(
        words=numbers.setting(design.nesting) if design.nested else "no"
    ),
    Column("chain", "Jacobians"): lambda design: _number(design.chain),
    Column("graphs", "Graphs", digits=1): lambda design: _number(design.replays),
    Column("nfe", "NFE", digits=1): lambda design: _number(design.evaluations),
}


def properties_table(name: str, exhibit: Exhibit, estimates: Estimates) -> Table:
    """Table 1 of the paper: early steps, nested gradient, leaps, several steps."""
    stated = published().properties
    columns = {
        Column(key, label): functools.partial(_has, key) for key, label in stated.columns.items()
    }
    about = (
        "Early steps are those of the noisier half of the path. Predicting the image that is "
        "rewarded counts as no leap."
    )
    texts = [about, *_agreement(exhibit, estimates.ledger)]
    return _table(name, exhibit, estimates.ledger, columns, texts)


def design_space_table(name: str, exhibit: Exhibit, estimates: Estimates) -> Table:
    """FlowBP's design space: reward input, weights, active steps, coupling; and what they cost."""
    texts = (
        "Over many Plans of each method. The reward is taken on the generated image, or on one "
        "predicted from an earlier step. Active steps carry gradient in one Plan, reached steps in "
        "any. Coupling: the share of gradient that crosses into another step's input.",
        "Jacobians: how many the gradient's longest path multiplies. Graphs: how many of the "
        "transformer's an implementation in one graph holds, on average; the backward sweep here "
        "holds 1. NFE counts an image's transformer passes: a forward pass is 1, one with gradient "
        "and its backward pass 3.",
    )
    return _table(name, exhibit, estimates.ledger, CHOICES, texts)


def _table(
    name: str,
    exhibit: Exhibit,
    ledger: Ledger,
    columns: Mapping[Column, Callable[[Design], Cell]],
    texts: Iterable[str],
) -> Table:
    gaps = number_notes(
        [f"No results: {UNKNOWN}."] if set(exhibit.runs) - set(ledger.designs) else []
    )
    marks = tuple(note.mark for note in gaps.values())
    rows = []
    for run in exhibit.runs:
        design = ledger.designs.get(run)
        cells = tuple(find(design) if design else Cell() for find in columns.values())
        gap, marked = (None, ()) if design else (UNKNOWN, marks)
        rows.append(Row(run, run_label(run), cells, gap, marked))
    notes = (*gaps.values(), *(Note(text) for text in texts))
    return Table(name, exhibit.title, "Method", tuple(columns), tuple(rows), notes)


def _agreement(exhibit: Exhibit, ledger: Ledger) -> list[str]:
    """In how many entries our table is the paper's, and in which it is not."""
    stated = published().properties
    entries = {
        (run, key): getattr(ledger.designs[run], key) == (key in stated.rows[run])
        for run in exhibit.runs
        if run in stated.rows and run in ledger.designs
        for key in stated.columns
    }
    if not entries:
        return []
    other = [
        f"{run_label(run)}, {stated.columns[key].lower()}"
        for (run, key), same in entries.items()
        if not same
    ]
    text = (
        f"{sum(entries.values())} of the {len(entries)} entries of the paper's Table 1 are the same"
    )
    return [f"{text}; not so: {'; '.join(other)}." if other else f"{text}."]


def _has(key: str, design: Design) -> Cell:
    return Cell(words=numbers.setting(bool(getattr(design, key))))


def _number(value: float) -> Cell:
    return Cell(ours=Interval(float(value)))


def _trajectory(design: Design) -> str:
    """The leaps in words, like ones together."""
    parts = []
    for kind, group in groupby(design.leaps):
        count = len(list(group))
        one, several = KINDS[kind]
        parts.append(one if count == 1 else f"{count} {several}")
    return ", ".join(parts)


def _span(least: int, most: int) -> str:
    return str(least) if least == most else f"{least}{numbers.NOTHING}{most}"
