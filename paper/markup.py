"""Prints a table as CSV (every number, unrounded), Markdown and LaTeX (booktabs)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from leapalign.files import write_text
from paper import numbers
from paper.table import Cell, Column, Interval, Row, Table


@dataclass(frozen=True, slots=True)
class Line:
    """One of the lines a row is printed on: its heading and how it writes a cell."""

    heading: str
    write: Callable[[Cell, Column], str]
    published: bool = False


def _ours(cell: Cell, column: Column) -> str:
    if cell.words is not None:
        return cell.words
    return numbers.estimate(cell.ours, column.digits) if cell.ours else numbers.NOTHING


def _difference(cell: Cell, column: Column) -> str:
    return numbers.difference(cell.difference, column.digits) if cell.difference else ""


def _published(cell: Cell, column: Column) -> str:
    if cell.published is None:
        return numbers.NOTHING
    return numbers.number(cell.published, column.published_digits)


OURS = Line("ours", _ours)
DIFFERENCE = Line("Δ", _difference)
PAPER = Line("paper", _published, published=True)


def lines(table: Table) -> list[Line]:
    """The lines that a table's rows need: differences and the paper's only where there are any."""
    cells = [cell for row in table.rows for cell in row.cells]
    optional = [
        (DIFFERENCE, any(cell.difference for cell in cells)),
        (PAPER, any(cell.published is not None for cell in cells)),
    ]
    return [OURS, *(line for line, needed in optional if needed)]


def write_all(table: Table, folder: Path) -> None:
    """Write `<name>.csv`, `.md`, `.tex` and `.json`."""
    write_text(folder / f"{table.name}.csv", csv(table))
    write_text(folder / f"{table.name}.md", markdown(table))
    write_text(folder / f"{table.name}.tex", latex(table))
    table.write(folder)


def csv(table: Table) -> str:
    """One row per table row; per column our mean, bounds, difference and the paper's number."""
    frame = pd.DataFrame(
        [{table.head.lower(): row.key, **_numbers(table, row)} for row in table.rows]
    )
    return frame.dropna(axis="columns", how="all").to_csv(index=False)


def markdown(table: Table) -> str:
    """A pipe table, its title above and its notes below."""
    frame = _frame(table, lambda text: f"**{text}**", _markdown_escape, "<sup>{}</sup>".format)
    aligned = ("left",) * (len(frame.columns) - len(table.columns)) + ("right",) * len(
        table.columns
    )
    body = frame.to_markdown(index=False, colalign=aligned, disable_numparse=True)
    notes = (
        f"{f'<sup>{note.mark}</sup> ' if note.mark else ''}{_markdown_escape(note.text)}"
        for note in table.notes
    )
    return "\n\n".join([f"### {_markdown_escape(table.title)}", body, *notes]) + "\n"


def latex(table: Table) -> str:
    """A `table` environment for the booktabs package, its notes below the rules."""
    frame = _frame(table, r"\textbf{{{}}}".format, latex_escape, r"\textsuperscript{{{}}}".format)
    left = len(frame.columns) - len(table.columns)
    styler = frame.style.hide(axis="index")
    body = styler.to_latex(hrules=True, column_format="l" * left + "r" * len(table.columns))
    if len(lines(table)) > 1:
        body = _spaced(body, len(lines(table)))
    notes = [
        rf"\textsuperscript{{{latex_escape(n.mark)}}} {latex_escape(n.text)}"
        if n.mark
        else latex_escape(n.text)
        for n in table.notes
    ]
    return "\n".join([
        "% needs \\usepackage{booktabs,graphicx}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{latex_escape(table.title)}}}",
        rf"\label{{tab:{table.name.replace('_', '-')}}}",
        r"\resizebox{\linewidth}{!}{%",
        body.rstrip() + "}",
        *(rf"\par\smallskip{{\footnotesize {note}\par}}" for note in notes),
        r"\end{table}",
        "",
    ])  # fmt: skip


def latex_escape(text: str) -> str:
    """Plain text as LaTeX that every engine sets."""
    escaped = re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))
    return escaped.translate(_SYMBOLS)


def _frame(
    table: Table,
    strong: Callable[[str], str],
    escape: Callable[[str], str],
    raised: Callable[[str], str],
) -> pd.DataFrame:
    """The printed table, a frame row per line."""
    used = lines(table)
    heads = [
        escape(column.label) + _raise(column.marks, escape, raised) for column in table.columns
    ]
    columns = [table.head, *([""] if len(used) > 1 else []), *heads]
    return pd.DataFrame(
        [
            cells
            for row in table.rows
            for cells in _printed(table, row, used, (strong, escape, raised))
        ],
        columns=columns,
    )


def _printed(
    table: Table, row: Row, used: list[Line], marks: tuple[Callable[[str], str], ...]
) -> Iterator[list[str]]:
    strong, escape, raised = marks
    for number, line in enumerate(used):
        name = escape(row.label) + _raise(row.marks, escape, raised) if number == 0 else ""
        texts = [
            escape(line.write(cell, column))
            for cell, column in zip(row.cells, table.columns, strict=True)
        ]
        if line is not DIFFERENCE:
            best = (table.best(index, published=line.published) for index in range(len(texts)))
            texts = [
                strong(text) if row.key in leaders else text
                for text, leaders in zip(texts, best, strict=True)
            ]
        yield [name, *([escape(line.heading)] if len(used) > 1 else []), *texts]


def _raise(
    marks: tuple[str, ...], escape: Callable[[str], str], raised: Callable[[str], str]
) -> str:
    return raised(escape(", ".join(marks))) if marks else ""


def _numbers(table: Table, row: Row) -> dict[str, object]:
    found: dict[str, object] = {}
    for column, cell in zip(table.columns, row.cells, strict=True):
        if cell.words is not None:
            found[column.key] = cell.words
            continue
        found |= _spread(column.key, cell.ours) | _spread(
            f"{column.key}_difference", cell.difference
        )
        found[f"{column.key}_paper"] = cell.published
    return found


def _spread(name: str, interval: Interval | None) -> dict[str, float | None]:
    mean, low, high = (interval.mean, interval.low, interval.high) if interval else (None,) * 3
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _markdown_escape(text: str) -> str:
    return re.sub(r"([|*_<>\\`])", r"\\\1", text)


def _spaced(body: str, every: int) -> str:
    """The body with a little space between table rows of several lines."""
    head, rows = body.split("\\midrule\n")
    printed, foot = rows.split("\\bottomrule")
    kept = printed.rstrip("\n").split("\n")
    groups = ["\n".join(kept[at : at + every]) for at in range(0, len(kept), every)]
    return f"{head}\\midrule\n" + "\n\\addlinespace\n".join(groups) + f"\n\\bottomrule{foot}"


_SYMBOLS = str.maketrans({
    "α": r"$\alpha$", "λ": r"$\lambda$", "τ": r"$\tau$", "η": r"$\eta$", "Δ": r"$\Delta$",
    "−": "$-$", "±": r"$\pm$", "×": r"$\times$", "½": r"$\tfrac12$", "†": r"$\dagger$",
    ">": "$>$", "<": "$<$", "–": "--", "—": "---", "…": r"\dots{}", "\N{THIN SPACE}": r"\,",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{s: f"$^{{{p}}}$" for s, p in zip("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789", strict=True)},
})  # fmt: skip
