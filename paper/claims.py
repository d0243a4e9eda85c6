"""Writes whether what was published holds in a ledger: a verdict on every claim.

`python -m paper.claims --ledger <folder> --output <folder>` writes them as `claims.json` and
`claims.csv`, and as a table to read in `claims.md` and `claims.tex`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from eval.significance import LEVEL, MOST_SEEDS
from leapalign.errors import UserError, main_guard
from leapalign.files import write_json, write_text
from leapalign.parsing import dump, parse
from paper import cli, markup, numbers
from paper.estimates import Estimates
from paper.judge import verdicts
from paper.ledger import Ledger
from paper.table import Cell, Column, Note, Row, Table
from paper.verdict import Outcome, Verdict, tally


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The verdicts on all claims at one scale, as `claims.json` holds them."""

    scale: str
    level: float
    counts: Mapping[str, Mapping[str, int]]
    claims: tuple[Verdict, ...]

    @classmethod
    def of(cls, estimates: Estimates) -> Verdicts:
        """All verdicts, and for each source how many came out how."""
        found = verdicts(estimates)
        counts = {
            source: tally(verdict for verdict in found if verdict.source == source)
            for source in dict.fromkeys(verdict.source for verdict in found)
        }
        return cls(estimates.ledger.scale, LEVEL, counts, found)

    def write(self, folder: Path) -> None:
        """Write `claims.json`, `claims.csv`, `claims.md` and `claims.tex`."""
        write_json(folder / "claims.json", dump(self))
        write_text(folder / "claims.csv", csv(self.claims))
        table = claims_table(self.claims)
        write_text(folder / "claims.md", markup.markdown(table))
        write_text(folder / "claims.tex", markup.latex(table))

    @classmethod
    def read(cls, path: Path) -> Verdicts:
        """What `write` kept.

        Raises:
            UserError: The file is missing or damaged.
        """
        try:
            return parse(cls, json.loads(path.read_text(encoding="utf-8")), str(path))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run `python -m paper.claims` first") from None
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: not valid JSON ({error}); write it again") from None


def csv(found: Iterable[Verdict]) -> str:
    """A row per verdict, every number unrounded; several runs or seeds in one cell by spaces."""
    rows = [
        {
            key: " ".join(map(str, value)) if isinstance(value, list) else value
            for key, value in dump(verdict).items()
        }
        for verdict in found
    ]
    return pd.DataFrame(rows).astype({"seeds_to_decide": "Int64"}).to_csv(index=False)


def claims_table(found: Sequence[Verdict]) -> Table:
    """The verdicts as a table: a row per claim."""
    columns = (
        Column("where", "Where"),
        Column("effect", "Effect"),
        Column("p", "p (Holm)"),
        Column("verdict", "Verdict"),
        Column("needed", "Seeds to decide"),
    )
    rows = tuple(_row(verdict) for verdict in found)
    counts = ", ".join(f"{count} {name}" for name, count in tally(found).items() if count)
    notes = (
        f"Of {len(found)} claims: {counts}.",
        "An effect is positive where the claim holds; in brackets its 95% bootstrap interval over "
        "seeds and prompts. p by a t-test that treats both as random, after Holm's correction over "
        "all tests of one publication's claims.",
    )
    return Table(
        "claims",
        "Every claim and whether it holds",
        "Claim",
        columns,
        rows,
        tuple(map(Note, notes)),
    )


def _row(verdict: Verdict) -> Row:
    words = (
        verdict.where,
        verdict.found or numbers.NOTHING,
        numbers.NOTHING if verdict.p_holm is None else numbers.p_value(verdict.p_holm),
        verdict.outcome.value,
        _needed(verdict),
    )
    return Row(verdict.id, verdict.text, tuple(Cell(words=text) for text in words))


def _needed(verdict: Verdict) -> str:
    if verdict.outcome is not Outcome.UNDECIDED:
        return ""
    if verdict.seeds_to_decide is None:
        return numbers.NOTHING if len(verdict.seeds) == 1 else f"> {MOST_SEEDS}"
    return str(verdict.seeds_to_decide)


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Write a verdict on every claim from a ledger."""
    parser = argparse.ArgumentParser(prog="python -m paper.claims", description=main.__doc__)
    cli.add_ledger(parser)
    parser.add_argument("--output", type=Path, required=True, help="folder of the written files")
    options = parser.parse_args(arguments)
    estimates = Estimates(Ledger.open(options.ledger, seeds=options.seeds))
    found = Verdicts.of(estimates)
    found.write(options.output)
    for source, counts in found.counts.items():
        listed = ", ".join(f"{count} {name}" for name, count in counts.items())
        sys.stdout.write(f"{source}: {listed}\n")


if __name__ == "__main__":
    main()
