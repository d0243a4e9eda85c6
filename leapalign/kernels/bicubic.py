"""Antialiased bicubic resampling along one axis, as banded matrices.

The weights are those of torchvision and Pillow: Keys' kernel (1981) with a = -1/2, stretched by the
scale when the image shrinks, cut off at the border and normalised.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

RADIUS = 2.0
A = -0.5


class Axis(NamedTuple):
    """How one axis is resampled: `size` pixels to `resized`, of which a window is kept.

    Args:
        size: pixels of the input.
        resized: pixels after resizing.
        start: first pixel of the window; negative where it begins with padding.
        window: pixels of the output, padding included.
    """

    size: int
    resized: int
    start: int
    window: int


class Band(NamedTuple):
    """A banded matrix: output i is Σ_k weight[i, k] · input[first[i] + k].

    Weights past an output's own taps are zero, and so is all of a padding pixel's row.
    """

    first: Int[Tensor, " window"]
    weight: Float[Tensor, "window taps"]


def keys(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel."""
    x = x.abs()
    near = ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    far = A * (((x - 5.0) * x + 8.0) * x - 4.0)
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, torch.zeros_like(x)))


def matrix(axis: Axis) -> Float[Tensor, "window size"]:
    """The resampling matrix in float64."""
    scale = axis.size / axis.resized
    stretch = max(scale, 1.0)
    out = torch.arange(axis.start, axis.start + axis.window, dtype=torch.float64)[:, None]
    pixel = torch.arange(axis.size, dtype=torch.float64)[None]
    centre = scale * (out + 0.5)
    low = (centre - RADIUS * stretch + 0.5).floor().clamp_min(0.0)
    high = (centre + RADIUS * stretch + 0.5).floor()
    taps = (pixel >= low) & (pixel < high) & (out >= 0) & (out < axis.resized)
    weight = torch.where(taps, keys((pixel - centre + 0.5) / stretch), 0.0)
    total = weight.sum(1, keepdim=True)
    return torch.where(total == 0.0, 0.0, weight / total)


@functools.cache
def bands(axis: Axis, device: torch.device) -> tuple[Band, Band]:
    """The resampling of an axis in float32, and its transpose, which takes gradients back."""
    dense = matrix(axis)
    forward, backward = band(dense), band(dense.T)
    return _to(forward, device), _to(backward, device)


def band(dense: Float[Tensor, "rows columns"]) -> Band:
    """A matrix whose rows are zero but for one interval each."""
    held = dense != 0.0
    first = held.to(torch.int64).argmax(1)
    last = dense.shape[1] - 1 - held.flip(1).to(torch.int64).argmax(1)
    empty = ~held.any(1)
    taps = int(torch.where(empty, 1, last - first + 1).max())
    # A row near the end may have fewer taps than the widest one: it begins earlier instead.
    first = first.clamp_max(dense.shape[1] - taps)
    columns = first[:, None] + torch.arange(taps)
    return Band(first, dense.gather(1, columns))


def _to(band: Band, device: torch.device) -> Band:
    return Band(
        band.first.to(device, torch.int32).contiguous(),
        band.weight.to(device, torch.float32).contiguous(),
    )
