"""Scores of runs and differences between them, with intervals, from a ledger."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pandas as pd

from eval import stats
from paper.ledger import Ledger
from paper.style import Metric

BOOTSTRAP = stats.Bootstrap(draws=2000)


@dataclass(frozen=True, eq=False)
class Estimates:
    """Estimates from one ledger, each computed once."""

    ledger: Ledger

    @functools.cache  # noqa: B019 - lives as long as the one ledger of a rendering
    def mean(self, run: str, metric: Metric) -> stats.Estimate | None:
        """A run's mean score in printed units; None where it has not been measured."""
        scores = self._scores(run, metric)
        return None if scores.empty else _estimate(scores, metric)

    @functools.cache  # noqa: B019
    def difference(self, run: str, other: str, metric: Metric) -> stats.Estimate | None:
        """The mean of run - other over the seeds, prompts and images that both have."""
        first, second = self._scores(run, metric), self._scores(other, metric)
        if run == other or first.empty or second.empty:
            return None
        first, second = self._beside(run, first, second), self._beside(other, second, first)
        try:
            return _estimate(stats.paired(first, second), metric)
        except ValueError:
            return None  # they share no image

    def _scores(self, run: str, metric: Metric) -> pd.DataFrame:
        if self.ledger.gap(run):
            return pd.DataFrame()
        entry = self.ledger.runs[run]
        scores = entry.of(metric.evaluator)
        if not entry.trained:
            scores = scores[scores["seed"] == scores["seed"].min()]
        if metric.tag is not None:
            scores = scores[scores["tag"] == metric.tag]
        return scores.assign(score=scores["score"] * metric.factor)

    def _beside(self, run: str, scores: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
        """An untrained model's scores, once for every seed that it is compared with."""
        if self.ledger.runs[run].trained:
            return scores
        return stats.for_seeds(scores, sorted(other["seed"].unique()))


def _estimate(scores: pd.DataFrame, metric: Metric) -> stats.Estimate:
    estimate = stats.macro_mean if metric.macro else stats.mean
    return estimate(scores, bootstrap=BOOTSTRAP)
