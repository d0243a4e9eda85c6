"""How a table orders its rows, beside the order of the published numbers."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import combinations

from paper.table import Table


@dataclass(frozen=True, slots=True)
class Order:
    """The methods by one column, best first, ours and the paper's, and how many pairs agree."""

    label: str
    ours: tuple[str, ...]
    published: tuple[str, ...]
    agreeing: int
    pairs: int


def orders(table: Table, columns: Collection[str]) -> list[Order]:
    """How each of these columns orders the rows that both we and the paper have."""
    keys = [column.key for column in table.columns]
    found = (_order(table, index) for index, key in enumerate(keys) if key in columns)
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
