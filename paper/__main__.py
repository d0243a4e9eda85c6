"""Renders everything from one ledger: every table and figure, the claims and the report.

`python -m paper --ledger <folder> --output <folder>`
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from leapalign.errors import main_guard
from paper import cli, figures, markup, tables
from paper.claims import Verdicts
from paper.estimates import Estimates
from paper.ledger import Ledger
from paper.names import experiments_of
from paper.report import Rendered, write_report


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Render every table, every figure, the claims and the report from a ledger."""
    parser = argparse.ArgumentParser(prog="python -m paper", description=main.__doc__)
    cli.add_ledger(parser)
    parser.add_argument(
        "--output", type=Path, required=True, help="gets tables/, figures/, claims/, report/"
    )
    options = parser.parse_args(arguments)
    estimates = Estimates(Ledger.open(options.ledger, seeds=options.seeds))
    experiments = experiments_of(estimates.ledger)
    for name, exhibit in experiments.tables.items():
        markup.write_all(tables.build(name, exhibit, estimates), options.output / "tables")
    for name, exhibit in experiments.figures.items():
        figures.draw(name, exhibit, estimates, options.output / "figures")
    Verdicts.of(estimates).write(options.output / "claims")
    write_report(estimates, Rendered(options.output, experiments))


if __name__ == "__main__":
    main()
