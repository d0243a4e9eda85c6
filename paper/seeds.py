"""How much trainings that differ in their seed alone differ in their scores."""

from __future__ import annotations

import pandas as pd

from leapalign.experiments import Exhibit
from paper import notes
from paper.estimates import Estimates
from paper.names import run_label
from paper.style import SCORES, Metric
from paper.table import Cell, Column, Interval, Note, Row, Table

SPREAD = "_spread"


def seed_means(scores: pd.DataFrame, metric: Metric) -> pd.Series:
    """The score of every training seed."""
    keys = ["seed", "tag"] if metric.macro else ["seed"]
    return scores.groupby(keys)["score"].mean().groupby("seed").mean()


def seeds_table(name: str, exhibit: Exhibit, estimates: Estimates) -> Table:
    """Per score: the mean over seeds with the lowest and highest seed, and their deviation."""
    measured = [m for m in SCORES if any(estimates.mean(run, m) for run in exhibit.runs)]
    trained_on = notes.rewards(estimates.ledger, exhibit.runs)
    columns = []
    for metric in measured:
        columns += [
            notes.score_column(metric, trained_on),
            Column(f"{metric.key}{SPREAD}", f"{metric.label}, SD", metric.digits + 1),
        ]
    rows = tuple(_row(run, measured, estimates) for run in exhibit.runs)
    about = Note(
        "The mean of the training seeds; in brackets the lowest and the highest of them. SD: their "
        "sample standard deviation, on the same prompts and noise."
    )
    return Table(name, exhibit.title, "Method", tuple(columns), rows, (about,))


def _row(run: str, measured: list[Metric], estimates: Estimates) -> Row:
    cells: list[Cell] = []
    for metric in measured:
        scores = estimates.scores(run, metric)
        cells += [Cell(), Cell()] if scores.empty else _cells(seed_means(scores, metric))
    return Row(run, run_label(run), tuple(cells), estimates.ledger.gap(run))


def _cells(means: pd.Series) -> list[Cell]:
    spread = None if len(means) < 2 else Interval(float(means.std(ddof=1)))
    return [
        Cell(Interval(float(means.mean()), float(means.min()), float(means.max()))),
        Cell(spread),
    ]
