"""How the world's icons look: six shapes, six colours, antialiased on a light background."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

SPRITE = 14
RADII = (5.6, 6.0, 6.4)
BACKGROUND = (242, 242, 242)
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 32, 40),
    "yellow": (240, 200, 20),
    "green": (30, 160, 60),
    "blue": (40, 80, 220),
    "purple": (160, 50, 180),
    "black": (25, 25, 25),
}


def coverage(shape: str, radius: float, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the points (x right, y down, from the centre) lie inside a shape."""
    r = np.hypot(x, y)
    match shape:
        case "circle":
            return r <= radius
        case "ring":
            return (r <= radius) & (r >= 0.5 * radius)
        case "square":
            return np.maximum(abs(x), abs(y)) <= 0.9 * radius
        case "cross":
            return (np.minimum(abs(x), abs(y)) <= 0.3 * radius) & (
                np.maximum(abs(x), abs(y)) <= radius
            )
        case "triangle":
            return (y <= 0.85 * radius) & (2.0 * abs(x) <= 1.12 * (y + radius))
        case "star":
            angle = abs(np.mod(np.arctan2(x, -y) + np.pi / 5, 2 * np.pi / 5) - np.pi / 5)
            notch_x, notch_y = (
                0.45 * radius * np.cos(np.pi / 5),
                0.45 * radius * np.sin(np.pi / 5),
            )
            along, across = r * np.cos(angle) - radius, r * np.sin(angle)
            return (notch_x - radius) * across - notch_y * along >= 0
    raise ValueError(f"unknown shape {shape!r}; known: {', '.join(SHAPES)}")


@functools.cache
def mask(shape: str, radius: float) -> NDArray[np.float32]:
    """Antialiased coverage in [0, 1] of a shape, on a SPRITE x SPRITE window around its centre."""
    fine = 8
    ticks = (np.arange(SPRITE * fine) + 0.5) / fine - SPRITE / 2
    inside = coverage(shape, radius, ticks[None, :], ticks[:, None])
    return inside.reshape(SPRITE, fine, SPRITE, fine).mean((1, 3)).astype(np.float32)


@functools.cache
def sprite(shape: str, color: str, radius: float) -> Image:
    """A coloured shape on the background, SPRITE x SPRITE x 3."""
    alpha = mask(shape, radius)[:, :, None]
    paint, paper = np.array([COLORS[color], BACKGROUND], np.float32)
    return np.rint(paper + alpha * (paint - paper)).astype(np.uint8)
