"""What a verdict on a claim is, apart from how it is reached and where it is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from paper import numbers
from paper.table import Interval


class Outcome(Enum):
    """How the measurements bear on a claim."""

    REPLICATED = "replicated"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    UNMEASURED = "not measured"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim, what was measured, and what follows.

    Args:
        id: the claim's.
        source: the publication that claims it, as in `published.yaml`.
        where: the table, figure or equation.
        text: the claim in a sentence.
        kind: the kind of test.
        runs: the runs it is about.
        metric: the score, column of a log, or property that is looked at.
        outcome: what follows.
        measure: what the effect is a mean of; of several pairs, the one that speaks least for it.
        effect: the mean, positive where the claim holds; None where it is no number.
        low: lower bound of its 95% interval; None where there is none.
        high: upper bound.
        unit: the effect's.
        digits: decimals it deserves.
        p: two-sided p-value; None where there is no test.
        p_holm: the same, corrected for all tests of the publication's claims.
        family: how many tests those are.
        seeds: the training seeds it rests on.
        per_seed: each seed's own effect.
        seeds_to_decide: how many seeds would decide an undecided claim; None where more than
            `MOST_SEEDS`, or unknown.
        published: the publication's own difference, where its table shows one.
        reason: why it is not measured, or undecided; what else to know.
    """

    id: str
    source: str
    where: str
    text: str
    kind: str
    runs: tuple[str, ...]
    metric: str
    outcome: Outcome
    measure: str = ""
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    digits: int = 0
    p: float | None = None
    p_holm: float | None = None
    family: int = 0
    seeds: tuple[int, ...] = ()
    per_seed: tuple[float, ...] = ()
    seeds_to_decide: int | None = None
    published: float | None = None
    reason: str = ""

    @property
    def interval(self) -> Interval | None:
        """The effect with its bounds."""
        return None if self.effect is None else Interval(self.effect, self.low, self.high)

    @property
    def found(self) -> str:
        """The effect in print, with its bounds."""
        return numbers.difference(self.interval, self.digits) if self.interval else ""

    @property
    def sentence(self) -> str:
        """All of it in words."""
        corrected = f"{numbers.p_value(self.p_holm)} after Holm" if self.p_holm is not None else ""
        details = "; ".join(filter(None, (f"{self.measure} {self.found}".strip(), corrected)))
        head = f"{self.where}: {self.text} {self.outcome.value.capitalize()}"
        return f"{head} ({details}). {self.reason}" if details else f"{head}. {self.reason}"


def tally(found: Iterable[Verdict]) -> dict[str, int]:
    """How many verdicts came out how, every outcome named."""
    counts = Counter(verdict.outcome for verdict in found)
    return {outcome.value: counts[outcome] for outcome in Outcome}
