"""Table 3: every method under several training rewards, each column by the one it trained on."""

from __future__ import annotations

from leapalign.experiments import Exhibit
from paper import notes
from paper.estimates import Estimates
from paper.names import experiments, published_name, run_label
from paper.published import published
from paper.style import BASE, HPSV2, HPSV3, PICKSCORE, REFERENCE, Metric
from paper.table import Cell, Column, Note, Row, Table, interval, number_notes

COLUMNS = (HPSV2, PICKSCORE, HPSV3)
PUBLISHED = "rewards"


def column_runs(metric: Metric, exhibit: Exhibit) -> dict[str, str]:
    """Method → the run trained on this reward; the untrained model is that on their prompts."""
    known = {run: config for run in exhibit.runs if (config := experiments().find(run))}
    trained = {
        published_name(run): run
        for run, config in known.items()
        if config.method and (config.reward or HPSV2.key) == metric.key
    }
    tasks = {known[run].task for run in trained.values()}
    untrained = {config.task: run for run, config in known.items() if config.method is None}
    base = next((run for task, run in untrained.items() if task in tasks), None)
    return ({BASE: base} if base else {}) | trained


def rewards_table(name: str, exhibit: Exhibit, estimates: Estimates) -> Table:
    """A row per method, a column per reward; Δ is to the reference trained on the same reward."""
    columns = {metric: column_runs(metric, exhibit) for metric in COLUMNS}
    methods = dict.fromkeys(method for runs in columns.values() for method in runs)
    remarks = {run: notes.remarks(estimates.ledger, run, run) for run in exhibit.runs}
    numbered = number_notes(text for texts in remarks.values() for text in texts)
    rows = []
    for method in methods:
        runs = [found[method] for found in columns.values() if method in found]
        cells = tuple(_cell(method, metric, columns[metric], estimates) for metric in COLUMNS)
        marks = dict.fromkeys(numbered[text].mark for run in runs for text in remarks[run])
        rows.append(Row(method, run_label(method), cells, None, tuple(marks)))
    heads = tuple(
        Column(m.key, f"{m.label}, trained on it", m.digits, m.published_digits) for m in COLUMNS
    )
    about = [
        "Every column is a training of its own, on the reward that it shows.",
        *notes.about(estimates, exhibit.runs, HPSV2),
        *notes.sources([PUBLISHED]),
    ]
    listed = (*numbered.values(), *map(Note, about))
    return Table(name, exhibit.title, "Method", heads, tuple(rows), listed, ranked=True)


def _cell(method: str, metric: Metric, runs: dict[str, str], estimates: Estimates) -> Cell:
    run, reference = runs.get(method), runs.get(REFERENCE)
    theirs = published().tables[PUBLISHED].get(method, metric.key)
    if run is None or reference is None:
        return Cell(published=theirs)
    difference = interval(estimates.difference(run, reference, metric))
    return Cell(interval(estimates.mean(run, metric)), difference, theirs)
