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
from paper.budgets import budgets_table
from paper.cost import GRADIENT, MEMORY, PASSES, cost_cell, cost_table
from paper.design import design_space_table, properties_table
from paper.deviations import deviations_table
from paper.estimates import Estimates
from paper.hacking import hacking_table
from paper.judge import asserted
from paper.markup import write_all
from paper.names import published_name, run_label
from paper.orders import orders
from paper.origin import own_metrics
from paper.published import PublishedTable, published
from paper.rewards import rewards_table
from paper.seeds import seeds_table
from paper.style import GENEVAL, HPSV2, HPSV3, PICKSCORE, PROBES, SCORES, TASKS, Metric
from paper.table import Cell, Column, Note, Row, Table, interval


@dataclass(frozen=True, slots=True)
class Layout:
    """What a comparison shows.

    Args:
        metrics: its columns; those that no run was scored by are left out.
        neighbours: the published tables that hold the paper's side.
        ordered: the columns in which the paper's order of methods is compared.
        costs: further columns, from the training logs.
        ranked: whether the best entry of every column stands out.
    """

    metrics: tuple[Metric, ...]
    neighbours: tuple[str, ...] = ()
    ordered: tuple[Metric, ...] = ()
    costs: tuple[Column, ...] = ()
    ranked: bool = True

    def neighbour(self, metric: Metric) -> PublishedTable | None:
        """The first of the published tables that has the metric."""
        tables = (published().tables[name] for name in self.neighbours)
        return next((table for table in tables if metric.key in table.metrics), None)

    def measured(self, estimates: Estimates, runs: Sequence[str]) -> Layout:
        """With the columns that a run was scored by alone; all where none was.

        Beside the suite's scores stand those of the user's own rewards.
        """
        own = own_metrics(estimates.ledger) if self.metrics is SCORES else ()
        shown = (*self.metrics, *own)
        found = tuple(m for m in shown if any(estimates.mean(run, m) for run in runs))
        return replace(self, metrics=found or self.metrics)


ORDERED = (HPSV2, PICKSCORE, HPSV3, GENEVAL)
COMPARISONS = {
    "main": Layout(SCORES, ("general", "compositional"), ORDERED),
    "geneval": Layout((GENEVAL, *TASKS), ("compositional",), (GENEVAL,)),
    "sd3": Layout(SCORES, ("sd35",), (HPSV2, PICKSCORE, HPSV3)),
    "threshold": Layout(SCORES, ("threshold",), (HPSV2,)),
    "ablation_discount": Layout(SCORES, ("discount",)),
    "ablation_leaps": Layout(SCORES, costs=(MEMORY, PASSES)),
    "ablation_reward_input": Layout(SCORES),
    "ablation_weighting": Layout(SCORES),
    "ablation_early": Layout((GENEVAL, *SCORES[:-1])),
    "ablation_pairs": Layout(SCORES),
    "nested": Layout(SCORES, costs=(GRADIENT,)),
    "flowbp": Layout(SCORES, ("flowbp_flux",), (HPSV2, PICKSCORE)),
    "policy_gradients": Layout(SCORES, ("general", "compositional")),
    "artefacts": Layout(PROBES, ranked=False),
}

PLAIN: dict[str, Callable[[str, Exhibit, Estimates], Table]] = {
    "rewards": rewards_table,
    "budgets": budgets_table,
    "hacking": hacking_table,
    "seeds": seeds_table,
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
        return PLAIN[name](name, exhibit, estimates)
    if name not in COMPARISONS:
        raise UserError(f"{EXPERIMENTS}: `tables`: no table `{name}`{nearest(name, names())}")
    return _comparison(name, COMPARISONS[name], exhibit, estimates)


def _comparison(name: str, layout: Layout, exhibit: Exhibit, estimates: Estimates) -> Table:
    ledger, reference = estimates.ledger, exhibit.reference
    layout = layout.measured(estimates, exhibit.runs)
    footnotes = notes.footnotes(ledger, exhibit.runs, reference)
    trained_on = notes.rewards(ledger, exhibit.runs)
    scored = tuple(notes.score_column(metric, trained_on) for metric in layout.metrics)
    rows = tuple(_row(run, layout, exhibit, estimates, footnotes) for run in exhibit.runs)
    columns = (*scored, *layout.costs)
    table = Table(name, exhibit.title, "Method", columns, rows, ranked=layout.ranked)
    keys = {metric.key for metric in layout.metrics}
    texts = [
        *notes.about(estimates, exhibit.runs, layout.metrics[0], reference),
        *notes.sources(layout.neighbours),
        *(notes.order(found) for found in orders(table, [m.key for m in layout.ordered])),
        *(notes.asserted(found) for found in asserted(estimates, exhibit.runs, keys)),
    ]
    trained = [notes.TRAINING_REWARD] if any(column.marks for column in columns) else []
    return replace(table, notes=(*footnotes.listed, *trained, *(Note(text) for text in texts)))


def _row(
    run: str,
    layout: Layout,
    exhibit: Exhibit,
    estimates: Estimates,
    footnotes: notes.Footnotes,
) -> Row:
    scored = (_cell(run, metric, layout, exhibit, estimates) for metric in layout.metrics)
    costs = (cost_cell(estimates.ledger, run, column.key) for column in layout.costs)
    gap = estimates.ledger.gap(run)
    return Row(run, run_label(run), (*scored, *costs), gap, footnotes.marks.get(run, ()))


def _cell(run: str, metric: Metric, layout: Layout, exhibit: Exhibit, estimates: Estimates) -> Cell:
    neighbour = layout.neighbour(metric)
    return Cell(
        ours=interval(estimates.mean(run, metric)),
        difference=interval(estimates.difference(run, exhibit.reference, metric)),
        published=neighbour.get(published_name(run), metric.key) if neighbour else None,
    )


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Render one table from a ledger."""
    request = cli.request("tables", names(), arguments)
    estimates = Estimates(request.ledger)
    write_all(build(request.name, request.exhibit, estimates), request.output)


if __name__ == "__main__":
    main()
