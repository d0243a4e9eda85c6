"""Whether what was published holds in a ledger: each claim against our paired difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations

from paper.estimates import Estimates
from paper.published import Claim, published
from paper.style import BASE, METRICS, REFERENCE
from paper.table import Cell, Column, Interval, Table, interval, negative


class Outcome(Enum):
    """How a measured difference bears on a claim about its sign."""

    REPLICATED = "replicated"
    SAME = "same direction, not resolved"
    OPPOSITE = "opposite direction, not resolved"
    CONTRADICTED = "contradicted"
    UNMEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim, our difference (better - worse), and what follows."""

    claim: Claim
    difference: Interval | None
    digits: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Order:
    """The methods by one column, best first, ours and the paper's, and how many pairs agree."""

    label: str
    ours: tuple[str, ...]
    published: tuple[str, ...]
    agreeing: int
    pairs: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """The reference against one other method on one score: the paper's difference and ours."""

    row: str
    column: str
    published: float
    difference: Interval | None
    digits: int
    outcome: Outcome


def outcome(difference: Interval | None) -> Outcome:
    """The outcome for a claim that the difference is positive."""
    if difference is None:
        return Outcome.UNMEASURED
    if difference.low is not None and difference.low > 0:
        return Outcome.REPLICATED
    if difference.high is not None and difference.high < 0:
        return Outcome.CONTRADICTED
    return Outcome.SAME if difference.mean > 0 else Outcome.OPPOSITE


def verdicts(estimates: Estimates, runs: Sequence[str]) -> list[Verdict]:
    """The published claims whose two runs are both among `runs`."""
    return [
        _verdict(claim, estimates)
        for claim in published().claims
        if {claim.better, claim.worse} <= set(runs)
    ]


def _verdict(claim: Claim, estimates: Estimates) -> Verdict:
    metric = METRICS[claim.metric]
    difference = interval(estimates.difference(claim.better, claim.worse, metric))
    return Verdict(claim, difference, metric.digits, outcome(difference))


def comparisons(table: Table) -> list[Comparison]:
    """Whether the sign of every published difference to the reference holds in ours."""
    reference = next((row for row in table.rows if row.key == REFERENCE), None)
    if reference is None:
        return []
    return [
        _comparison(row.label, column, cell, lead.published - cell.published)
        for row in table.rows
        if row.key not in (REFERENCE, BASE)
        for column, cell, lead in zip(table.columns, row.cells, reference.cells, strict=True)
        if cell.published is not None and lead.published not in (None, cell.published)
    ]


def _comparison(row: str, column: Column, cell: Cell, published: float) -> Comparison:
    ours = None if cell.difference is None else negative(cell.difference)
    aligned = negative(ours) if ours and published < 0 else ours
    return Comparison(row, column.label, published, ours, column.digits, outcome(aligned))


def orders(table: Table, columns: int) -> list[Order]:
    """How each of the first columns orders the rows that both we and the paper have."""
    found = (_order(table, index) for index in range(columns))
    return [order for order in found if order is not None]


def _order(table: Table, index: int) -> Order | None:
    scores = {
        row.label: (cell.ours.mean, cell.published)
        for row in table.rows
        if (cell := row.cells[index]).ours is not None and cell.published is not None
    }
    if len(scores) < 2:
        return None
    ours = sorted(scores, key=lambda name: -scores[name][0])
    theirs = sorted(scores, key=lambda name: -scores[name][1])
    pairs = list(combinations(scores.values(), 2))
    agreeing = sum((a[0] - b[0]) * (a[1] - b[1]) > 0 for a, b in pairs)
    return Order(table.columns[index].label, tuple(ours), tuple(theirs), agreeing, len(pairs))
