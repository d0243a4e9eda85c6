"""What a ledger holds for the test of a claim: differences whose mean the claim says is positive.

A score's differences stand image by image, so that prompts, noise and seeds are shared. Of a
training log only the seeds are independent, so it gives one difference a seed. A claim about
several pairs is as strong as its weakest: it holds where each of them holds.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from eval import stats
from paper import numbers
from paper.estimates import Estimates, When
from paper.kinds import (
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
    runs,
)
from paper.ledger import Ledger
from paper.names import run_label
from paper.progress import points
from paper.published import published
from paper.style import METRICS, Metric

LOG_RATIO = "log ratio"


@dataclass(frozen=True, eq=False)
class Part:
    """Differences that should be positive.

    Args:
        measure: what they are differences of, in words.
        scores: columns of `eval.stats.PAIR`, `tag` and `score`.
        macro: average the tags' means instead of the images.
    """

    measure: str
    scores: pd.DataFrame
    macro: bool = False


@dataclass(frozen=True, eq=False)
class Sample:
    """What a statistical test is made on: every part should be positive.

    Args:
        parts: the differences, pair by pair.
        unit: theirs.
        digits: decimals they deserve.
    """

    parts: tuple[Part, ...]
    unit: str
    digits: int


@dataclass(frozen=True, slots=True)
class Fact:
    """What needs no statistics: whether the claim holds, and in words what was found."""

    holds: bool
    measure: str
    effect: float | None = None
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """Why a claim cannot be tested here, in a sentence."""

    reason: str


Evidence = Sample | Fact | Gap


@functools.singledispatch
def gather(test: Test, estimates: Estimates) -> Evidence:
    """The evidence for one test."""
    raise NotImplementedError(f"no evidence is gathered for {type(test).__name__}")


@gather.register
def _(test: Above, estimates: Estimates) -> Evidence:
    return _pairs(test, estimates, "end")


@gather.register
def _(test: Progress, estimates: Estimates) -> Evidence:
    return _pairs(test, estimates, "training")


@gather.register
def _(test: NoGain, estimates: Estimates) -> Evidence:
    metric = METRICS[test.metric]
    gained = estimates.paired(test.over, test.base, metric)
    lead = estimates.paired(test.run, test.over, metric)
    if gained.empty or lead.empty:
        return _unscored(runs(test), metric, estimates)
    allowed = gained.assign(score=test.margin * gained["score"])
    measure = (
        f"{numbers.percent(test.margin)} of {run_label(test.over)}'s gain on {metric.label}, less "
        f"what {run_label(test.run)} gains on top"
    )
    part = Part(measure, stats.paired(allowed, lead), metric.macro)
    return Sample((part,), metric.label, metric.digits)


@gather.register
def _(test: AtMost, estimates: Estimates) -> Evidence:
    metric = METRICS[test.metric]
    parts = []
    for other in test.others:
        difference = estimates.paired(other, test.run, metric)
        if difference.empty:
            return _unscored((test.run, other), metric, estimates)
        # share * other - run = (other - run) - (1 - share) * other
        scores = estimates.scores(other, metric)
        rest = scores.assign(score=(1.0 - test.share) * scores["score"])
        measure = (
            f"{numbers.percent(test.share)} of {metric.label} of {run_label(other)}, less that of "
            f"{run_label(test.run)}"
        )
        parts.append(Part(measure, stats.paired(difference, rest), metric.macro))
    return Sample(tuple(parts), metric.label, metric.digits)


@gather.register
def _(test: Ordered, estimates: Estimates) -> Evidence:
    if gap := _unlogged(test.runs, estimates.ledger):
        return gap
    levels = [_logs(run, test.column, estimates).mean() for run in test.runs]
    if any((level <= 0).any() for level in levels):
        return Gap(f"A {test.column} of zero has no ratio.")
    steps = zip(test.runs, levels, test.runs[1:], levels[1:], strict=False)
    parts = tuple(
        Part(
            f"{test.column}: {LOG_RATIO} of {run_label(higher)} to {run_label(lower)}",
            _by_seed(np.log(more) - np.log(less)),
        )
        for lower, less, higher, more in steps
    )
    return _seeded(parts, LOG_RATIO)


@gather.register
def _(test: Throughout, estimates: Estimates) -> Evidence:
    if gap := _unlogged((test.better, test.worse), estimates.ledger):
        return gap
    better, worse = (_logs(run, test.column, estimates) for run in (test.better, test.worse))
    difference = (better - worse).dropna(axis="columns", how="all").dropna()
    lines = np.array_split(np.arange(len(difference)), test.parts)
    parts = tuple(
        Part(
            f"{test.column}: {run_label(test.better)} − {run_label(test.worse)}, "
            f"part {number} of {test.parts} of training",
            _by_seed(difference.iloc[chosen].mean()),
        )
        for number, chosen in enumerate(lines, start=1)
    )
    return _seeded(parts, test.column)


@gather.register
def _(test: Sooner, estimates: Estimates) -> Evidence:
    metric = METRICS[test.metric]
    own, other = (_curve(run, test.base, metric, estimates) for run in (test.run, test.other))
    if own.empty or other.empty:
        return _unscored(runs(test), metric, estimates, "training")
    seeds = own.columns.intersection(other.columns)
    saved = pd.Series({seed: _saved(own[seed], other[seed]) for seed in seeds})
    measure = (
        f"share of training that {run_label(test.run)} saves to reach the {metric.label} that "
        f"{run_label(test.other)} ends with"
    )
    return _seeded((Part(measure, _by_seed(saved)),), "share")


@gather.register
def _(test: DesignIs, estimates: Estimates) -> Evidence:
    design = estimates.ledger.designs.get(test.run)
    if design is None:
        return Gap(f"The Plans of {run_label(test.run)} have not been surveyed at this scale.")
    stated = published().properties
    found = {key for key in stated.columns if getattr(design, key)}
    other = [stated.columns[key] for key in sorted(found ^ set(stated.rows[test.run]))]
    count = len(stated.columns)
    measure = f"{count - len(other)} of {count} properties as in Table 1"
    return Fact(not other, f"{measure}; not so: {', '.join(other)}" if other else measure)


@gather.register
def _(test: Flat, estimates: Estimates) -> Evidence:
    return _along(test.method, test.column, estimates.ledger, flat_within=test.tolerance)


@gather.register
def _(test: Grows, estimates: Estimates) -> Evidence:
    return _along(test.method, test.column, estimates.ledger)


def _pairs(test: Above | Progress, estimates: Estimates, when: When) -> Evidence:
    metric = METRICS[test.metric]
    parts = []
    for better in test.better:
        for worse in test.worse:
            scores = estimates.paired(better, worse, metric, when)
            if scores.empty:
                return _unscored((better, worse), metric, estimates, when)
            over = ", mean over training" if when == "training" else ""
            measure = f"{metric.label}{over}: {run_label(better)} − {run_label(worse)}"
            parts.append(Part(measure, scores, metric.macro))
    return Sample(tuple(parts), metric.label, metric.digits)


def _unscored(
    names: Iterable[str], metric: Metric, estimates: Estimates, when: When = "end"
) -> Gap:
    """Why runs have no differences."""
    for run in names:
        if reason := estimates.ledger.gap(run):
            return _missing(run, reason)
        if estimates.scores(run, metric, when).empty:
            over = " over training" if when == "training" else ""
            return Gap(f"{metric.label} of {run_label(run)} was not measured{over}.")
    return Gap("The runs share no seed, prompt and image.")


def _missing(run: str, reason: str) -> Gap:
    return Gap(f"No results of {run_label(run)}: {reason}.")


def _unlogged(names: Iterable[str], ledger: Ledger) -> Gap | None:
    """Why runs cannot be compared by their training logs."""
    seeds = []
    for run in names:
        if reason := ledger.gap(run):
            return _missing(run, reason)
        if ledger.runs[run].training.empty:
            return _missing(run, "its ledger lacks train.csv")
        seeds.append(set(ledger.runs[run].training["seed"]))
    return None if set.intersection(*seeds) else Gap("The runs share no seed.")


def _logs(run: str, column: str, estimates: Estimates) -> pd.DataFrame:
    """A column of the training logs: an iteration a row, a seed a column."""
    log = estimates.ledger.runs[run].training
    return log.pivot(index="iteration", columns="seed", values=column)


def _curve(run: str, base: str, metric: Metric, estimates: Estimates) -> pd.DataFrame:
    """The mean score of the test prompts over training: an iteration a row, a seed a column.

    Unlike a training log's, these prompts are the same throughout, and a rise is training's own.
    """
    if estimates.ledger.gap(base):
        return pd.DataFrame()
    found = points(estimates, run, base, metric)
    return pd.DataFrame({at: rows.groupby("seed")["score"].mean() for at, rows in found.items()}).T


def _saved(own: pd.Series, other: pd.Series) -> float:
    """The share of training that one run saves to reach the other's end; negative: the reverse."""
    if own.iloc[-1] >= other.iloc[-1]:
        return 1.0 - _reached(own, float(other.iloc[-1]))
    return _reached(other, float(own.iloc[-1])) - 1.0


def _reached(score: pd.Series, goal: float) -> float:
    """After which share of training the score, between snapshots a line, first reaches a goal.

    Args:
        score: by iteration; its last is no less than the goal.
        goal: the score to be reached.
    """
    at, values = score.index.to_numpy(dtype=float), score.to_numpy(dtype=float)
    first = int(np.argmax(values >= goal))
    if first == 0:
        return float(at[0] / at[-1])
    rise = (goal - values[first - 1]) / (values[first] - values[first - 1])
    return float((at[first - 1] + rise * (at[first] - at[first - 1])) / at[-1])


def _by_seed(values: pd.Series) -> pd.DataFrame:
    """One difference a seed, in the form of scores."""
    values = values.dropna()
    return pd.DataFrame({
        "seed": values.index, "prompt_index": 0, "image_index": 0, "tag": "", "score": values,
    }).reset_index(drop=True)  # fmt: skip


def _seeded(parts: Sequence[Part], unit: str) -> Evidence:
    if any(part.scores.empty for part in parts):
        return Gap("The runs share no seed.")
    return Sample(tuple(parts), unit, max(_digits(part.scores["score"]) for part in parts))


def _digits(differences: pd.Series) -> int:
    """Decimals that show three digits of the largest difference."""
    largest = float(differences.abs().max())
    return max(0, 2 - int(np.floor(np.log10(largest)))) if largest > 0 else 0


def _along(method: str, column: str, ledger: Ledger, flat_within: float | None = None) -> Evidence:
    """How a quantity changes with the number of steps."""
    table = ledger.lengths[ledger.lengths["method"] == method].sort_values("steps")
    if len(table) < 2:
        return Gap(f"{run_label(method)} was not measured at several numbers of steps.")
    values = table[column].to_numpy(dtype=float)
    ratio = float(values.max() / values.min()) if values.min() > 0 else np.inf
    holds = bool((np.diff(values) > 0).all()) if flat_within is None else ratio - 1 <= flat_within
    steps = table["steps"]
    measure = f"{column}: largest over smallest, less 1, for T from {steps.min()} to {steps.max()}"
    return Fact(holds, measure, ratio - 1.0 if np.isfinite(ratio) else None, "ratio - 1")
