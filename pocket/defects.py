"""What a weak generator does to an image, for judges and rewards to learn from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, zoom

from pocket.sprites import BACKGROUND, COLORS, SPRITE, Image
from pocket.world import CELL, CELLS, SIZE


def smooth(amplitude: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """A random field of low frequency, [64, 64, 3]."""
    coarse = rng.normal(0, amplitude, (CELLS, CELLS, 3)).astype(np.float32)
    return zoom(coarse, (CELL, CELL, 1), order=1)


def degrade(image: Image, rng: np.random.Generator) -> Image:
    """Spoil an image as a weak generator does: one to three random defects."""
    x = image.astype(np.float32)
    for kind in rng.permutation(7)[: rng.integers(1, 4)]:
        x = spoil(x, int(kind), rng)
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def spoil(x: NDArray[np.float32], kind: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Apply one defect: blur, noise, cast, blob, contrast loss, erased part or ghost."""
    paper = np.array(BACKGROUND, np.float32)
    left, top = rng.integers(0, SIZE - SPRITE, size=2)
    window = (slice(top, top + SPRITE), slice(left, left + SPRITE))
    match kind:
        case 0:
            return gaussian_filter(x, (sigma := rng.uniform(0.5, 2.0), sigma, 0))
        case 1:
            return x + rng.normal(0, rng.uniform(4, 25), x.shape).astype(np.float32)
        case 2:
            return x + smooth(rng.uniform(4, 25), rng)
        case 3:
            names = tuple(COLORS)
            paint = np.array(COLORS[names[rng.integers(len(names))]], np.float32)
            blob = gaussian_filter((rng.random((SPRITE, SPRITE)) < 0.5).astype(np.float32), 1.5)
            alpha = np.clip(4 * (blob - 0.42), 0, 1)[:, :, None]
            x = x.copy()
            x[window] += alpha * (paint - x[window])
            return x
        case 4:
            return paper + rng.uniform(0.35, 0.85) * (x - paper)
        case 5:
            x = x.copy()
            x[window] = paper
            return x
    ghost = np.roll(x, rng.integers(-6, 7, size=2), axis=(0, 1))
    return x + rng.uniform(0.2, 0.6) * (ghost - paper)
