"""Renders the report: one HTML file that holds its images and opens from disk.

`python -m paper.report --ledger <folder> --rendered <folder>` reads the rendered tables and figures
in `<folder>/tables` and `<folder>/figures` and writes `<folder>/report/index.html` and, for print,
`<folder>/report/paper.tex`. What has not been rendered is shown as a gap.
"""

from __future__ import annotations

import argparse
import base64
import functools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from eval.significance import MOST_SEEDS
from leapalign.errors import UserError, main_guard
from leapalign.experiments import Experiments
from leapalign.files import write_text
from paper import cli, latex, markup, numbers
from paper.boards import Board, board
from paper.claims import Verdicts
from paper.drawing import Drawing, inline
from paper.estimates import Estimates
from paper.history import History, history
from paper.ledger import Ledger
from paper.names import experiments_of, run_label
from paper.published import published
from paper.sections import chapters
from paper.style import METRICS, REFERENCE, run_style
from paper.summary import gains, headline
from paper.table import Column, Row, Table
from paper.verdict import Outcome, Verdict

TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Rendered:
    """A folder with the tables and figures of one ledger."""

    folder: Path
    experiments: Experiments

    @functools.cached_property
    def tables(self) -> dict[str, Table]:
        """The tables by name, those that have been rendered."""
        paths = {n: self.folder / "tables" / f"{n}.json" for n in self.experiments.tables}
        return {name: Table.read(path) for name, path in paths.items() if path.is_file()}

    @functools.cached_property
    def figures(self) -> dict[str, Drawing]:
        """The figures by name, those that have been rendered."""
        exhibits = self.experiments.figures
        paths = {name: self.folder / "figures" / f"{name}.svg" for name in exhibits}
        return {
            name: inline(path.read_text(encoding="utf-8"), name, exhibits[name].title)
            for name, path in paths.items()
            if path.is_file()
        }

    @functools.cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The verdicts on the claims; none where they have not been written."""
        path = self.folder / "claims" / "claims.json"
        return Verdicts.read(path).claims if path.is_file() else ()


def render(estimates: Estimates, rendered: Rendered) -> str:
    """The report's HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_typeset,
    )
    environment.filters |= {"duration": numbers.duration, "claimed_in": _claimed_in}
    return environment.get_template("page.html.j2").render(_context(estimates, rendered))


def _context(estimates: Estimates, rendered: Rendered) -> Mapping[str, Any]:
    ledger, experiments = estimates.ledger, rendered.experiments
    found = gains(estimates)
    counted = Counter(verdict.outcome for verdict in rendered.verdicts)
    origins = history(ledger)
    return {
        "css": _source("report.css"),
        "script": _source("report.js"),
        "scale": ledger.scale,
        "source": published().sources["leapalign"],
        "reference": REFERENCE,
        "gains": found,
        "headline": headline(found),
        "verdicts": rendered.verdicts,
        "counts": {outcome: counted[outcome] for outcome in Outcome},
        "most_seeds": MOST_SEEDS,
        "chapters": chapters(experiments),
        "experiments": experiments,
        "tables": rendered.tables,
        "figures": rendered.figures,
        "boards": _boards(ledger, experiments),
        "history": origins,
        "unrun": [run for run in experiments.runs if run not in {**ledger.runs, **ledger.gaps}],
        "missing_runs": lambda exhibit: [
            run_label(run) for run in exhibit.runs if exhibit.reads == "ledger" and ledger.gap(run)
        ],
        "names": Markup(_names(experiments, origins)),
        "rests": functools.partial(_rests, ledger),
        "wordy": _wordy,
        "bases": _bases,
        "csv": functools.partial(_download, rendered.folder),
        "numbers": numbers,
        "label": run_label,
        "color": lambda run: run_style(run).color,
    }


def _claimed_in(verdict: Verdict) -> str:
    """Where a claim stands: in the replicated paper, or in another publication."""
    source = published().sources[verdict.source]
    where = verdict.where
    return where if source == published().sources["leapalign"] else f"{source.title}, {where}"


def _boards(ledger: Ledger, experiments: Experiments) -> dict[str, Board]:
    """The boards of images, by the names of the figures that show them."""
    kinds = {"grid": "samples", "enlarged": "enlarged"}
    return {
        name: board(ledger, exhibit.runs, kinds[name.partition("_")[0]])
        for name, exhibit in experiments.figures.items()
        if name.partition("_")[0] in kinds
    }


def _names(experiments: Experiments, origins: History) -> str:
    """What the page's script says of a run: its label, and where its numbers come from; JSON."""
    known = {
        run: {"label": run_label(run)} | (asdict(found) if found else {})
        for run in experiments.runs
        for found in [origins.origins.get(run)]
    }
    return json.dumps(known, ensure_ascii=False).replace("<", "\\u003c")


def _rests(ledger: Ledger, row: Row, column: Column) -> str:
    """The images, prompts and seeds that a cell rests on; nothing where it is no score."""
    metric = METRICS.get(column.key)
    if metric is None or ledger.gap(row.key):
        return ""
    scores = ledger.runs[row.key].of(metric.evaluator)
    scores = scores if metric.tag is None else scores[scores["tag"] == metric.tag]
    if scores.empty:
        return ""
    seeds = ", ".join(map(str, sorted(scores["seed"].unique())))
    images = numbers.number(len(scores), 0)
    prompts = numbers.number(scores["prompt_index"].nunique(), 0)
    return f"{images} images of {prompts} prompts, seeds {seeds}"


def _wordy(table: Table, index: int) -> bool:
    """Whether a column holds words."""
    return any(row.cells[index].words is not None for row in table.rows)


def _bases(table: Table) -> list[tuple[str, str]]:
    """What a table's columns can be sorted by: the data's name in the markup, and in print."""
    names = {markup.OURS: "value", markup.DIFFERENCE: "difference", markup.PAPER: "paper"}
    return [(names[line], line.heading) for line in markup.lines(table)]


def _source(name: str) -> Markup:
    return Markup((TEMPLATES / name).read_text(encoding="utf-8"))


def _typeset(value: object) -> object:
    """Plain text with the apostrophes of print."""
    return value.replace("'", "’") if type(value) is str else value


def _download(folder: Path, part: str, name: str) -> str:
    """A rendered CSV file as the address of a link.

    Raises:
        UserError: The file is missing.
    """
    path = folder / part / f"{name}.csv"
    if not path.is_file():
        raise UserError(f"{path}: no such file; render that again")
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(path.read_bytes()).decode()}"


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Render the report from a ledger and the tables and figures made from it."""
    parser = argparse.ArgumentParser(prog="python -m paper.report", description=main.__doc__)
    cli.add_ledger(parser)
    parser.add_argument("--rendered", type=Path, required=True, help="folder of tables/, figures/")
    options = parser.parse_args(arguments)
    ledger = Ledger.open(options.ledger, seeds=options.seeds)
    write_report(Estimates(ledger), Rendered(options.rendered, experiments_of(ledger)))


def write_report(estimates: Estimates, rendered: Rendered) -> None:
    """Write `report/index.html` beside the tables and figures, and `paper.tex` for print."""
    folder = rendered.folder / "report"
    write_text(folder / "index.html", render(estimates, rendered))
    write_text(folder / "paper.tex", latex.document(rendered.experiments, rendered.folder))


if __name__ == "__main__":
    main()
