"""What the literature asserts and how each assertion is tested, read from `claims.yaml`, checked.

A claim has one test, of one of the kinds in `paper.kinds`. Runs are named as in the experiments
file, metrics as in the published tables.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leapalign.errors import UserError
from leapalign.parsing import nearest, parse, read_yaml
from paper import numbers
from paper.kinds import (
    KINDS,
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
    renamed,
    runs,
)
from paper.ledger import LENGTH_COLUMNS, TRAIN_COLUMNS, Ledger
from paper.names import experiments, run_label
from paper.published import PublishedTable, published
from paper.style import BASE, METRICS

PATH = Path(__file__).with_name("claims.yaml")


@dataclass(frozen=True, slots=True)
class Claim:
    """A published assertion.

    Args:
        id: its name.
        source: the publication's, in `published.yaml`.
        where: the table, figure or equation.
        text: what is asserted, in a sentence.
        test: how.
        published: the difference that the publication's table shows, if it does.
        cell: whether it is a cell of a table, and no assertion in words.
        task: the task it is about, where that is not the general one.
    """

    id: str
    source: str
    where: str
    text: str
    test: Test
    published: float | None = None
    cell: bool = False
    task: str | None = None

    def at(self, ledger: Ledger) -> Test:
        """The test on a ledger's own runs: a scale that tells the task apart has runs for it."""
        ending = f"-{self.task}"
        if self.task is None or not any(name.endswith(ending) for name in ledger.names):
            return self.test
        return renamed(self.test, {run: f"{run}{ending}" for run in runs(self.test)})


@dataclass(frozen=True, slots=True)
class Statement:
    """A claim as the file holds it."""

    source: str
    where: str
    text: str
    test: Mapping[str, Any]
    task: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The claims that a published table makes by itself: how one row stands to the others.

    Args:
        table: in `published.yaml`.
        run: the row.
        others: the rows it is compared with; all others by default.
        metrics: the columns; all by default.
        suffix: of the trained runs' names here.
        base: the untrained model's name here.
        task: the task, where it is not the general one.
    """

    table: str
    run: str
    others: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    suffix: str = ""
    base: str = BASE
    task: str | None = None

    def here(self, row: str) -> str:
        """A published row's run among ours."""
        return self.base if row == BASE else f"{row}{self.suffix}"


@dataclass(frozen=True, slots=True)
class Statements:
    """Everything in `claims.yaml`."""

    tables: Mapping[str, Comparison]
    claims: Mapping[str, Statement]


@functools.cache
def claims(path: Path = PATH) -> tuple[Claim, ...]:
    """All claims: those of whole tables first, cell by cell.

    Raises:
        UserError: The file is missing or not YAML, repeats an id, or a claim lacks a source, or
            names a source, kind of test, run, metric or column that does not exist.
    """
    read = parse(Statements, read_yaml(path), str(path))
    found = [
        claim
        for name, comparison in read.tables.items()
        for claim in _compared(name, comparison, f"{path}: `tables.{name}")
    ]
    found += [_stated(name, claim, path) for name, claim in read.claims.items()]
    for claim in found:
        where = f"{path}: `{'claims' if claim.id in read.claims else 'tables'}.{claim.id}"
        _one_of(claim.source, published().sources, f"{where}.source`: no source")
        _check(claim.test, f"{where}.test")
    ids = [claim.id for claim in found]
    if repeated := sorted({name for name in ids if ids.count(name) > 1}):
        raise UserError(
            f"{path}: `claims.{repeated[0]}`: a cell of a table has that id too; rename it"
        )
    return tuple(found)


def _stated(name: str, claim: Statement, path: Path) -> Claim:
    test = _test(claim, path, name)
    return Claim(
        name, claim.source, claim.where, claim.text, test, _shown(claim, test), task=claim.task
    )


def _shown(claim: Statement, test: Test) -> float | None:
    """The difference of a claim's two runs in the published table of the same place, if any."""
    if not isinstance(test, Above) or len(runs(test)) != 2:
        return None
    for table in published().tables.values():
        if (table.source, table.where) == (claim.source, claim.where):
            high, low = (table.get(run, test.metric) for run in runs(test))
            if high is not None and low is not None:
                return high - low
    return None


def _test(claim: Statement, path: Path, name: str) -> Test:
    where = f"claims.{name}.test"
    given = dict(claim.test)
    if "kind" not in given:
        raise UserError(f"{path}: `{where}` lacks `kind`; valid: {', '.join(sorted(KINDS))}")
    kind = str(given.pop("kind"))
    _one_of(kind, KINDS, f"{path}: `{where}.kind`: no kind of test")
    return parse(KINDS[kind], given, str(path), where)


def _check(test: Test, where: str) -> None:
    """Refuse a test of what does not exist."""
    for run in runs(test):
        _one_of(run, experiments().runs, f"{where}`: no run")
    match test:
        case Above() | Progress() | NoGain() | AtMost() | Sooner():
            _one_of(test.metric, METRICS, f"{where}.metric`: no metric")
        case Ordered() | Throughout():
            _one_of(test.column, TRAIN_COLUMNS, f"{where}.column`: no column")
        case Flat() | Grows():
            _one_of(test.column, LENGTH_COLUMNS, f"{where}.column`: no column")
        case DesignIs():
            _one_of(test.run, published().properties.rows, f"{where}.run`: Table 1 has no row")


def _one_of(name: str, valid: Mapping[str, Any] | list[str], problem: str) -> None:
    if name not in valid:
        raise UserError(f"{problem} `{name}`{nearest(name, valid)}")


def _compared(name: str, comparison: Comparison, where: str) -> Iterator[Claim]:
    """A claim for every cell of a table that differs from the run's own."""
    tables = published().tables
    _one_of(comparison.table, tables, f"{where}.table`: no published table")
    table = tables[comparison.table]
    for run in (comparison.run, *comparison.others):
        _one_of(run, table.rows, f"{where}`: {table.where} has no row")
    for metric in comparison.metrics:
        _one_of(metric, list(table.metrics), f"{where}.metrics`: {table.where} has no metric")
    for other in comparison.others or [row for row in table.rows if row != comparison.run]:
        for metric in comparison.metrics or table.metrics:
            if table.rows[other] != table.rows[comparison.run]:
                yield from _cell(f"{name}-{metric}-{other}", table, comparison, (other, metric))


def _cell(
    name: str, table: PublishedTable, comparison: Comparison, at: tuple[str, str]
) -> Iterator[Claim]:
    other, metric = at
    scores = {run: table.get(run, metric) for run in (comparison.run, other)}
    worse, better = sorted(scores, key=lambda run: scores[run] or 0.0)
    high, low = scores[better], scores[worse]
    if high is None or low is None or high == low:
        return
    first, second = (comparison.here(run) for run in (better, worse))
    digits = METRICS[metric].published_digits
    text = (
        f"{run_label(first)} scores above {run_label(second)} on {METRICS[metric].label} "
        f"({numbers.number(high, digits)} against {numbers.number(low, digits)})."
    )
    test = Above((first,), (second,), metric)
    yield Claim(name, table.source, table.where, text, test, high - low, True, comparison.task)
