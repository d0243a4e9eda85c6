"""The kinds of test that a claim can have: what is compared, on which quantity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar, get_args

from pydantic import Field

from paper.style import BASE

Runs = Annotated[tuple[str, ...], Field(min_length=1)]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]


@dataclass(frozen=True, slots=True)
class Above:
    """Every one of some runs scores above every one of others, when trained."""

    kind: ClassVar[str] = "above"
    better: Runs
    worse: Runs
    metric: str


@dataclass(frozen=True, slots=True)
class Progress:
    """The same for the mean score over training, of the tracked snapshots and the end."""

    kind: ClassVar[str] = "progress"
    better: Runs
    worse: Runs
    metric: str


@dataclass(frozen=True, slots=True)
class NoGain:
    """A run does not score above another by more than a share of what training gains.

    Args:
        run: what should gain nothing.
        over: what it is compared with.
        metric: the score.
        margin: the share of `over`'s own lead on the untrained model that counts as nothing.
        base: the untrained model.
    """

    kind: ClassVar[str] = "no_gain"
    run: str
    over: str
    metric: str
    margin: Share
    base: str = BASE


@dataclass(frozen=True, slots=True)
class AtMost:
    """A run's score is at most a share of each of some others'."""

    kind: ClassVar[str] = "at_most"
    run: str
    others: Runs
    metric: str
    share: Share


@dataclass(frozen=True, slots=True)
class Ordered:
    """The mean of a column of the training logs rises from each run to the next."""

    kind: ClassVar[str] = "ordered"
    runs: Annotated[tuple[str, ...], Field(min_length=2)]
    column: str


@dataclass(frozen=True, slots=True)
class Throughout:
    """A column of the training logs is higher in one run than in another, all along.

    Args:
        better: the higher run.
        worse: the lower run.
        column: of the training logs.
        parts: into how many equal parts training is cut.
    """

    kind: ClassVar[str] = "throughout"
    better: str
    worse: str
    column: str
    parts: Annotated[int, Field(ge=1)] = 3


@dataclass(frozen=True, slots=True)
class Sooner:
    """A run reaches the score that another ends with earlier in training than it did.

    Args:
        run: the quicker run.
        other: the slower run.
        metric: the score, of the tracked snapshots.
        base: the untrained model, with which both begin.
    """

    kind: ClassVar[str] = "sooner"
    run: str
    other: str
    metric: str
    base: str = BASE


@dataclass(frozen=True, slots=True)
class DesignIs:
    """A method has the properties that Table 1 gives it, and no other of them."""

    kind: ClassVar[str] = "design"
    run: str


@dataclass(frozen=True, slots=True)
class Flat:
    """A quantity does not depend on the number of steps T.

    Args:
        method: whose trajectories were measured.
        column: the quantity.
        tolerance: by how much its largest value may exceed its smallest, relatively.
    """

    kind: ClassVar[str] = "flat"
    method: str
    column: str
    tolerance: Share = 0.02


@dataclass(frozen=True, slots=True)
class Grows:
    """A quantity rises with the number of steps T, from each to the next."""

    kind: ClassVar[str] = "grows"
    method: str
    column: str


RUN_FIELDS = frozenset(
    {"better", "worse", "run", "runs", "over", "other", "others", "base", "method"}
)
"""The fields of tests that name runs."""

Test = Above | Progress | NoGain | AtMost | Ordered | Throughout | Sooner | DesignIs | Flat | Grows
KINDS: dict[str, type[Test]] = {test.kind: test for test in get_args(Test)}


def runs(test: Test) -> tuple[str, ...]:
    """The runs a test is about."""
    return tuple(run for value in _named(test).values() for run in _several(value))


def renamed(test: Test, names: Mapping[str, str]) -> Test:
    """The same test of other runs."""
    changed: dict[str, Any] = {
        field: tuple(names[run] for run in value) if isinstance(value, tuple) else names[value]
        for field, value in _named(test).items()
    }
    return replace(test, **changed)


def quantity(test: Test) -> str:
    """What is measured: a metric's key, a column of a log, or the designs."""
    match test:
        case Above() | Progress() | NoGain() | AtMost() | Sooner():
            return test.metric
        case Ordered() | Throughout() | Flat() | Grows():
            return test.column
        case DesignIs():
            return "properties"


def _named(test: Test) -> dict[str, str | tuple[str, ...]]:
    """The fields that name runs."""
    return {f.name: getattr(test, f.name) for f in fields(test) if f.name in RUN_FIELDS}


def _several(value: str | tuple[str, ...]) -> tuple[str, ...]:
    return value if isinstance(value, tuple) else (value,)
