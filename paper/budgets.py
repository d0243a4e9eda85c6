"""Methods at equal images, equal seconds and equal forward-equivalents.

The budget of each comparison is what the most frugal method had spent at its end. Every other
method is taken at the iteration where it had spent as much: its training reward from its log, its
held-out scores between the snapshots on either side, by linear interpolation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from leapalign.experiments import Exhibit
from paper import notes
from paper.curves import smoothed
from paper.estimates import Estimates
from paper.names import run_label
from paper.progress import points, untrained
from paper.seeds import seed_means
from paper.style import GENEVAL, Metric
from paper.table import Cell, Column, Interval, Note, Row, Table

BUDGETS = {"images": "images", "seconds": "seconds", "nfe": "NFE"}


def spent(log: pd.DataFrame, budget: str) -> pd.DataFrame:
    """What every seed had spent after each iteration: a column a seed."""
    return log.pivot(index="iteration", columns="seed", values=budget)


def budgets_table(name: str, exhibit: Exhibit, estimates: Estimates) -> Table:
    """Per budget: the iterations that it pays for, the training reward and GenEval's score then."""
    ledger = estimates.ledger
    logs = {run: ledger.runs[run].training for run in exhibit.runs if ledger.gap(run) is None}
    logs = {run: log for run, log in logs.items() if not log.empty}
    base = untrained(estimates, list(ledger.runs))
    columns: list[Column] = []
    cells: dict[str, list[Cell]] = {run: [] for run in exhibit.runs}
    for budget, label in BUDGETS.items():
        least = min((spent(log, budget).max().min() for log in logs.values()), default=0.0)
        columns += [
            Column(f"{budget}_iterations", f"Iterations at {least:,.0f} {label}", best=None),
            Column(f"{budget}_reward", f"Training reward at equal {label}", 4),
            Column(f"{budget}_geneval", f"GenEval at equal {label}", 4),
        ]
        for run in exhibit.runs:
            log = logs.get(run)
            cells[run] += (
                [Cell()] * 3
                if log is None
                else _cells(log, budget, least, points(estimates, run, base, GENEVAL))
            )
    rows = tuple(
        Row(run, run_label(run), tuple(cells[run]), ledger.gap(run)) for run in exhibit.runs
    )
    footnotes = notes.footnotes(ledger, exhibit.runs)
    about = Note(
        "The budget is what the most frugal run had spent at its end; every other run is taken "
        "where it had spent as much. NFE counts transformer passes: a forward pass is 1, one with "
        "gradient and its backward pass 3. The training reward is a moving average. GenEval on one "
        "image a prompt, interpolated between snapshots. In brackets the lowest and highest seed."
    )
    return Table(
        name, exhibit.title, "Method", tuple(columns), rows, (*footnotes.listed, about), ranked=True
    )


def _cells(
    log: pd.DataFrame, budget: str, least: float, watched: dict[int, pd.DataFrame]
) -> list[Cell]:
    paid = spent(log, budget)
    ends = {seed: int((paid[seed] <= least * (1 + 1e-9)).sum()) for seed in paid}
    reward = smoothed(log.pivot(index="iteration", columns="seed", values="reward"))
    rewards = [float(reward[seed].iloc[max(end - 1, 0)]) for seed, end in ends.items()]
    return [_span(list(ends.values())), _span(rewards), _span(_between(watched, ends, GENEVAL))]


def _between(watched: dict[int, pd.DataFrame], ends: dict[int, int], metric: Metric) -> list[float]:
    """Each seed's score at the iteration where its budget ends."""
    if not watched:
        return []
    means = pd.DataFrame({at: seed_means(rows, metric) for at, rows in watched.items()})
    return [
        float(np.interp(end, means.columns, means.loc[seed]))
        for seed, end in ends.items()
        if seed in means.index
    ]


def _span(values: Sequence[float]) -> Cell:
    """The mean with the lowest and highest seed."""
    if not values:
        return Cell()
    bounds = (min(values), max(values)) if len(values) > 1 else (None, None)
    return Cell(Interval(float(np.mean(values)), *bounds))
