"""A preference model's view of images: antialiased bicubic resize, padding, normalisation.

Resampling is linear and separable: y = (R_h x R_wᵀ - mean) / std with banded R (`bicubic`), whose
rows are zero where the output is padding. Its gradient is R_hᵀ g R_w / std.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from leapalign.kernels.bicubic import Axis, Band, bands
from leapalign.kernels.dispatch import cdiv, direct, fused, jit, tl, traced

Images = Float[Tensor, "batch channels height width"]

# Tiles of output pixels, by the axis that is resampled: (along it, across it).
TILES = {-2: (4, 256), -1: (128, 8)}


class View(NamedTuple):
    """What a model sees of an image.

    Args:
        resized: height and width to which the image is resized.
        corner: row and column of the view's first pixel in the resized image, 0 or, with padding,
            negative.
        size: the view's height and width, padding with black included.
        mean: per channel, subtracted.
        std: per channel, divided by.
    """

    resized: tuple[int, int]
    corner: tuple[int, int]
    size: tuple[int, int]
    mean: Sequence[float]
    std: Sequence[float]


def prepare(images: Images, view: View) -> Images:
    """Resize, pad and normalise images in [0, 1], unclamped, differentiably.

    The kernels compute in float32 and round once, to the type of the images.
    """
    if fused(images):
        return (torch.ops.leapalign.prepare if traced() else _direct)(
            images, view.resized, view.corner, view.size, list(view.mean), list(view.std)
        )
    return reference(images, view)


def reference(images: Images, view: View) -> Images:
    """The same in PyTorch, as torchvision resizes and pads; a CPU resizes in float32 or wider."""
    dtype, images = images.dtype, images.to(torch.promote_types(images.dtype, torch.float32))
    if images.shape[-2:] != torch.Size(view.resized):
        images = F.interpolate(
            images, view.resized, mode="bicubic", align_corners=False, antialias=True
        )
    (top, left), (height, width) = (-view.corner[0], -view.corner[1]), view.size
    right, bottom = width - left - view.resized[1], height - top - view.resized[0]
    images = F.pad(images, (left, right, top, bottom))
    mean, std = (images.new_tensor(list(c))[:, None, None] for c in (view.mean, view.std))
    return ((images - mean) / std).to(dtype)


@jit
def _resample(
    x, y, first, weight, gain, bias,
    x_image, x_channel, x_along, x_across, y_along, y_across,
    along, across, channels,
    TAPS: tl.constexpr, ALONG: tl.constexpr, ACROSS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # One axis is resampled, "along", by the band; the other, "across", is carried over. Threads
    # that are neighbours take neighbouring columns, whichever axis they are.
    image = tl.program_id(2).to(tl.int64)
    i = tl.program_id(0) * ALONG + tl.arange(0, ALONG)
    j = tl.program_id(1) * ACROSS + tl.arange(0, ACROSS)
    i, j = (i[None, :], j[:, None]) if COLUMNS else (i[:, None], j[None, :])
    inside = (i < along) & (j < across)
    base = x + image // channels * x_image + image % channels * x_channel
    start = tl.load(first + i, mask=i < along, other=0)
    total = tl.zeros(inside.shape, tl.float32)
    # Unrolled, so that all of a pixel's taps are on their way at once.
    for k in tl.static_range(TAPS):
        tap = tl.load(weight + i * TAPS + k, mask=i < along, other=0.0)
        pixel = tl.load(base + (start + k) * x_along + j * x_across, mask=inside, other=0.0)
        total += tap * pixel.to(tl.float32)
    total = total * tl.load(gain + image % channels) + tl.load(bias + image % channels)
    tl.store(y + image * along * across + i * y_along + j * y_across, total, mask=inside)


@functools.cache
def _channels(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[tuple[Tensor, Tensor], ...]:
    """Gain and bias per channel that leave it, normalise it, and take its gradient back."""
    gain = 1.0 / torch.tensor(std, dtype=torch.float64)
    zeros = torch.zeros_like(gain)
    pairs = (torch.ones_like(gain), zeros), (gain, -gain * torch.tensor(mean)), (gain, zeros)
    return tuple((a.to(device, torch.float32), b.to(device, torch.float32)) for a, b in pairs)


def _apply(x: Tensor, dim: int, band: Band, y: Tensor, channel: tuple[Tensor, Tensor]) -> None:
    """Resample dimension -2 or -1 of x into the contiguous y, then scale and shift per channel."""
    along, across = (y.shape[dim], y.shape[-3 - dim])
    tile_along, tile_across = TILES[dim]
    grid = cdiv(along, tile_along), cdiv(across, tile_across), y.shape[0] * y.shape[1]
    _resample[grid](
        x, y, *band, *channel,
        x.stride(0), x.stride(1), x.stride(dim), x.stride(-3 - dim), y.stride(dim),
        y.stride(-3 - dim), along, across, y.shape[1],
        band.weight.shape[1], tile_along, tile_across, dim == -1,
    )  # fmt: skip


def _launch(
    images: Tensor,
    resized: Sequence[int],
    corner: Sequence[int],
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Rows first, so that the large image is read along its memory; columns and the rest last."""
    y = _op_shape(images, resized, corner, size, mean, std)
    axes = _axes(images.shape, resized, corner, size)
    (rows, _), (columns, _) = (bands(axis, images.device) for axis in axes)
    unchanged, normalised, _ = _channels(tuple(mean), tuple(std), images.device)
    between = images.new_empty(*images.shape[:2], size[0], images.shape[3], dtype=torch.float32)
    _apply(images, -2, rows, between, unchanged)
    _apply(between, -1, columns, y, normalised)
    return y


_op = torch.library.custom_op("leapalign::prepare", _launch, mutates_args=())


@_op.register_fake
def _op_shape(
    images: Tensor,
    resized: Sequence[int],
    corner: Sequence[int],
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    return images.new_empty(*images.shape[:2], *size)


def _launch_backward(
    g: Tensor, shape: Sequence[int], resized: Sequence[int], corner: Sequence[int], std: list[float]
) -> Tensor:
    """The transposed passes in the reverse order, the large gradient written along its memory."""
    dx = _backward_shape(g, shape, resized, corner, std)
    axes = _axes(shape, resized, corner, g.shape[-2:])
    (_, rows), (_, columns) = (bands(axis, g.device) for axis in axes)
    unchanged, _, scaled = _channels((0.0,) * len(std), tuple(std), g.device)
    between = g.new_empty(*g.shape[:3], shape[3], dtype=torch.float32)
    _apply(g, -1, columns, between, scaled)
    _apply(between, -2, rows, dx, unchanged)
    return dx


_backward_op = torch.library.custom_op(
    "leapalign::prepare_backward", _launch_backward, mutates_args=()
)


@_backward_op.register_fake
def _backward_shape(
    g: Tensor,
    shape: Sequence[int],
    resized: Sequence[int],
    corner: Sequence[int],
    std: list[float],
) -> Tensor:
    return g.new_empty(*shape)


def _axes(
    shape: Sequence[int], resized: Sequence[int], corner: Sequence[int], size: Sequence[int]
) -> tuple[Axis, Axis]:
    height, width = (Axis(shape[dim], resized[dim], corner[dim], size[dim]) for dim in (-2, -1))
    return height, width


def _save(ctx, inputs, output) -> None:
    images, ctx.resized, ctx.corner, _, _, ctx.std = inputs
    ctx.shape = images.shape


def _differentiate(backward, ctx, g):
    dx = backward(g, ctx.shape, ctx.resized, ctx.corner, ctx.std)
    return dx, None, None, None, None, None


_op.register_autograd(partial(_differentiate, _backward_op), setup_context=_save)
_direct = direct(_launch, _save, partial(_differentiate, _launch_backward))
