"""Renders the report: one HTML file that holds its images and opens from disk.

`python -m paper.report --ledger <folder> --rendered <folder>` reads the rendered tables and figures
in `<folder>/tables` and `<folder>/figures` and writes `<folder>/report/index.html`.
"""

from __future__ import annotations

import argparse
import base64
import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from PIL import Image

from leapalign.errors import UserError, main_guard
from leapalign.experiments import Experiments, load_experiments
from leapalign.files import write_text
from paper import cli, markup, numbers
from paper.estimates import Estimates
from paper.history import history
from paper.judge import verdicts
from paper.ledger import Ledger
from paper.published import published
from paper.samples import prompts, sheets
from paper.style import run_style
from paper.summary import gains, sentences
from paper.table import Table

HERE = Path(__file__).parent
LOSSLESS = 128
"""Images up to this size (px) are kept losslessly; larger ones as JPEG."""


@dataclass(frozen=True)
class Rendered:
    """A folder with the tables and figures of one ledger."""

    folder: Path
    experiments: Experiments

    @functools.cached_property
    def tables(self) -> dict[str, Table]:
        """The tables by name."""
        names = self.experiments.tables
        return {name: Table.read(self.folder / "tables" / f"{name}.json") for name in names}

    def figure(self, name: str) -> Markup:
        """The figure as an inlined image."""
        path = self.folder / "figures" / f"{name}.svg"
        if not path.is_file():
            raise UserError(f"{path}: no such file; render that figure first")
        return Markup(_data_uri("svg+xml", path.read_bytes()))


def render(estimates: Estimates, rendered: Rendered) -> str:
    """The report's HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_typeset,
    )
    environment.filters |= {"setting": numbers.setting, "duration": numbers.duration}
    template = environment.get_template("report.html.j2")
    return template.render(_context(estimates, rendered))


def _context(estimates: Estimates, rendered: Rendered) -> Mapping[str, Any]:
    ledger, experiments = estimates.ledger, rendered.experiments
    found = gains(estimates)
    judged = verdicts(estimates)
    shown = sheets(ledger, experiments.figures["grid"].runs)
    return {
        "css": Markup((HERE / "report.css").read_text(encoding="utf-8")),
        "scale": ledger.scale,
        "source": published().sources["leapalign"],
        "gains": found,
        "sentences": sentences(found, judged),
        "verdicts": judged,
        "tables": rendered.tables,
        "exhibits": experiments,
        "figure": rendered.figure,
        "lines": markup.lines,
        "numbers": numbers,
        "color": lambda run: run_style(run).color,
        "prompts": prompts(shown),
        "sheets": shown,
        "image": _image,
        "history": history(ledger),
    }


def _typeset(value: object) -> object:
    """Plain text with the apostrophes of print."""
    return value.replace("'", "’") if type(value) is str else value


def _image(image: Image.Image) -> str:
    """An image inlined: the small ones pixel by pixel."""
    lossless = max(image.size) <= LOSSLESS
    data = io.BytesIO()
    if lossless:
        image.save(data, "PNG", optimize=True)
    else:
        image.save(data, "JPEG", quality=88)
    return _data_uri("png" if lossless else "jpeg", data.getvalue())


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Render the report from a ledger and the tables and figures made from it."""
    parser = argparse.ArgumentParser(prog="python -m paper.report", description=main.__doc__)
    cli.add_ledger(parser)
    parser.add_argument("--rendered", type=Path, required=True, help="folder of tables/, figures/")
    options = parser.parse_args(arguments)
    experiments = load_experiments().default
    ledger = Ledger.open(options.ledger, list(experiments.runs), options.seeds)
    write_report(Estimates(ledger), Rendered(options.rendered, experiments))


def write_report(estimates: Estimates, rendered: Rendered) -> None:
    """Write `report/index.html` beside the tables and figures."""
    write_text(rendered.folder / "report" / "index.html", render(estimates, rendered))


if __name__ == "__main__":
    main()
