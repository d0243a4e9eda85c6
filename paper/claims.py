"""Writes whether what was published holds in a ledger: a verdict on every claim.

`python -m paper.claims --ledger <folder> --output <folder>` writes them as `claims.json` and
`claims.csv`, and as a table to read in `claims.md` and `claims.tex`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from eval.significance import LEVEL, MOST_SEEDS
from leapalign.errors import main_guard
from leapalign.files import write_json, write_text
from leapalign.parsing import dump, parse_file
from paper import cli, markup, numbers
from paper.estimates import Estimates
from paper.judge import verdicts
from paper.ledger import Ledger
from paper.published import published
from paper.table import Cell, Column, Interval, Note, Row, Table, number_notes
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
        shown = tables(self.claims)
        write_text(folder / "claims.md", "\n".join(map(markup.markdown, shown)))
        write_text(folder / "claims.tex", "\n".join(map(markup.latex, shown)))

    @classmethod
    def read(cls, path: Path) -> Verdicts:
        """What `write` kept.

        Raises:
            UserError: The file is missing or damaged.
        """
        return parse_file(cls, path, "run `python -m paper.claims` first")


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


def tables(found: Sequence[Verdict]) -> list[Table]:
    """How many claims of each table and figure came out how, then each of these with its claims."""
    places: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in found:
        places.setdefault((verdict.source, verdict.where), []).append(verdict)
    parts = (
        _part(number, place, several) for number, (place, several) in enumerate(places.items(), 1)
    )
    return [_overview(places), *parts]


def _overview(places: Mapping[tuple[str, str], Sequence[Verdict]]) -> Table:
    columns = tuple(Column(outcome.name.lower(), outcome.value) for outcome in Outcome)
    rows = tuple(
        Row(
            f"{source}: {where}",
            _titled(source, where),
            tuple(Cell(ours=Interval(float(count))) for count in tally(several).values()),
        )
        for (source, where), several in places.items()
    )
    notes = (
        "An effect is positive where the claim holds; in brackets its 95% bootstrap interval over "
        "seeds and prompts. p is that of a t-test which treats both as random, after Holm's "
        "correction over all tests of one publication's claims. A claim is replicated, or "
        "contradicted, where interval and test agree.",
    )
    title = "How many published claims hold, by table and figure"
    return Table("claims", title, "Claims of", columns, rows, tuple(map(Note, notes)))


def _part(number: int, place: tuple[str, str], found: Sequence[Verdict]) -> Table:
    columns = (
        Column("effect", "Effect"),
        Column("p", "p (Holm)"),
        Column("verdict", "Verdict"),
        Column("needed", "Seeds to decide"),
    )
    notes = number_notes(v.reason for v in found if v.reason and v.seeds_to_decide is None)
    rows = tuple(_row(verdict, notes) for verdict in found)
    title = f"Claims of {_titled(*place)}"
    return Table(f"claims-{number}", title, "Claim", columns, rows, tuple(notes.values()))


def _row(verdict: Verdict, notes: Mapping[str, Note]) -> Row:
    words = (
        verdict.found or numbers.NOTHING,
        numbers.NOTHING if verdict.p_holm is None else numbers.p_value(verdict.p_holm),
        verdict.outcome.value,
        _needed(verdict),
    )
    marks = (notes[verdict.reason].mark,) if verdict.reason in notes else ()
    return Row(verdict.id, verdict.text, tuple(Cell(words=text) for text in words), marks=marks)


def _titled(source: str, where: str) -> str:
    return f"{where} (arXiv {published().sources[source].arxiv})"


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
