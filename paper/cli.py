"""The command line that the tables and the figures share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from leapalign.config import EXPERIMENTS
from leapalign.errors import UserError
from leapalign.experiments import Exhibit
from paper.ledger import Ledger
from paper.names import experiments_of


@dataclass(frozen=True, slots=True)
class Request:
    """One exhibit to render: its name, its runs and title, from which ledger, to which folder."""

    name: str
    exhibit: Exhibit
    ledger: Ledger
    output: Path


def request(
    kind: Literal["tables", "figures"], choices: Sequence[str], arguments: Sequence[str] | None
) -> Request:
    """Read the command line of `python -m paper.<kind>`.

    Raises:
        UserError: The experiments file lacks the exhibit, or the ledger is missing or empty.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m paper.{kind}", description=f"Render one of the {kind} from a ledger."
    )
    parser.add_argument("name", choices=choices)
    add_ledger(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the rendered files")
    options = parser.parse_args(arguments)
    ledger = Ledger.open(options.ledger, seeds=options.seeds)
    exhibit = getattr(experiments_of(ledger), kind).get(options.name)
    if exhibit is None:
        raise UserError(f"{EXPERIMENTS}: `{kind}` has no `{options.name}`; add its runs and title")
    return Request(options.name, exhibit, ledger, options.output)


def add_ledger(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose a ledger."""
    parser.add_argument("--ledger", type=Path, required=True, help="folder <run>/seed<s>/…")
    parser.add_argument("--seeds", type=int, nargs="+", help="these training seeds only")
