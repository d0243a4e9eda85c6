"""Figures are drawn and the report holds everything it shows."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from leapalign.experiments import load_experiments
from paper import figures, report
from paper.boards import BUDGET, LOSSLESS, board
from paper.claims import Verdicts
from paper.curves import curve
from paper.drawing import inline
from paper.estimates import Estimates
from paper.ledger import Ledger
from paper.sections import chapters
from tests.paper.conftest import GAINS

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
    assert written == {
        f"{n}.{s}" for n in experiments.figures for s in ("png", "pdf", "svg", "csv")
    }


def test_the_report_refers_to_nothing_outside_itself(html: str) -> None:
    page = Page(html)
    assert page.open == []
    outside = [r for r in page.references if not r.startswith(("data:", "#"))]
    assert outside == []
    assert {r[1:] for r in page.references if r.startswith("#")} <= set(page.ids)
    style = html.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"<script[^>]* src=", html)


def test_no_id_stands_twice(html: str) -> None:
    ids = Page(html).ids
    assert len(ids) == len(set(ids))


def test_every_image_is_inlined_and_described(html: str) -> None:
    page = Page(html)
    experiments = load_experiments()
    boards = [figure for name, figure in experiments.figures.items() if name.startswith("grid")]
    shown = [run for figure in boards for run in figure.runs if run in GAINS]
    assert len(page.images) == 12 * len(shown)
    assert all(image["alt"] and str(image["src"]).startswith("data:") for image in page.images)
    assert len(html) < 8_000_000


def test_the_report_has_no_nan_and_says_why_a_run_is_missing(html: str) -> None:
    text = re.sub(r'src="[^"]*"', "", html)
    assert not re.search(r"\b(nan|NaN|None|Undefined|undefined)\b", text)
    assert "No results: not in the ledger: it has not been run." in text
    assert "not measured" in text


def test_the_report_names_every_weights_file_with_its_digest(html: str) -> None:
    assert f"{'ab' * 32}  pocket/weights/base/vae.safetensors" in html


def test_every_table_stands_there_with_its_csv(html: str, rendered: Path) -> None:
    for name in load_experiments().tables:
        assert f'id="table-{name}"' in html
        link = re.search(rf'href="data:text/csv[^,]*,([^"]+)" download="{name}.csv"', html)
        assert link is not None, name
        text = (rendered / "tables" / f"{name}.csv").read_text(encoding="utf-8")
        assert base64.b64decode(link[1]).decode() == text


def test_verdicts_stand_first_and_are_those_of_the_claims_file(html: str, rendered: Path) -> None:
    verdicts = Verdicts.read(rendered / "claims" / "claims.json").claims
    rows = re.findall(r'<tr data-verdict="(\w+)"', html)
    assert rows == [verdict.outcome.name.lower() for verdict in verdicts]
    assert html.index('id="verdicts"') < html.index('id="preference"')


def test_what_has_not_been_rendered_is_a_gap_and_the_rest_stands(
    rendered: Path, estimates: Estimates, tmp_path: Path
) -> None:
    shutil.copytree(rendered / "tables", tmp_path / "tables")
    (tmp_path / "tables" / "main.json").unlink()
    html = report.render(estimates, report.Rendered(tmp_path, load_experiments()))
    assert "<code>snakemake table_main</code> makes it" in html
    assert "<code>snakemake figure_scores</code> makes it" in html
    assert "Not judged." in html
    assert 'id="table-geneval"' in html
    assert Page(html).open == []


def test_a_drawing_keeps_only_ids_that_are_used_and_its_own() -> None:
    svg = (
        '<?xml version="1.0"?><svg width="10pt" height="5pt" viewBox="0 0 10 5">'
        '<style>*{stroke: red}</style><defs><path id="m"/></defs><g id="axes_1"><g id="run-refl">'
        '<use xlink:href="#m"/></g><g id="unused"/></g></svg>'
    )
    found = str(inline(svg, "curves", "Reward").svg)
    assert found.startswith('<svg role="img" aria-label="Reward"')
    assert 'id="curves-m"' in found
    assert 'href="#curves-m"' in found
    assert 'data-run="refl"' in found
    assert "unused" not in found
    assert "<style" not in found


def test_a_board_shrinks_its_images_into_its_budget(ledger_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(ledger_folder / "base", tmp_path / "base")
    noise = np.random.default_rng(0).integers(0, 256, (768, 768 * 12, 3), dtype=np.uint8)
    folder = tmp_path / "base" / "seed0"
    Image.fromarray(noise).save(folder / "samples.png")
    described = json.loads((folder / "samples.json").read_text())
    for index, sample in enumerate(described["samples"]):
        sample["box"] = [index * 768, 0, (index + 1) * 768, 768]
    (folder / "samples.json").write_text(json.dumps(described))
    found = board(Ledger.open(tmp_path), ["base"])
    tiles = [tile for row in found.tiles for tile in row]
    assert len(tiles) == 12
    assert sum(len(tile.uri) for tile in tiles) <= BUDGET
    assert LOSSLESS < tiles[0].width < 768


def test_the_latex_document_holds_every_table_and_figure(rendered: Path) -> None:
    text = (rendered / "report" / "paper.tex").read_text(encoding="utf-8")
    folder = rendered / "report"
    inputs = re.findall(r"\\(?:input|includegraphics\[[^]]*\])\{([^}]+)\}", text)
    assert len(inputs) == len(set(inputs))
    expected = {f"../tables/{name}.tex" for name in load_experiments().tables}
    expected |= {f"../figures/{name}.pdf" for name in load_experiments().figures}
    assert set(inputs) == expected | {"../claims/claims.tex"}
    assert all((folder / path).resolve().is_file() for path in inputs)
    whole = "".join((folder / path).read_text() for path in inputs if path.endswith(".tex")) + text
    begun, ended = (re.findall(rf"\\{word}\{{(\w+)\}}", whole) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended)
    labels = re.findall(r"\\label\{([^}]+)\}", whole)
    assert len(labels) == len(set(labels))


def test_every_exhibit_stands_in_one_section() -> None:
    experiments = load_experiments()
    shown = [name for chapter in chapters(experiments) for name in chapter.exhibits]
    assert sorted(shown) == sorted({*experiments.tables, *experiments.figures})


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


def test_a_figure_of_what_was_not_measured_says_so(estimates: Estimates, tmp_path: Path) -> None:
    figures.draw("progress", load_experiments().figures["progress"], estimates, tmp_path)
    drawn = (tmp_path / "progress.svg").read_text()
    assert "<!-- nothing of this has been measured -->" in drawn
    assert (tmp_path / "progress.csv").read_text() == "panel,run,x,y\n"
