"""Boards of images: the same prompt and noise under every run, a row per prompt."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from paper.ledger import Ledger
from paper.samples import Sheet, prompts, sheets

LOSSLESS = 128
"""Images up to this size (px) are kept losslessly; larger ones as JPEG."""
SIDES = (1024, 768, 512, 384, 256, LOSSLESS)
BUDGET = 2_500_000
"""What one board may add to a page, characters: its images shrink until they fit."""


@dataclass(frozen=True, slots=True)
class Tile:
    """An image as a data URI, and its size in pixels."""

    uri: str
    width: int
    height: int

    @property
    def pixels(self) -> bool:
        """Whether the image is so small that its pixels are to stay visible."""
        return max(self.width, self.height) <= LOSSLESS


@dataclass(frozen=True, slots=True)
class Board:
    """The images of several runs.

    Args:
        kind: the sheets' name, `samples` or `enlarged`.
        prompts: a row each.
        runs: name and printed name of the runs that have images, a column each.
        tiles: per prompt, an image of each of `runs`.
        gaps: printed name of a run without images → why.
    """

    kind: str
    prompts: tuple[str, ...]
    runs: tuple[tuple[str, str], ...]
    tiles: tuple[tuple[Tile, ...], ...]
    gaps: dict[str, str]


def board(ledger: Ledger, runs: Sequence[str], kind: str = "samples") -> Board:
    """The board of several runs' sheets."""
    found = sheets(ledger, runs, kind)
    shown = [sheet for sheet in found if sheet.images]
    return Board(
        kind,
        prompts(found),
        tuple((sheet.run, sheet.label) for sheet in shown),
        _tiles(shown),
        {sheet.label: sheet.gap for sheet in found if sheet.gap},
    )


def _tiles(shown: Sequence[Sheet]) -> tuple[tuple[Tile, ...], ...]:
    """The images prompt by prompt, as large as the budget allows."""
    rows = list(zip(*(sheet.images for sheet in shown), strict=True))
    for side in SIDES:
        tiles = tuple(tuple(_tile(image, side) for image in row) for row in rows)
        if sum(len(tile.uri) for row in tiles for tile in row) <= BUDGET:
            break
    return tiles


def _tile(image: Image.Image, side: int) -> Tile:
    """An image with at most `side` pixels a side, inlined."""
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    kind = "png" if max(image.size) <= LOSSLESS else "jpeg"
    image.save(data, kind, **({"optimize": True} if kind == "png" else {"quality": 86}))
    encoded = base64.b64encode(data.getvalue()).decode()
    return Tile(f"data:image/{kind};base64,{encoded}", image.width, image.height)
