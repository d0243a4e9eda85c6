"""Scores of runs and differences between them, with intervals, from a ledger."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from eval import stats
from paper.ledger import Ledger, Run
from paper.style import Metric

BOOTSTRAP = stats.Bootstrap(draws=2000)
When = Literal["end", "training"]


@dataclass(frozen=True, eq=False)
class Estimates:
    """Estimates from one ledger, each computed once."""

    ledger: Ledger

    @functools.cache  # noqa: B019 - lives as long as the one ledger of a rendering
    def mean(self, run: str, metric: Metric) -> stats.Estimate | None:
        """A run's mean score in printed units; None where it has not been measured."""
        scores = self.scores(run, metric)
        return None if scores.empty else estimate(scores, macro=metric.macro)

    @functools.cache  # noqa: B019
    def difference(self, run: str, other: str, metric: Metric) -> stats.Estimate | None:
        """The mean of run - other over the seeds, prompts and images that both have."""
        if run == other:
            return None
        differences = self.paired(run, other, metric)
        return None if differences.empty else estimate(differences, macro=metric.macro)

    def paired(self, run: str, other: str, metric: Metric, when: When = "end") -> pd.DataFrame:
        """The differences run - other, image by image; empty where they share none.

        Args:
            run: the run.
            other: what is subtracted.
            metric: the score, in printed units.
            when: at the end of training, or on average over its tracked snapshots and its end.
        """
        first, second = self.scores(run, metric, when), self.scores(other, metric, when)
        if first.empty or second.empty:
            return pd.DataFrame()
        first, second = self.beside(run, first, second), self.beside(other, second, first)
        try:
            return stats.paired(first, second)
        except ValueError:
            return pd.DataFrame()  # they share no image

    @functools.cache  # noqa: B019
    def scores(self, run: str, metric: Metric, when: When = "end") -> pd.DataFrame:
        """A run's scores in printed units, image by image; empty where it has none."""
        if self.ledger.gap(run):
            return pd.DataFrame()
        entry = self.ledger.runs[run]
        scores = entry.of(metric.evaluator) if when == "end" else _over_training(entry, metric)
        if scores.empty:
            return scores
        if not entry.trained:
            scores = scores[scores["seed"] == scores["seed"].min()]
        return metric.printed(scores)

    def beside(self, run: str, scores: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
        """An untrained model's scores, once for every seed that it is compared with."""
        if self.ledger.runs[run].trained:
            return scores
        return stats.for_seeds(scores, sorted(other["seed"].unique()))


def _over_training(run: Run, metric: Metric) -> pd.DataFrame:
    """Every tracked image's mean score over the snapshots and the end; empty if not tracked."""
    if run.progress.empty:
        return pd.DataFrame()
    within = run.progress[run.progress["evaluator"] == metric.evaluator]
    keys = [*stats.PAIR, "tag"]
    end = run.of(metric.evaluator).merge(within[keys].drop_duplicates(), on=keys)
    both = pd.concat([within, end], ignore_index=True)
    return both.groupby(keys, as_index=False)["score"].mean()


def estimate(scores: pd.DataFrame, *, macro: bool) -> stats.Estimate:
    """The mean over images, or over the tags' means, with the interval that every exhibit has."""
    return (stats.macro_mean if macro else stats.mean)(scores, bootstrap=BOOTSTRAP)
