"""The report in a real browser: it looks whole at every width and scheme, and what moves works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from paper.curves import curve
from paper.estimates import Estimates
from tests import tolerances
from tests.paper.browser import CHROMIUM, Browser, browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

VIEWS = [(width, scheme) for width in (1440, 390) for scheme in ("light", "dark")]
CONTRAST = """(() => {
  const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const rgba = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = rgba(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] > 0.9) return color;
    }
    return [255, 255, 255];
  };
  const found = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const seen = element.checkVisibility({ visibilityProperty: true });
    if (!seen || !walker.currentNode.data.trim()) continue;
    if (element.closest("svg, script, style, nav, .unseen, .skip")) continue;
    const pair = [rgba(getComputedStyle(element).color), behind(element)];
    const [dark, light] = pair.map(luminance).sort((a, b) => a - b);
    const ratio = (light + 0.05) / (dark + 0.05);
    if (ratio < 4.5) found[`${pair.join(" on ")} ${ratio.toFixed(2)}`] = element.outerHTML;
  }
  return found;
})()"""
COLUMN = """[...document.querySelectorAll("#table-main tbody tr")].map(
  (row) => Number(row.cells[1].dataset.value))"""
SHOWN = """[...document.querySelectorAll("#verdicts tbody tr")]
  .filter((row) => row.checkVisibility()).map((row) => row.dataset.verdict)"""
TIP = """[document.getElementById("tip")].map((tip) => tip.hidden ? "" : tip.innerText)[0]"""
PROMPTS = """[...document.querySelectorAll("[data-board=grid] tbody tr")]
  .filter((row) => row.checkVisibility()).map((row) => row.cells[0].textContent)"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(chromium: Browser, rendered: Path) -> Browser:
    """The report on a desktop, as it looks when it is opened."""
    chromium.open(rendered / "report" / "index.html", 1440, 900, "light")
    return chromium


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_it_opens_whole_and_without_errors(
    chromium: Browser, rendered: Path, width: int, scheme: str
) -> None:
    chromium.open(rendered / "report" / "index.html", width, 900, scheme)
    assert chromium.run("document.scrollingElement.scrollWidth <= innerWidth")
    assert chromium.run("document.images.length") > 0
    assert chromium.run("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
    assert chromium.run(CONTRAST) == {}
    assert chromium.errors == []


def test_a_column_sorts_by_click_and_by_keyboard(page: Browser) -> None:
    before = page.run(COLUMN)
    button = "#table-main thead th:nth-child(2) > button"
    page.run(f"document.querySelector('{button}').click()")
    assert page.run(COLUMN) == sorted(before, reverse=True)
    page.run(f"document.querySelector('{button}').focus()")
    page.press("Enter")
    assert page.run(COLUMN) == sorted(before)
    assert page.run(f"document.querySelector('{button}').parentElement.ariaSort") == "ascending"
    page.press("Enter")
    assert page.run(COLUMN) == before
    assert page.run("document.querySelectorAll('#table-main [aria-sort]').length") == 0


def test_rows_without_a_number_sort_last(page: Browser) -> None:
    head = "#table-ablation_discount thead th:nth-child(2) > button"
    values = """[...document.querySelectorAll("#table-ablation_discount tbody tr")].map(
        (row) => row.cells[1].dataset.value ?? null)"""
    for _ in range(2):
        page.run(f"document.querySelector('{head}').click()")
        assert page.run(values)[-1] is None


def test_claims_are_filtered_by_verdict_and_source(page: Browser) -> None:
    everything = page.run(SHOWN)
    page.run("document.querySelector('button.count.replicated').click()")
    assert page.run(SHOWN) == [verdict for verdict in everything if verdict == "replicated"]
    told = page.run("document.querySelector('.shown').textContent")
    assert told == f"{everything.count('replicated')} of {len(everything)} claims"
    page.run("document.querySelector('[data-filter=source][value=\"Figure 6\"]').click()")
    assert len(page.run(SHOWN)) < everything.count("replicated")
    page.run("document.querySelector('button.count.replicated').click()")
    page.run("document.querySelector('[data-filter=source][value=\"\"]').click()")
    assert page.run(SHOWN) == everything


def test_a_prompt_is_picked_and_runs_are_left_out(page: Browser) -> None:
    everything = page.run(PROMPTS)
    board = "document.querySelector('[data-board=grid]')"
    page.run(f"{board}.querySelector('[data-step=\"1\"]').click()")
    assert page.run(PROMPTS) == everything[:1]
    page.run(f"{board}.querySelector('[data-step=\"1\"]').click()")
    assert page.run(PROMPTS) == everything[1:2]
    images = f"[...{board}.querySelectorAll('img')].filter((i) => i.checkVisibility()).length"
    count = page.run(images)
    page.run(f"{board}.querySelector('input').click()")
    assert page.run(images) == count - 1


def test_provenance_is_told_on_focus_and_dismissed_by_escape(page: Browser) -> None:
    page.point(1, 1)  # what scrolls under a pointer would speak up for itself
    link = "document.querySelector('#table-main a.run[href=\"#run-leapalign\"]')"
    page.scroll(link)
    page.run(f"{link}.focus({{preventScroll: true}})")
    told = page.run(TIP)
    for text in ("LeapAlign", "seeds 0, 1", "settings ", "code 0123456789", "cpu", "2026-01-02"):
        assert text in told
    assert page.run("document.activeElement.getAttribute('aria-describedby')") == "tip"
    page.press("ArrowRight")
    assert "HPSv2.1: 96 images of 24 prompts, seeds 0, 1" in page.run(TIP)
    page.press("Escape")
    assert page.run(TIP) == ""


def test_curves_hide_runs_and_tell_their_values(page: Browser, estimates: Estimates) -> None:
    figure = "[...document.querySelectorAll('figure')].find((f) => f.querySelector('[data-run]'))"
    page.scroll(figure)
    frame = f"{figure}.querySelector('[data-part=axes] path').getBoundingClientRect()"
    x, y = page.run(f"(() => {{ const b = {frame}; return [b.right - b.width / 50, b.y + 9]; }})()")
    page.point(x, y)
    told = dict(line.rsplit(" ", 1) for line in page.run(TIP).splitlines())
    drawn = curve(estimates.ledger.runs["leapalign"].training, "iteration", "reward")
    expected = np.interp(float(told["iteration"]), drawn.x, drawn.mean)
    assert float(told["LeapAlign"]) == pytest.approx(expected, abs=tolerances.READ_OFF)
    page.run(f"[...{figure}.querySelectorAll('.legend button')].at(-1).click()")
    page.point(x - 2, y)
    assert "LeapAlign" not in page.run(TIP)
    assert page.errors == []


def test_the_scheme_is_switched_and_remembered(page: Browser, rendered: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.run(background)
    page.run("document.getElementById('theme').click()")
    dark = page.run(background)
    assert dark != light
    page.open(rendered / "report" / "index.html", 1440, 900, "light")
    assert page.run(background) == dark
    page.run("document.getElementById('theme').click()")
    assert page.run(background) == light


def test_print_shows_the_page_without_its_controls(page: Browser) -> None:
    page.call("Emulation.setEmulatedMedia", media="print")
    for selector in ("nav", ".picker", ".filters", ".legend"):
        assert not page.run(f"document.querySelector('{selector}').checkVisibility()")
    cut = "[document.querySelector('.claims')].some((e) => e.scrollHeight > e.clientHeight + 2)"
    assert not page.run(cut)
    page.call("Emulation.setEmulatedMedia", media="")


def test_without_script_everything_is_shown(chromium: Browser, rendered: Path) -> None:
    chromium.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(rendered / "report" / "index.html", 1440, 900, "light")
        assert chromium.run("[...document.querySelectorAll('tbody tr')].every((r) => !r.hidden)")
        assert not chromium.run("document.querySelector('.picker').checkVisibility()")
        assert chromium.run("document.querySelector('[data-part=legend]').checkVisibility()")
    finally:
        chromium.call("Emulation.setScriptExecutionDisabled", value=False)
