"""The report's first page: what was found, in sentences and figures computed from the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paper import numbers
from paper.estimates import Estimates
from paper.names import run_label
from paper.notes import rewards
from paper.published import published
from paper.style import BASE, GENEVAL, HPSV2, HPSV3, PICKSCORE, REFERENCE, Metric
from paper.table import Interval, interval

METRICS = (
    (HPSV2, "general"),
    (PICKSCORE, "general"),
    (HPSV3, "general"),
    (GENEVAL, "compositional"),
)


@dataclass(frozen=True, slots=True)
class Gain:
    """What training did to one score: LeapAlign's difference to the untrained model."""

    label: str
    role: str
    difference: Interval | None
    published: float
    digits: int

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes zero from below."""
        return bool(self.difference and (self.difference.low or 0) > 0)

    @property
    def text(self) -> str:
        """The difference in print."""
        return (
            numbers.signed(self.difference.mean, self.digits) if self.difference else "not measured"
        )

    @property
    def bounds(self) -> str:
        """Its interval in print."""
        return numbers.bounds(self.difference, self.digits, sign=True) if self.difference else ""

    @property
    def neighbour(self) -> str:
        """The paper's difference in print."""
        return numbers.signed(self.published, self.digits)


def gains(estimates: Estimates) -> list[Gain]:
    """LeapAlign against the untrained model, on every score."""
    trained_on = rewards(estimates.ledger, [REFERENCE])
    return [_gain(estimates, metric, table, trained_on) for metric, table in METRICS]


def _gain(estimates: Estimates, metric: Metric, table: str, trained_on: set[str]) -> Gain:
    theirs = published().tables[table]
    role = "training reward" if metric.evaluator in trained_on else "held-out evaluator"
    return Gain(
        metric.label,
        "judge" if metric is GENEVAL else role,
        interval(estimates.difference(REFERENCE, BASE, metric)),
        theirs.rows[REFERENCE][theirs.metrics.index(metric.key)]
        - theirs.rows[BASE][theirs.metrics.index(metric.key)],
        metric.digits,
    )


def headline(found: Sequence[Gain]) -> str:
    """What training did, in one sentence."""
    measured = [gain for gain in found if gain.difference]
    if not measured:
        return f"{run_label(REFERENCE)} and the untrained model have not both been measured yet."
    above = [f"{gain.label} ({gain.role})" for gain in measured if gain.resolved]
    start = f"{run_label(REFERENCE)} scores above the untrained model"
    if not above:
        return f"{start} on none of {len(measured)} scores by more than its 95% interval."
    return (
        f"{start} on {len(above)} of {len(measured)} scores, with a 95% paired interval above "
        f"zero: {_listed(above)}."
    )


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
