"""Draws the figures, each as PNG, PDF, and an SVG whose greys follow the reader's colour scheme.

`python -m paper.figures <name> --ledger <folder> --output <folder>` draws one of them.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from leapalign.config import EXPERIMENTS
from leapalign.errors import UserError, main_guard
from leapalign.experiments import Exhibit
from leapalign.files import replacing, write_text
from leapalign.parsing import nearest
from paper import cli
from paper.curves import curve
from paper.estimates import Estimates
from paper.ledger import Ledger
from paper.names import run_label
from paper.samples import mosaic, prompts, sheets
from paper.style import GENEVAL, HPSV2, HPSV3, PICKSCORE, Metric, run_style
from paper.table import interval

STYLE = Path(__file__).with_name("paper.mplstyle")
AXES = {"iteration": "iteration", "images": "images", "seconds": "seconds"}
CELL = 192
INK = "#1f2328"
DARK = {INK: "#e6edf3", "#59636e": "#9aa7b4", "#d9dee4": "#30363d"}


def reward_curves(exhibit: Exhibit, estimates: Estimates) -> Figure:
    """The training reward against iterations, images and seconds (Fig. 1a)."""
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.1), sharey=True, layout="constrained")
    for axis, (column, label) in zip(axes, AXES.items(), strict=True):
        _curves(axis, exhibit.runs, estimates.ledger, column, "reward")
        axis.set_xlabel(label)
    axes[0].set_ylabel("training reward")
    _legend(figure, axes[0])
    return figure


def gradient_norms(exhibit: Exhibit, estimates: Estimates) -> Figure:
    """The gradient's norm before clipping, over training (Fig. 6)."""
    figure, axis = plt.subplots(figsize=(5.2, 3.1), layout="constrained")
    _curves(axis, exhibit.runs, estimates.ledger, "iteration", "grad_norm")
    axis.set(xlabel="iteration", ylabel="gradient norm", yscale="log")
    axis.yaxis.set_major_formatter(LogFormatter(labelOnlyBase=False))
    axis.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
    _legend(figure, axis, columns=3)
    return figure


def scores(exhibit: Exhibit, estimates: Estimates) -> Figure:
    """Every score's mean and 95% interval, run by run."""
    metrics = (HPSV2, PICKSCORE, HPSV3, GENEVAL)
    height = 0.9 + 0.27 * len(exhibit.runs)
    figure, axes = plt.subplots(1, 4, figsize=(9.6, height), sharey=True, layout="constrained")
    for axis, metric in zip(axes, metrics, strict=True):
        _dots(axis, exhibit.runs, estimates, metric)
    axes[0].set_yticks(range(len(exhibit.runs)), [run_label(run) for run in exhibit.runs])
    for label in axes[0].get_yticklabels():
        label.set_color(mpl.rcParams["text.color"])
    axes[0].invert_yaxis()
    return figure


def grid(exhibit: Exhibit, estimates: Estimates) -> Figure:
    """The same prompts and noise under every run (Fig. 3)."""
    found = sheets(estimates.ledger, exhibit.runs)
    texts = prompts(found)
    columns, rows = max(len(texts), 1), len(found)
    figure, axis = plt.subplots(figsize=(1.15 * columns, 1.15 * rows + 0.5))
    axis.imshow(mosaic(found, columns, CELL), extent=(0, columns, rows, 0), interpolation="none")
    axis.set_xticks([i + 0.5 for i in range(len(texts))], [textwrap.fill(t, 15) for t in texts])
    axis.set_yticks([i + 0.5 for i in range(rows)], [sheet.label for sheet in found])
    axis.tick_params(length=0, labeltop=True, labelbottom=False, colors=INK, labelsize=7)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    for place, sheet in enumerate(found):
        if sheet.gap:
            axis.text(0.05, place + 0.5, f"no images: {sheet.gap}", va="center")
    return figure


FIGURES: dict[str, Callable[[Exhibit, Estimates], Figure]] = {
    "reward_curves": reward_curves,
    "gradient_norms": gradient_norms,
    "grid": grid,
    "scores": scores,
    "ablation_discount": scores,
    "ablation_early": scores,
    "ablation_weighting": scores,
}


def draw(name: str, exhibit: Exhibit, estimates: Estimates, folder: Path) -> None:
    """Write `<name>.png`, `.pdf` and `.svg`; the same results give the same bytes."""
    if name not in FIGURES:
        raise UserError(f"{EXPERIMENTS}: `figures`: no figure `{name}`{nearest(name, FIGURES)}")
    with mpl.rc_context(fname=STYLE):
        figure = FIGURES[name](exhibit, estimates)
        undated = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}
        for suffix, metadata in undated.items():
            with replacing(folder / f"{name}.{suffix}") as path:
                figure.savefig(path, metadata=metadata)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, transparent=True)
        write_text(folder / f"{name}.svg", adaptive(text.getvalue()))
        plt.close(figure)


def adaptive(svg: str) -> str:
    """The drawing with its three greys as CSS variables that a dark colour scheme redefines."""
    names = {light: f"--grey-{index}" for index, light in enumerate(DARK)}
    light = "".join(f"{names[grey]}:{grey};" for grey in DARK)
    dark = "".join(f"{names[grey]}:{other};" for grey, other in DARK.items())
    for grey, name in names.items():
        svg = svg.replace(grey, f"var({name})")
    rules = f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return svg.replace("<defs>", f"<style>{rules}</style><defs>", 1)


def _curves(axis: Axes, runs: Sequence[str], ledger: Ledger, x: str, y: str) -> None:
    for run in runs:
        log = None if ledger.gap(run) else ledger.runs[run].training
        if log is None or log.empty or log[y].isna().all():
            continue
        style, drawn = run_style(run), curve(log, x, y)
        axis.fill_between(
            drawn.x, drawn.low, drawn.high, color=style.color, alpha=0.16, linewidth=0
        )
        axis.plot(
            drawn.x, drawn.mean, color=style.color, linestyle=style.dash, label=run_label(run)
        )
    axis.margins(x=0.01)


def _dots(axis: Axes, runs: Sequence[str], estimates: Estimates, metric: Metric) -> None:
    for place, run in enumerate(runs):
        found = interval(estimates.mean(run, metric))
        if found is None:
            continue
        color = run_style(run).color
        if found.low is not None and found.high is not None:
            axis.plot([found.low, found.high], [place, place], color=color, linewidth=2, alpha=0.45)
        axis.plot(found.mean, place, "o", color=color, markersize=5)
    axis.set_title(metric.label)
    axis.grid(visible=False, axis="y")
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=4)
    axis.set_ylim(-0.6, len(runs) - 0.4)


def _legend(figure: Figure, axis: Axes, columns: int = 7) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if handles:
        columns = min(columns, len(handles))
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Draw one figure from a ledger."""
    request = cli.request("figures", list(FIGURES), arguments)
    draw(request.name, request.exhibit, Estimates(request.ledger), request.output)


if __name__ == "__main__":
    main()
