"""A tiny CLIP, and objects whose colours official code and ours are to name."""

from __future__ import annotations

import numpy as np
import open_clip
from numpy.typing import NDArray

from tests.parity.checkpoints import fill

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 224, "layers": 2, "width": 64, "patch_size": 32, "head_width": 32}
CONFIG = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}
LABELS = ["bench", "wine glass", "person"]


def tiny_clip() -> open_clip.CLIP:
    """A small CLIP whose weights depend on their names alone."""
    model = open_clip.CLIP(**CONFIG)
    shapes = {name: list(one.shape) for name, one in model.state_dict().items()}
    model.load_state_dict(fill(shapes))
    return model.eval()


def scene(index: int) -> tuple[NDArray[np.uint8], list[tuple[list[float], NDArray[np.bool_]]]]:
    """An image of odd size, and the boxes and masks of three objects in it."""
    rng = np.random.default_rng(index)
    height, width = 50 + 37 * index, 90 + 11 * index
    image = rng.integers(0, 256, (1, 1, 3)) + rng.integers(-60, 60, (height, width, 3))
    objects = []
    for _ in range(3):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        bottom, right = rng.integers(top + 2, height), rng.integers(left + 2, width)
        mask = np.zeros((height, width), bool)
        mask[top:bottom, left:right] = rng.random((bottom - top, right - left)) > 0.2
        shift = rng.choice([0.0, 0.5, 0.25])
        objects.append(([left + shift, top - shift + 1, float(right), float(bottom)], mask))
    return np.clip(image, 0, 255).astype(np.uint8), objects
