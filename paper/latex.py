"""The paper's tables and figures as one LaTeX document, for a camera-ready version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from leapalign.experiments import Experiments
from paper.markup import latex_escape
from paper.sections import chapters

PREAMBLE = r"""% Every rendered table and figure; compile in this folder, twice.
\documentclass[10pt]{{article}}
\usepackage[utf8]{{inputenc}}
\usepackage[margin=2.2cm]{{geometry}}
\usepackage{{amsmath,booktabs,graphicx}}
\title{{{title}}}
\date{{}}
\begin{{document}}
\maketitle
"""
FIGURE = r"""\begin{{figure}}[t]
\centering
\includegraphics[width=\linewidth]{{../figures/{name}.pdf}}
\caption{{{title}}}
\label{{fig:{label}}}
\end{{figure}}
"""


def document(experiments: Experiments, folder: Path) -> str:
    """A document that holds every table and figure rendered in `folder`, the claims first.

    Args:
        experiments: the tables and figures there are.
        folder: holds `claims/`, `tables/`, `figures/` and, for the document, `report/`.
    """
    claims = [r"\section*{Claims}", r"\input{../claims/claims.tex}", r"\clearpage", ""]
    judged = (folder / "claims" / "claims.tex").is_file()
    body = [
        text
        for chapter in chapters(experiments)
        for text in _section(chapter.section.title, chapter.exhibits, experiments, folder)
    ]
    title = latex_escape("LeapAlign, replicated: tables and figures")
    return "\n".join(
        [PREAMBLE.format(title=title), *(claims if judged else []), *body, r"\end{document}", ""]
    )


def _section(
    title: str, names: tuple[str, ...], experiments: Experiments, folder: Path
) -> Iterator[str]:
    """A heading and what has been rendered below it; nothing where nothing has been."""
    parts = [part for name in names for part in _exhibit(name, experiments, folder)]
    if parts:
        # Floats of one section stay out of the next.
        yield from (rf"\section*{{{latex_escape(title)}}}", *parts, r"\clearpage", "")


def _exhibit(name: str, experiments: Experiments, folder: Path) -> Iterator[str]:
    if name in experiments.tables and (folder / "tables" / f"{name}.tex").is_file():
        yield rf"\input{{../tables/{name}.tex}}"
    if name in experiments.figures and (folder / "figures" / f"{name}.pdf").is_file():
        title = latex_escape(experiments.figures[name].title)
        yield FIGURE.format(name=name, title=title, label=name.replace("_", "-"))
