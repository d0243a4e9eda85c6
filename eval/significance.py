r"""Whether a mean difference over training seeds and prompts is more than chance.

The difference d of seed s and prompt p is taken to be random in both, crossed:

.. math:: d_{sp} = \mu + a_s + b_p + e_{sp}.

With S seeds and P prompts, B the variance between the seeds' own means (it holds a and e) and

.. math:: C = \max(0, MS_P - MS_E) / (SP),

the share of b alone from the two-way analysis of variance, the mean has the variance B / S + C.
Its ratio to that is referred to Student's t with Satterthwaite's degrees of freedom: Clark's (1973)
quasi-F for a mean that must hold for new seeds *and* new prompts. Where seeds differ much there are
S - 1 of them, so that three seeds need a difference of 4.3 standard errors. The percentile
bootstrap of `eval.stats` knows no such penalty: with three seeds it shrinks B by a third and takes
what remains for certain, so its interval is too narrow where training varies more than prompts.
Hence the bootstrap is for intervals, as in every table, and verdicts ask this test too. With three
seeds it rejects a true zero in 4 to 9 of 100 cases at a level of 5%, most where seeds and prompts
matter about alike (simulated in the tests).

Scores in groups (GenEval's tasks) are averaged group by group, and C is summed over the groups.
With one seed only prompts are random, and the answer is about that one training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.stats

LEVEL = 0.05
MOST_SEEDS = 1000


@dataclass(frozen=True, slots=True)
class Components:
    """What a mean difference and its uncertainty are made of.

    Args:
        effects: the mean difference of each seed.
        between_seeds: variance of a single seed's mean; None with one seed.
        between_prompts: variance that the choice of prompts gives to the mean, whatever the seeds.
        prompt_freedom: degrees of freedom of that variance.
    """

    effects: tuple[float, ...]
    between_seeds: float | None
    between_prompts: float
    prompt_freedom: int

    @property
    def effect(self) -> float:
        """The mean over seeds."""
        return math.fsum(self.effects) / len(self.effects)

    def p_value(self, seeds: int | None = None) -> float | None:
        """Two-sided, of the hypothesis that the true mean is zero; None where nothing varies twice.

        Args:
            seeds: as if so many seeds had shown the same effect and the same variances.
        """
        seeds = seeds or len(self.effects)
        parts = [(self.between_prompts, self.prompt_freedom)]
        if self.between_seeds is not None:
            parts.append((self.between_seeds / seeds, seeds - 1))
        parts = [(variance, freedom) for variance, freedom in parts if freedom > 0]
        if not parts:
            return None
        variance = math.fsum(part for part, _ in parts)
        if variance == 0.0:
            return 0.0 if self.effect else 1.0
        freedom = variance**2 / math.fsum(part**2 / own for part, own in parts)
        statistic = abs(self.effect) / math.sqrt(variance)
        return float(2 * scipy.stats.t.sf(statistic, freedom))

    def seeds_to_decide(self, level: float = LEVEL) -> int | None:
        """The fewest seeds, more than there are, that would put such an effect beyond chance.

        It is the size at which a true effect as large as the measured one is found as often as
        not; whoever wants to be surer of the outcome takes more. None where `MOST_SEEDS` would not
        do: the effect is about zero, or the prompts are too few. None too with one seed, which says
        nothing of how seeds vary.
        """
        if self.between_seeds is None:
            return None

        def decided(seeds: int) -> bool:
            p = self.p_value(seeds)
            return p is not None and p < level

        low, high = len(self.effects), MOST_SEEDS
        if not decided(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if decided(middle) else (middle, high)
        return high


def components(scores: pd.DataFrame, by: str | None = None) -> Components:
    """Take a table of paired differences apart.

    Args:
        scores: columns seed, prompt_index, score and the groups', as `eval.stats.paired` gives.
        by: the column of the groups whose means are averaged; one group by default.

    Raises:
        ValueError: No prompt has a score for every seed, or a score is not finite.
    """
    groups = [group for _, group in scores.groupby(by)] if by else [scores]
    cells = [_cells(group) for group in groups]
    effects = np.mean([table.mean(axis=1) for table in cells], axis=0)
    shares = [_prompts(table) / len(cells) ** 2 for table in cells]
    return Components(
        effects=tuple(float(effect) for effect in effects),
        between_seeds=float(np.var(effects, ddof=1)) if len(effects) > 1 else None,
        between_prompts=max(0.0, math.fsum(shares)),
        prompt_freedom=sum(table.shape[1] - 1 for table in cells),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjustment: the chance of any false positive stays below the level.

    The k-th smallest of m is multiplied by m - k + 1, and none falls below a smaller one's.
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.asarray(p_values, dtype=float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted.tolist()


def _cells(scores: pd.DataFrame) -> np.ndarray:
    """The mean of each seed's and prompt's images: [seeds, prompts], complete prompts only."""
    keys = [scores["seed"], scores["prompt_index"]]
    table = scores["score"].astype(float).groupby(keys).mean().unstack().dropna(axis="columns")
    if table.empty or not np.isfinite(table.to_numpy()).all():
        raise ValueError("no prompt has a finite score for every seed")
    return table.to_numpy()


def _prompts(table: np.ndarray) -> float:
    """C of one group, not yet kept from below zero."""
    seeds, prompts = table.shape
    if prompts == 1:
        return 0.0
    between = float(np.var(table.mean(axis=0), ddof=1)) / prompts
    if seeds == 1:
        return between
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    error = float((rest**2).sum()) / ((seeds - 1) * (prompts - 1))
    return between - error / (seeds * prompts)
