"""Builds the tables: our scores with intervals, the paper's beside them.

`python -m paper.tables <name> --ledger <folder> --output <folder>` renders one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from leapalign.config import EXPERIMENTS
from leapalign.errors import UserError, main_guard
from leapalign.experiments import Exhibit
from leapalign.parsing import nearest
from paper import cli, notes
from paper.cost import cost_table
from paper.design import design_space_table, properties_table
from paper.deviations import deviations_table
from paper.estimates import Estimates
from paper.judge import asserted
from paper.ledger import Ledger
from paper.markup import write_all
from paper.names import run_label
from paper.orders import orders
from paper.published import PublishedTable, published
from paper.style import GENEVAL, HPSV2, HPSV3, PICKSCORE, REFERENCE, TASKS, Metric
from paper.table import Cell, Column, Note, Row, Table, interval

SCORES = (HPSV2, PICKSCORE, HPSV3, GENEVAL)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a comparison shows.

    Args:
        metrics: its columns.
        neighbours: the published tables that hold the paper's side.
        ordered: in how many of the first columns the paper's order of methods is compared.
    """

    metrics: tuple[Metric, ...]
    neighbours: tuple[str, ...]
    ordered: int = 0

    def neighbour(self, metric: Metric) -> PublishedTable | None:
        """The first of the published tables that has the metric."""
        tables = (published().tables[name] for name in self.neighbours)
        return next((table for table in tables if metric.key in table.metrics), None)


COMPARISONS = {
    "main": Layout(SCORES, ("general", "compositional"), ordered=4),
    "geneval": Layout((GENEVAL, *TASKS), ("compositional",), ordered=1),
    "ablation_discount": Layout(SCORES, ("discount",)),
    "ablation_early": Layout(SCORES, ()),
    "ablation_weighting": Layout(SCORES, ()),
    "flowbp": Layout(SCORES, ("flowbp_flux",), ordered=2),
    "policy_gradients": Layout(SCORES, ("general", "compositional")),
}

PLAIN: dict[str, Callable[[str, Exhibit, Ledger], Table]] = {
    "properties": properties_table,
    "design_space": design_space_table,
    "cost": cost_table,
    "cost_extended": cost_table,
    "deviations": deviations_table,
}


def names() -> list[str]:
    """The tables that can be built."""
    return [*COMPARISONS, *PLAIN]


def build(name: str, exhibit: Exhibit, estimates: Estimates) -> Table:
    """The table called `name` over the exhibit's runs.

    Raises:
        UserError: There is no such table.
    """
    if name in PLAIN:
        return PLAIN[name](name, exhibit, estimates.ledger)
    if name not in COMPARISONS:
        raise UserError(f"{EXPERIMENTS}: `tables`: no table `{name}`{nearest(name, names())}")
    return _comparison(name, COMPARISONS[name], exhibit, estimates)


def _comparison(name: str, layout: Layout, exhibit: Exhibit, estimates: Estimates) -> Table:
    ledger = estimates.ledger
    footnotes = notes.footnotes(ledger, exhibit.runs)
    columns = tuple(_column(metric, ledger) for metric in layout.metrics)
    rows = tuple(_row(run, layout, estimates, footnotes) for run in exhibit.runs)
    table = Table(name, exhibit.title, "Method", columns, rows, ranked=True)
    texts = [
        *notes.about(estimates, exhibit.runs, layout.metrics[0]),
        *notes.sources(layout.neighbours),
        *(notes.order(found) for found in orders(table, layout.ordered)),
        *(notes.asserted(found) for found in asserted(estimates, exhibit.runs)),
    ]
    trained = [notes.TRAINING_REWARD] if any(column.marks for column in columns) else []
    return replace(table, notes=(*footnotes.listed, *trained, *(Note(text) for text in texts)))


def _column(metric: Metric, ledger: Ledger) -> Column:
    label = f"{metric.label} (%)" if metric.percent else metric.label
    marks = (notes.TRAINING_REWARD.mark,) if metric.evaluator in notes.rewards(ledger) else ()
    return Column(metric.key, label, metric.digits, metric.published_digits, marks)


def _row(run: str, layout: Layout, estimates: Estimates, footnotes: notes.Footnotes) -> Row:
    cells = tuple(_cell(run, metric, layout, estimates) for metric in layout.metrics)
    gap = estimates.ledger.gap(run)
    return Row(run, run_label(run), cells, gap, footnotes.marks.get(run, ()))


def _cell(run: str, metric: Metric, layout: Layout, estimates: Estimates) -> Cell:
    neighbour = layout.neighbour(metric)
    return Cell(
        ours=interval(estimates.mean(run, metric)),
        difference=interval(estimates.difference(run, REFERENCE, metric)),
        published=neighbour.get(run, metric.key) if neighbour else None,
    )


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Render one table from a ledger."""
    request = cli.request("tables", names(), arguments)
    estimates = Estimates(request.ledger)
    write_all(build(request.name, request.exhibit, estimates), request.output)


if __name__ == "__main__":
    main()
