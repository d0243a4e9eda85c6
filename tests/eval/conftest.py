"""Folders of images to score."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from eval.manifest import Sample, write_manifest

COLORS = ("red", "green", "blue")


def sample(index: int) -> Sample:
    prompt = f"a {COLORS[index]} cube"
    include = [{"class": "cube", "count": 1, "color": COLORS[index]}]
    metadata = {"tag": "colors", "include": include, "prompt": prompt}
    return Sample(f"{index:05d}.png", index, prompt, 0, 7, metadata)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three plain images of 4 x 4 pixels in red, green and blue, with their manifest."""
    folder = tmp_path / "images"
    folder.mkdir()
    for index, color in enumerate(COLORS):
        Image.new("RGB", (4, 4), color).save(folder / f"{index:05d}.png")
    write_manifest(folder, [sample(index) for index in range(len(COLORS))])
    return folder
