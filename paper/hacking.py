"""Reward hacking: does what was held out from training fall while the training reward rises?

A watched run has scores of its snapshots, on the prompts and noise of the untrained model. From one
snapshot to the next every evaluator is compared on shared images: the alarm is raised where the
training reward rises and a held-out evaluator falls by more than its 95% interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from eval import stats
from leapalign.experiments import Exhibit
from paper import notes, numbers
from paper.estimates import Estimates, estimate
from paper.names import run_label
from paper.progress import points, untrained
from paper.style import SCORES, Metric
from paper.table import Cell, Column, Interval, Note, Row, Table, interval


@dataclass(frozen=True, slots=True)
class Alarm:
    """A held-out evaluator fell while the training reward rose.

    Args:
        run: the run.
        metric: the held-out evaluator's name in the published tables.
        since: the iteration of the snapshot before.
        until: the iteration of the snapshot after.
        reward: the change of the training reward between them.
        change: the held-out evaluator's.
    """

    run: str
    metric: str
    since: int
    until: int
    reward: Interval
    change: Interval


def alarms(estimates: Estimates, run: str, base: str | None) -> list[Alarm]:
    """Every alarm of a run, in the order in which they were raised; none if it was not watched."""
    trained_on = notes.rewards(estimates.ledger, [run])
    reward = {metric for metric in SCORES if metric.evaluator in trained_on}
    if not reward:
        return []
    gains = _changes(estimates, run, base, reward.pop())
    return [
        Alarm(run, metric.key, since, until, gains[since, until], change)
        for metric in SCORES
        if metric.evaluator not in trained_on
        for (since, until), change in _changes(estimates, run, base, metric).items()
        if gains[since, until].mean > 0 and change.high is not None and change.high < 0
    ]


def _changes(
    estimates: Estimates, run: str, base: str | None, metric: Metric
) -> dict[tuple[int, int], Interval]:
    """How a score changed from each snapshot to the next, and from the first to the last."""
    watched = {at: rows for at, rows in points(estimates, run, base, metric).items() if len(rows)}
    steps = [*pairwise(watched), *([(min(watched), max(watched))] if len(watched) > 2 else [])]
    changes = {}
    for since, until in steps:
        paired = stats.paired(watched[until], watched[since])
        changes[since, until] = interval(estimate(paired, macro=metric.macro))
    return changes


def hacking_table(name: str, exhibit: Exhibit, estimates: Estimates) -> Table:
    """What a training did to every evaluator, and its alarms in words."""
    base = untrained(estimates, exhibit.runs)
    runs = [run for run in exhibit.runs if run != base]
    measured = [m for m in SCORES if any(points(estimates, run, base, m) for run in runs)]
    trained_on = notes.rewards(estimates.ledger, runs)
    columns = (
        *(notes.score_column(metric, trained_on) for metric in measured),
        Column("alarms", "Alarms"),
    )
    rows = tuple(_row(run, base, measured, estimates) for run in runs)
    texts = (
        "How each score changed over training, on one image a prompt; in brackets the 95% interval "
        "of the paired difference. An alarm: from one snapshot to a later one the training reward "
        "rose while a held-out evaluator fell by more than its interval.",
    )
    marks = [notes.TRAINING_REWARD] if any(column.marks for column in columns) else []
    return Table(name, exhibit.title, "Method", columns, rows, (*marks, *map(Note, texts)))


def _row(run: str, base: str | None, measured: list[Metric], estimates: Estimates) -> Row:
    gap = estimates.ledger.gap(run)
    cells = [_whole(_changes(estimates, run, base, metric)) for metric in measured]
    found = alarms(estimates, run, base)
    words = "; ".join(_words(alarm) for alarm in found) or "none"
    watched = any(cell.ours for cell in cells)
    return Row(
        run, run_label(run), (*cells, Cell(words=words if watched else numbers.NOTHING)), gap
    )


def _whole(changes: dict[tuple[int, int], Interval]) -> Cell:
    """The change over the whole training."""
    widest = max(changes, key=lambda step: step[1] - step[0], default=None)
    return Cell() if widest is None else Cell(changes[widest])


def _words(alarm: Alarm) -> str:
    metric = next(metric for metric in SCORES if metric.key == alarm.metric)
    change = numbers.difference(alarm.change, metric.digits)
    return f"iterations {alarm.since} to {alarm.until}: {metric.label} {change}"
