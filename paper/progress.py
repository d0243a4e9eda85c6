"""How scores went over training: the snapshots of a watched run, beside its beginning and end."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from paper.estimates import Estimates
from paper.style import Metric

Points = dict[int, pd.DataFrame]
"""Iteration → scores in printed units, one image a prompt, for every seed."""


def untrained(estimates: Estimates, runs: Sequence[str]) -> str | None:
    """The first run among these that is the untrained model and has been measured."""
    ledger = estimates.ledger
    return next((run for run in runs if run in ledger.runs and not ledger.runs[run].trained), None)


def points(estimates: Estimates, run: str, base: str | None, metric: Metric) -> Points:
    """A metric over a run's training, on the first image of every prompt.

    Iteration 0 is the untrained `base`; the last is the run's own evaluation. Empty where the run
    was not watched.
    """
    ledger = estimates.ledger
    if ledger.gap(run) or ledger.runs[run].progress.empty:
        return {}
    entry = ledger.runs[run]
    rows = entry.progress[entry.progress["evaluator"] == metric.evaluator]
    watched = metric.printed(rows)
    found = {int(at): rows for at, rows in watched.groupby("iteration")}
    end = _first(estimates.scores(run, metric))
    if end.empty:
        return {}
    end = end[end["seed"].isin(watched["seed"])]  # not every seed need have been watched
    if base is not None:
        beginning = _first(estimates.beside(base, estimates.scores(base, metric), end))
        found = {0: beginning, **found}
    return found | {len(entry.training["iteration"].unique()): end}


def _first(scores: pd.DataFrame) -> pd.DataFrame:
    return scores if scores.empty else scores[scores["image_index"] == 0]
