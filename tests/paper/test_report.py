"""Figures are drawn and the report holds everything it shows."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from leapalign.experiments import load_experiments
from paper import figures, report
from paper.curves import curve
from paper.estimates import Estimates

RESOURCES = {"src", "href", "data", "srcset", "poster", "action"}


@pytest.fixture(scope="module")
def html(rendered: Path) -> str:
    return (rendered / "report" / "index.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Collects what a page refers to, its images, and whether its tags close."""

    VOID = frozenset({"meta", "link", "img", "br", "hr", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.references += [value for key, value in attrs if key in RESOURCES and value]
        self.images += [found] if tag == "img" else []
        self.ids += [str(found["id"])] if "id" in found else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_every_table_and_figure_is_written(rendered: Path) -> None:
    experiments = load_experiments()
    written = {path.name for path in (rendered / "tables").iterdir()}
    assert written == {f"{n}.{s}" for n in experiments.tables for s in ("csv", "md", "tex", "json")}
    written = {path.name for path in (rendered / "figures").iterdir()}
    assert written == {f"{n}.{s}" for n in experiments.figures for s in ("png", "pdf", "svg")}


def test_the_report_refers_to_nothing_outside_itself(html: str) -> None:
    page = Page(html)
    assert page.open == []
    outside = [r for r in page.references if not r.startswith(("data:", "#"))]
    assert outside == []
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(page.ids)
    style = html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert "<script" not in html
    for uri in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html):
        drawing = base64.b64decode(uri).decode()
        assert not re.search(r'href="(?!#|data:)', drawing)


def test_every_image_is_inlined_and_described(html: str) -> None:
    page = Page(html)
    experiments = load_experiments()
    shown = len(experiments.figures) - 1  # the grid is made of its images
    tiles = 12 * len(experiments.figures["grid"].runs)
    assert len(page.images) == shown + tiles
    assert all(image["alt"] and str(image["src"]).startswith("data:") for image in page.images)
    assert len(html) < 8_000_000


def test_the_report_has_no_nan_and_says_why_a_run_is_missing(html: str) -> None:
    text = re.sub(r'src="[^"]*"', "", html)
    assert not re.search(r"\b(nan|NaN|None|Undefined|undefined)\b", text)
    assert "No results: not in the ledger: it has not been run." in text
    assert "not measured" in text


def test_the_report_names_every_weights_file_with_its_digest(html: str) -> None:
    assert f"{'ab' * 32}  pocket/weights/base/vae.safetensors" in html


def test_the_same_ledger_gives_the_same_bytes(
    html: str, rendered: Path, estimates: Estimates, tmp_path: Path
) -> None:
    experiments = load_experiments()
    assert report.render(estimates, report.Rendered(rendered, experiments)) == html
    for name in ("reward_curves", "grid"):
        figures.draw(name, experiments.figures[name], estimates, tmp_path)
        for path in tmp_path.iterdir():
            assert path.read_bytes() == (rendered / "figures" / path.name).read_bytes(), path.name


def test_drawings_follow_the_colour_scheme() -> None:
    drawing = figures.adaptive('<svg><defs></defs><path style="fill: #1f2328"/></svg>')
    assert "fill: var(--grey-0)" in drawing
    assert "--grey-0:#1f2328;" in drawing
    assert "prefers-color-scheme:dark" in drawing


def test_a_curve_is_the_mean_and_range_over_seeds() -> None:
    log = pd.DataFrame({
        "seed": [0, 0, 1, 1, 1],
        "iteration": [1, 2, 1, 2, 3],
        "seconds": [1.0, 2.0, 3.0, 4.0, 5.0],
        "reward": [0.1, 0.2, 0.3, 0.6, 0.9],
    })  # fmt: skip
    found = curve(log, "seconds", "reward")
    np.testing.assert_allclose(found.x, [2.0, 3.0])
    np.testing.assert_allclose(found.mean, [0.2, 0.4])
    np.testing.assert_allclose(found.low, [0.1, 0.2])
    np.testing.assert_allclose(found.high, [0.3, 0.6])


def test_a_figure_without_any_of_its_runs_still_draws(estimates: Estimates, tmp_path: Path) -> None:
    exhibit = load_experiments().figures["reward_curves"]
    nothing = type(exhibit)(("leapalign-alpha-1",), exhibit.title)
    for name in ("reward_curves", "grid", "scores"):
        figures.draw(name, nothing, estimates, tmp_path)
        assert (tmp_path / f"{name}.png").stat().st_size > 0


def test_rendering_imports_no_deep_learning_library() -> None:
    code = (
        "import sys, paper.__main__; "
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
