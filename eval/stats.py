r"""Means of scores and their bootstrap intervals.

A table of scores has one row per image: `seed` (of the training run), `prompt_index`,
`image_index`, `tag` and `score`. Images of one prompt resemble each other, and so do those of one
trained model, hence both prompts and seeds are resampled, crossed (Owen 2007, "The pigeonhole
bootstrap"): with :math:`S_{sp}` the sum and :math:`N_{sp}` the number of the scores of seed s and
prompt p, and multinomial weights w over prompts and u over seeds, one replicate is

.. math:: \hat\mu^* = \sum_{sp} u_s w_p S_{sp} \Big/ \sum_{sp} u_s w_p N_{sp},

and the interval is the replicates' central 95% (percentile method). With a single seed only
prompts are resampled: the interval then says nothing of how training varies. With n seeds their
variance enters times (n - 1) / n, as in any bootstrap, so three seeds understate it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

PAIR = ["seed", "prompt_index", "image_index"]


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How an interval is made: its confidence, the number of replicates and their random seed."""

    confidence: float = 0.95
    draws: int = 10_000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, its interval (NaN where nothing could be resampled), and what it rests on."""

    mean: float
    low: float
    high: float
    images: int
    prompts: int
    seeds: int


def mean(scores: pd.DataFrame, bootstrap: Bootstrap | None = None) -> Estimate:
    """The mean over images.

    Raises:
        ValueError: There is no score, or one of them is not finite.
    """
    return macro_mean(scores.assign(stratum="all"), by="stratum", bootstrap=bootstrap)


def macro_mean(
    scores: pd.DataFrame, by: str = "tag", bootstrap: Bootstrap | None = None
) -> Estimate:
    """The unweighted mean of the groups' means, as GenEval's overall score is over its tags.

    Prompts are resampled within their group, seeds for all groups together.

    Raises:
        ValueError: There is no score, or one of them is not finite.
    """
    if scores.empty or not np.isfinite(scores["score"].to_numpy(dtype=float)).all():
        raise ValueError("an estimate needs at least one score, and finite ones")
    bootstrap = bootstrap or Bootstrap()
    rng = np.random.default_rng(bootstrap.seed)
    seeds = np.sort(scores["seed"].unique())
    seed_weights = _resampled(len(seeds), bootstrap.draws, rng)
    points, replicates = [], []
    for _, group in scores.groupby(by, sort=True):
        total, count = (
            _cells(group, statistic).reindex(seeds, fill_value=0).to_numpy(dtype=float)
            for statistic in ("sum", "count")
        )
        weights = _resampled(total.shape[1], bootstrap.draws, rng)
        points.append(total.sum() / count.sum())
        replicates.append(_weighted(total, seed_weights, weights, count))
    low, high = _central(np.mean(replicates, axis=0), bootstrap.confidence)
    prompts = scores["prompt_index"].nunique()
    if len(seeds) == prompts == 1:
        low = high = np.nan
    return Estimate(
        mean=float(np.mean(points)),
        low=low,
        high=high,
        images=len(scores),
        prompts=prompts,
        seeds=len(seeds),
    )


def paired(scores: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """The differences `scores - reference` on the seeds, prompts and images that both have.

    Its mean and interval are those of the paired difference: `mean(paired(a, b))`.

    Raises:
        ValueError: Nothing is shared, or an image occurs twice in a table.
    """
    both = scores.merge(reference[[*PAIR, "score"]], on=PAIR, validate="one_to_one")
    if both.empty:
        raise ValueError("the two runs share no seed, prompt and image")
    difference = both["score_x"].astype(float) - both["score_y"].astype(float)
    return both.drop(columns=["score_x", "score_y"]).assign(score=difference)


def for_seeds(scores: pd.DataFrame, seeds: list[int]) -> pd.DataFrame:
    """The untrained model's one set of scores, repeated to stand beside every trained seed's."""
    one = scores[scores["seed"] == scores["seed"].min()]
    return pd.concat([one.assign(seed=seed) for seed in seeds], ignore_index=True)


def by_tag(scores: pd.DataFrame, bootstrap: Bootstrap | None = None) -> dict[str, Estimate]:
    """GenEval's table for one run: the share of correct images per tag, and the overall score."""
    tags = {str(tag): mean(group, bootstrap) for tag, group in scores.groupby("tag", sort=True)}
    return tags | {"overall": macro_mean(scores, bootstrap=bootstrap)}


def _cells(scores: pd.DataFrame, statistic: str) -> pd.DataFrame:
    """A statistic of the scores, one row a seed, one column a prompt."""
    keys = [scores["seed"], scores["prompt_index"]]
    return scores["score"].astype(float).groupby(keys).agg(statistic).unstack(fill_value=0)


def _resampled(size: int, draws: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """How often each of `size` units is drawn, with replacement: [draws, size]."""
    return rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(float)


def _weighted(
    total: NDArray[np.float64],
    seed_weights: NDArray[np.float64],
    weights: NDArray[np.float64],
    count: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The replicates of one group's mean; a resample without any of its images is dropped."""
    numerator = np.einsum("ds,sp,dp->d", seed_weights, total, weights, optimize=True)
    denominator = np.einsum("ds,sp,dp->d", seed_weights, count, weights, optimize=True)
    return np.divide(
        numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0
    )


def _central(replicates: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(replicates, [tail, 1 - tail])
    return float(low), float(high)
