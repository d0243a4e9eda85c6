"""Figures inside a page: the drawing itself, in the page's colours, its lines known by their runs.

A figure marks what belongs to a run by `gid(run)` and keeps its axes' scales in the SVG's
description. From both, the page lets a reader hide runs and read values off the lines.
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MARK = "run-"
ENLARGED = 1.65
"""How many pixels of the page a point of a figure becomes, where there is room."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure to be put into a page.

    Args:
        svg: the `<svg>` element.
        scales: the axes' limits and scales as JSON; empty where no line is known by its run.
    """

    svg: Markup
    scales: str


def gid(run: str) -> str:
    """The group id of all that a figure draws for a run."""
    return MARK + run


def unlisted(run: str) -> str:
    """The label of what belongs to a run but no legend lists."""
    return f"_{gid(run)}"


def run_of(line: Line2D) -> str | None:
    """The run that a line or point belongs to, if it belongs to one."""
    for mark in (line.get_gid() or "", str(line.get_label())[1:]):
        if mark.startswith(MARK):
            return mark.removeprefix(MARK)
    return None


def scales(figure: Figure) -> str:
    """The axes of a drawn figure as JSON: per direction the limits, the scale and the label."""
    described = [
        {
            "x": _scale(axis.get_xlim(), axis.get_xscale(), axis.get_xlabel()),
            "y": _scale(axis.get_ylim(), axis.get_yscale(), axis.get_ylabel()),
        }
        for axis in figure.axes
    ]
    return json.dumps(described, ensure_ascii=False)


def inline(svg: str, name: str, label: str) -> Drawing:
    """A figure's SVG as an element of a page.

    Args:
        svg: the file's text.
        name: the figure's name; it keeps the ids of several figures apart.
        label: what a screen reader says.
    """
    marked = f'id="{MARK}' in svg
    described = re.search(r"<dc:description>(.*?)</dc:description>", svg, re.DOTALL)
    text = svg[svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(rf'id="{MARK}([^"]*)"', r'data-run="\1"', text)
    text = re.sub(r'id="(axes|legend)_\d+"', r'data-part="\1"', text)
    text = _own_ids(text, name)
    width = ENLARGED * float(text.partition('viewBox="')[2].split()[2])
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text)
    attributes = f'role="img" aria-label="{html.escape(label)}" style="--width: {width:.0f}px"'
    text = text.replace("<svg", f"<svg {attributes}", 1)
    return Drawing(Markup(text), html.unescape(described[1]) if marked and described else "")


def _own_ids(text: str, name: str) -> str:
    """The drawing with the ids that something refers to, prefixed, and no others."""
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", text)


def _scale(limits: tuple[float, float], kind: str, label: str) -> dict[str, Any]:
    return {"limits": [float(limit) for limit in limits], "log": kind == "log", "label": label}
