"""Random weights that depend on a tensor's name and shape alone, whoever makes them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray


def random_state(shapes: Mapping[str, Sequence[int]]) -> dict[str, NDArray[np.float32]]:
    """A tensor for each name: matrices keep the scale of what they map, norms are near one.

    Mask2Former's queries are kept apart, lest all of them should see the same.
    """
    return {name: _tensor(name, tuple(shape)) for name, shape in shapes.items()}


def _tensor(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("bias"):
        noise *= 0.1
    elif len(shape) == 1:
        noise = 1 + 0.1 * noise
    else:
        noise /= math.sqrt(math.prod(shape[1:]))
    if "query" in name:
        noise *= 20
    elif "cls_embed" in name:
        noise *= 4
    return noise.astype(np.float32)
