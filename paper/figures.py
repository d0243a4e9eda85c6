"""Draws the figures, each as PNG, PDF, and an SVG whose greys follow the reader's colour scheme.

`python -m paper.figures <name> --ledger <folder> --output <folder>` draws one of them.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.projections.polar import PolarAxes
from matplotlib.ticker import LogFormatter

from leapalign.config import EXPERIMENTS
from leapalign.errors import UserError, main_guard
from leapalign.experiments import Exhibit
from leapalign.files import replacing, write_text
from leapalign.parsing import nearest
from paper import cli
from paper.cost import MEMORY, PASSES, cost_cell
from paper.curves import curve
from paper.drawing import gid, run_of, scales, unlisted
from paper.estimates import Estimates
from paper.ledger import Ledger
from paper.names import run_label
from paper.progress import points, untrained
from paper.samples import mosaic, prompts, sheets
from paper.seeds import seed_means
from paper.style import (
    GENEVAL,
    HPSV2,
    HPSV3,
    PICKSCORE,
    REFERENCE,
    SCORES,
    TASKS,
    Metric,
    run_style,
    styles,
)
from paper.table import Interval, interval

STYLE = Path(__file__).with_name("paper.mplstyle")
AXES = {"iteration": "iteration", "images": "images", "seconds": "seconds", "nfe": "NFE"}
DOTTED = (HPSV2, PICKSCORE, HPSV3, GENEVAL)
CELL = 192
INK = "#1f2328"
DARK = {INK: "#e6edf3", "#59636e": "#9aa7b4", "#d9dee4": "#30363d"}


def reward_curves(exhibit: Exhibit, estimates: Estimates) -> Figure:
    """The training reward against iterations, images, seconds and NFE (Fig. 1a)."""
    figure, axes = plt.subplots(1, len(AXES), figsize=(9.6, 3.1), sharey=True, layout="constrained")
    for axis, (column, label) in zip(axes, AXES.items(), strict=True):
        _curves(axis, exhibit.runs, estimates.ledger, column, "reward")
        axis.set_xlabel(label)
        axis.locator_params(axis="x", nbins=4)
    axes[0].set_ylabel("training reward")
    _legend(figure, axes[0])
    return figure


def progress(exhibit: Exhibit, estimates: Estimates) -> Figure:
    """Every evaluator on the snapshots of a training (Fig. 5)."""
    base = untrained(estimates, exhibit.runs)
    figure, axes = plt.subplots(1, len(DOTTED), figsize=(9.6, 3.1), layout="constrained")
    for axis, metric in zip(axes, DOTTED, strict=True):
        for run, style in styles(exhibit.runs).items():
            watched = points(estimates, run, base, metric)
            means = pd.DataFrame({at: seed_means(rows, metric) for at, rows in watched.items()})
            if run == base or means.empty:
                continue
            axis.fill_between(
                means.columns,
                means.min(),
                means.max(),
                color=style.color,
                alpha=0.12,
                linewidth=0,
                gid=gid(run),
            )
            axis.plot(
                means.columns,
                means.mean(),
                color=style.color,
                linestyle=style.dash,
                marker="o",
                markersize=3,
                label=run_label(run),
                gid=gid(run),
            )
        axis.set(xlabel="iteration", title=metric.label)
    _legend(figure, axes[0])
    return figure


def radar(exhibit: Exhibit, estimates: Estimates) -> Figure:
    """All scores of all runs, each axis from the lowest run to the highest (Fig. 1b, 1c)."""
    figure = plt.figure(figsize=(8.6, 4.3), layout="constrained")
    groups = {"Preference": SCORES[:-1], "Composition": TASKS}
    for place, (title, metrics) in enumerate(groups.items(), 1):
        axis = figure.add_subplot(1, 2, place, projection="polar")
        _radar(axis, exhibit.runs, estimates, metrics)
        axis.set_title(title, pad=18)
    _legend(figure, figure.axes[0])
    return figure


def gradient_norms(exhibit: Exhibit, estimates: Estimates) -> Figure:
    """The gradient's norm before clipping, over training."""
    figure, axis = plt.subplots(figsize=(5.2, 3.1), layout="constrained")
    _norms(axis, exhibit.runs, estimates.ledger)
    _legend(figure, axis, columns=3)
    return figure


def nested(exhibit: Exhibit, estimates: Estimates) -> Figure:
    """Gradient norm and score where the nested gradient alone trains the first leap (Fig. 6)."""
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.1), layout="constrained")
    _norms(axes[0], exhibit.runs, estimates.ledger)
    _dots(axes[1], exhibit.runs, estimates, HPSV2)
    _name_rows(axes[1], exhibit.runs)
    _legend(figure, axes[0], columns=3)
    return figure


def trajectories(exhibit: Exhibit, estimates: Estimates) -> Figure:
    """Gradient norm and saved memory against T; how far leaps land from the path."""
    ledger = estimates.ledger
    figure, axes = plt.subplots(1, 3, figsize=(9.6, 3.1), layout="constrained")
    panels = {"grad_norm": "gradient norm", "saved_mb": "saved for backward (MB)"}
    for axis, (column, label) in zip(axes, panels.items(), strict=False):
        for run in exhibit.runs:
            rows, style = ledger.lengths[ledger.lengths["method"] == run], run_style(run)
            axis.plot(
                rows["steps"],
                rows[column],
                "o-",
                color=style.color,
                label=run_label(run),
                gid=gid(run),
            )
        axis.set(xlabel="steps T", ylabel=label, yscale="log")
        axis.yaxis.set_major_formatter(LogFormatter(labelOnlyBase=False))
    landed, style = ledger.residuals, run_style(REFERENCE)
    axes[2].fill_between(
        landed["gap"], landed["low"], landed["high"], color=style.color, alpha=0.16, linewidth=0
    )
    axes[2].plot(landed["gap"], landed["mean"], "o-", color=style.color, label=unlisted(REFERENCE))
    axes[2].set(xlabel="distance of the leap, σ[k] - σ[j]", ylabel="mean |x[j] - x̂[j]|")
    _legend(figure, axes[0])
    return figure


def scores(exhibit: Exhibit, estimates: Estimates) -> Figure:
    """Every score's mean and 95% interval, run by run."""
    figure, axes = _rows(exhibit.runs, len(DOTTED))
    for axis, metric in zip(axes, DOTTED, strict=True):
        _dots(axis, exhibit.runs, estimates, metric)
    _name_rows(axes[0], exhibit.runs)
    return figure


def leaps(exhibit: Exhibit, estimates: Estimates) -> Figure:
    """Scores, and the memory and passes that they cost (Fig. 4b)."""
    costs = (MEMORY, PASSES)
    figure, axes = _rows(exhibit.runs, len(DOTTED) + len(costs))
    for axis, metric in zip(axes, DOTTED, strict=False):
        _dots(axis, exhibit.runs, estimates, metric)
    for axis, column in zip(axes[len(DOTTED) :], costs, strict=True):
        found = {run: cost_cell(estimates.ledger, run, column.key).ours for run in exhibit.runs}
        _points(axis, found, column.label)
    _name_rows(axes[0], exhibit.runs)
    return figure


def grid(exhibit: Exhibit, estimates: Estimates, name: str = "samples") -> Figure:
    """The same prompts and noise under every run (Fig. 3)."""
    found = sheets(estimates.ledger, exhibit.runs, name)
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


def enlarged(exhibit: Exhibit, estimates: Estimates) -> Figure:
    """The same prompts at a higher resolution than was trained."""
    return grid(exhibit, estimates, "enlarged")


FIGURES: dict[str, Callable[[Exhibit, Estimates], Figure]] = {
    "reward_curves": reward_curves,
    "reward_curves_extended": reward_curves,
    "progress": progress,
    "radar": radar,
    "gradient_norms": gradient_norms,
    "nested": nested,
    "trajectories": trajectories,
    "grid": grid,
    "grid_extended": grid,
    "enlarged": enlarged,
    "scores": scores,
    "threshold": scores,
    "ablation_discount": scores,
    "ablation_leaps": leaps,
    "ablation_reward_input": scores,
    "ablation_weighting": scores,
    "ablation_early": scores,
    "ablation_pairs": scores,
}


def draw(name: str, exhibit: Exhibit, estimates: Estimates, folder: Path) -> None:
    """Write `<name>.png`, `.pdf`, `.svg` and `.csv`; the same results give the same bytes."""
    if name not in FIGURES:
        raise UserError(f"{EXPERIMENTS}: `figures`: no figure `{name}`{nearest(name, FIGURES)}")
    with mpl.rc_context(fname=STYLE):
        figure = FIGURES[name](exhibit, estimates)
        if not any(axis.lines or axis.images for axis in figure.axes):
            figure.text(0.5, 0.5, "nothing of this has been measured", ha="center")
        undated = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Producer": None}}
        for suffix, metadata in undated.items():
            with replacing(folder / f"{name}.{suffix}") as path:
                figure.savefig(path, metadata=metadata)
        text = io.StringIO()
        described = {"Date": None, "Description": scales(figure)}
        figure.savefig(text, format="svg", metadata=described, transparent=True)
        write_text(folder / f"{name}.svg", adaptive(text.getvalue()))
        write_text(folder / f"{name}.csv", plotted(figure).to_csv(index=False))
        plt.close(figure)


def plotted(figure: Figure) -> pd.DataFrame:
    """What a figure's lines and points show: panel, run, x and y."""
    shared = figure.axes[0].get_ylabel()
    rows = [
        (
            axis.get_title("left") or f"{axis.get_ylabel() or shared} against {axis.get_xlabel()}",
            run,
            x,
            y,
        )
        for axis in figure.axes
        for line in axis.lines
        if (run := run_of(line))
        for x, y in np.asarray(line.get_xydata())
    ]
    return pd.DataFrame(rows, columns=["panel", "run", "x", "y"])


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
    for run, style in styles(runs).items():
        log = None if ledger.gap(run) else ledger.runs[run].training
        if log is None or log.empty or log[y].isna().all():
            continue
        drawn = curve(log, x, y)
        axis.fill_between(
            drawn.x, drawn.low, drawn.high, color=style.color, alpha=0.16, linewidth=0, gid=gid(run)
        )
        axis.plot(
            drawn.x,
            drawn.mean,
            color=style.color,
            linestyle=style.dash,
            label=run_label(run),
            gid=gid(run),
        )
    axis.margins(x=0.01)


def _norms(axis: Axes, runs: Sequence[str], ledger: Ledger) -> None:
    _curves(axis, runs, ledger, "iteration", "grad_norm")
    axis.set(xlabel="iteration", ylabel="gradient norm", yscale="log")
    axis.yaxis.set_major_formatter(LogFormatter(labelOnlyBase=False))
    axis.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))


def _rows(runs: Sequence[str], panels: int) -> tuple[Figure, Sequence[Axes]]:
    """A row of panels in which every run has its line."""
    size = (9.6, 0.9 + 0.27 * len(runs))
    return plt.subplots(1, panels, figsize=size, sharey=True, layout="constrained")


def _name_rows(axis: Axes, runs: Sequence[str]) -> None:
    axis.set_yticks(range(len(runs)), [run_label(run) for run in runs])
    for label in axis.get_yticklabels():
        label.set_color(mpl.rcParams["text.color"])
    axis.invert_yaxis()


def _dots(axis: Axes, runs: Sequence[str], estimates: Estimates, metric: Metric) -> None:
    found = {run: interval(estimates.mean(run, metric)) for run in runs}
    _points(axis, found, metric.label)


def _points(axis: Axes, found: Mapping[str, Interval | None], title: str) -> None:
    """A point per run, and a line over its interval."""
    for place, (run, style) in enumerate(styles(list(found)).items()):
        one = found[run]
        if one is None:
            continue
        if one.low is not None and one.high is not None:
            span = [one.low, one.high]
            axis.plot(span, [place, place], color=style.color, linewidth=2, alpha=0.45)
        axis.plot(one.mean, place, "o", color=style.color, markersize=5, label=unlisted(run))
    axis.set_title(title)
    axis.grid(visible=False, axis="y")
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=4)
    axis.set_ylim(-0.6, len(found) - 0.4)


def _radar(
    axis: PolarAxes, runs: Sequence[str], estimates: Estimates, metrics: Sequence[Metric]
) -> None:
    found = pd.DataFrame(
        {
            metric.label: {run: one.mean for run in runs if (one := estimates.mean(run, metric))}
            for metric in metrics
        }
    ).dropna(axis="columns", how="all")
    angles = np.linspace(0, 2 * np.pi, max(len(found.columns), 1), endpoint=False)
    span = (found.max() - found.min()).replace(0.0, 1.0)
    # The lowest run stays off the centre, where its line would have no shape.
    shares = 0.2 + 0.8 * (found - found.min()) / span
    for run, style in styles(runs).items():
        if run in shares.index:
            values = [*shares.loc[run], shares.loc[run].iloc[0]]
            ends = [*angles, angles[0]]
            axis.plot(ends, values, color=style.color, linestyle=style.dash, label=run_label(run))
            axis.fill(ends, values, color=style.color, alpha=0.04)
    axis.set_xticks(angles, found.columns)
    axis.tick_params(axis="x", pad=9)
    axis.set_yticks([])
    axis.set_ylim(0, 1.02)
    axis.spines["polar"].set_visible(False)


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
