"""The contact sheets of a ledger: the same prompts and noise under every run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from leapalign.errors import UserError
from paper.ledger import Ledger
from paper.names import run_label


@dataclass(frozen=True)
class Sheet:
    """One run's samples: prompts, and an image for each."""

    run: str
    label: str
    prompts: tuple[str, ...]
    images: tuple[Image.Image, ...]
    gap: str | None = None


def sheets(ledger: Ledger, runs: Sequence[str], name: str = "samples") -> list[Sheet]:
    """The sheets of several runs' first seed; a run without one keeps its reason.

    Args:
        ledger: where they are.
        runs: whose.
        name: "samples", or "enlarged" for those at a higher resolution.
    """
    return [_sheet(ledger, run, name) for run in runs]


def prompts(found: Sequence[Sheet]) -> tuple[str, ...]:
    """The prompts of all sheets.

    Raises:
        UserError: Two sheets show different prompts.
    """
    shown = [sheet for sheet in found if sheet.images]
    for sheet in shown:
        if sheet.prompts != shown[0].prompts:
            raise UserError(
                f"samples.json of run {sheet.run} shows other prompts than that of {shown[0].run}: "
                "the ledger mixes test sets; evaluate both again"
            )
    return shown[0].prompts if shown else ()


def mosaic(found: Sequence[Sheet], columns: int, cell: int) -> Image.Image:
    """The first images of every sheet, a row each, in square cells with thin white gaps.

    Args:
        found: the sheets, one per row; one without images leaves its row white.
        columns: how many images of each.
        cell: the side of a cell, pixels; much smaller images keep their pixels' edges.
    """
    canvas = Image.new("RGB", (columns * cell, len(found) * cell), "white")
    side = cell - cell // 24
    for row, sheet in enumerate(found):
        for column, image in enumerate(sheet.images[:columns]):
            enlarged = max(image.size) <= side // 2
            filtering = Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS
            scale = side / max(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            canvas.paste(image.resize(size, filtering), (column * cell, row * cell))
    return canvas


def _sheet(ledger: Ledger, run: str, name: str) -> Sheet:
    gap = ledger.gap(run)
    if gap is None:
        folder = next(iter(ledger.runs[run].folders.values()))
        files = (f"{name}.png", f"{name}.json")
        missing = [file for file in files if not (folder / file).exists()]
        gap = f"its ledger lacks {' and '.join(missing)}" if missing else None
    if gap is not None:
        return Sheet(run, run_label(run), (), (), gap)
    texts, images = _read(folder, name)
    return Sheet(run, run_label(run), texts, images)


def _read(folder: Path, name: str) -> tuple[tuple[str, ...], tuple[Image.Image, ...]]:
    """The prompts and tiles of a sheet."""
    try:
        described = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["samples"]
        with Image.open(folder / f"{name}.png") as opened:
            sheet = opened.convert("RGB")
        tiles = tuple(sheet.crop(tuple(entry["box"])) for entry in described)
        return tuple(entry["prompt"] for entry in described), tiles
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: {name}.png or {name}.json is damaged ({error}); run it again"
        ) from None
