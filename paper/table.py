"""What a table is, apart from how it is built and how it is printed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, overload

from eval.stats import Estimate
from leapalign.files import write_text
from leapalign.parsing import dump, parse_file


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its 95% interval; the bounds are None where nothing could be resampled."""

    mean: float
    low: float | None = None
    high: float | None = None


@overload
def interval(estimate: Estimate) -> Interval: ...
@overload
def interval(estimate: None) -> None: ...
def interval(estimate: Estimate | None) -> Interval | None:
    """An estimate without its counts; bounds that are not finite become None."""
    if estimate is None:
        return None
    low, high = (bound if math.isfinite(bound) else None for bound in (estimate.low, estimate.high))
    return Interval(estimate.mean, low, high)


def negative(difference: Interval) -> Interval:
    """The difference the other way round."""
    low, high = (None if bound is None else -bound for bound in (difference.high, difference.low))
    return Interval(-difference.mean, low, high)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run's entry under one column: ours, its difference to the reference, the paper's.

    Words stand where a number would make no sense.
    """

    ours: Interval | None = None
    difference: Interval | None = None
    published: float | None = None
    words: str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Args:
        key: its name in the CSV file.
        label: its printed name.
        digits: decimals of our numbers.
        published_digits: decimals of the paper's.
        marks: footnotes.
        best: whether the highest or the lowest entry leads a ranked table; None where neither.
    """

    key: str
    label: str
    digits: int = 0
    published_digits: int = 0
    marks: tuple[str, ...] = ()
    best: Literal["highest", "lowest"] | None = "highest"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of cells, or a gap with its reason."""

    key: str
    label: str
    cells: tuple[Cell, ...]
    gap: str | None = None
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """A footnote; without a mark it is about the whole table."""

    text: str
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A finished table.

    Args:
        name: its name in the experiments file.
        title: what it shows.
        head: the heading of the first column.
        columns: the columns after the first.
        rows: in printed order.
        notes: printed below it.
        ranked: the best entry of every column stands out.
    """

    name: str
    title: str
    head: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[Note, ...] = ()
    ranked: bool = False

    def best(self, index: int, *, published: bool = False) -> frozenset[str]:
        """The keys of the rows that lead a column, where at least two rows compete."""
        leads = {"highest": max, "lowest": min}.get(self.columns[index].best or "")
        if not self.ranked or leads is None:
            return frozenset()
        scores = {row.key: _score(row.cells[index], published) for row in self.rows}
        known = {key: score for key, score in scores.items() if score is not None}
        if len(known) < 2:
            return frozenset()
        return frozenset(key for key, score in known.items() if score == leads(known.values()))

    def write(self, folder: Path) -> None:
        """Keep the table for the figures and the report that reuse it."""
        text = json.dumps(dump(self), ensure_ascii=False, indent=1, allow_nan=False)
        write_text(folder / f"{self.name}.json", text + "\n")

    @classmethod
    def read(cls, path: Path) -> Table:
        """The table that `write` kept.

        Raises:
            UserError: The file is missing or damaged.
        """
        return parse_file(cls, path, "render that table first")


def number_notes(texts: Iterable[str]) -> dict[str, Note]:
    """Footnotes marked a, b, c … in order of first use, each text once."""
    unique = dict.fromkeys(texts)
    return {text: Note(text, _letter(index)) for index, text in enumerate(unique)}


def _letter(index: int) -> str:
    return (
        chr(ord("a") + index) if index < 26 else f"{_letter(index // 26 - 1)}{_letter(index % 26)}"
    )


def _score(cell: Cell, published: bool) -> float | None:
    if published:
        return cell.published
    return cell.ours.mean if cell.ours else None
