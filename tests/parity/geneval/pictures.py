"""Images that official code and ours are shown, and the weights that they look with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tests.parity.checkpoints import Shapes, fill

SIZES = [(96, 96), (61, 150), (133, 40)]
OFFICIAL_SIZES = [*SIZES, (512, 512), (720, 720), (1, 1), (333, 517), (30, 500), (1600, 1600)]
SMALL = (160, 96)
"""The longest and the shortest side for tiny networks, instead of 1333 and 800."""


def picture(height: int, width: int) -> NDArray[np.uint8]:
    """A random image with large and small structure, uint8 RGB."""
    rng = np.random.default_rng(height * 10_000 + width)
    rows, columns = np.mgrid[:height, :width] / 17
    waves = np.stack([np.sin(rows * (c + 1)) + np.cos(columns * (2 - c)) for c in range(3)], -1)
    noise = rng.standard_normal((height, width, 3))
    return np.clip(128 + 50 * waves + 20 * noise, 0, 255).astype(np.uint8)


def detector_state(shapes: Shapes) -> dict[str, Tensor]:
    """Random weights of Mask2Former; its queries are kept apart, lest all should see the same."""
    gains = {"query": 20, "cls_embed": 4}
    state = fill(shapes)
    for name, tensor in state.items():
        for part, gain in gains.items():
            if part in name:
                tensor *= gain
    return state
