"""A preference model's view of images: antialiased bicubic resize, padding, normalisation.

Resampling is linear and separable: y = (R_h x R_wᵀ - mean) / std with banded R (`bicubic`), whose
rows are zero where the output is padding. Its gradient is R_hᵀ g R_w / std.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from leapalign.kernels.bicubic import Axis, Band, bands
from leapalign.kernels.dispatch import cdiv, fused, jit, processors, tl, warps

Images = Float[Tensor, "batch channels height width"]

# Output rows that a program makes at a time, and pixels of each that it holds.
ROWS, BLOCK = 16, 128


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
        return torch.ops.leapalign.prepare(
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
    x, y, strip_rows, row_first, row_weight, column_first, column_weight, gain, bias,
    x_image, x_channel, x_row, x_column,
    width, height, out_width, channels, row_taps, column_taps, strips, planes,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # Each program makes strips of output rows in turn: first the rows are resampled, into a place
    # of its own that stays in the cache, then their columns.
    r = tl.arange(0, ROWS)[:, None]
    own = strip_rows + tl.program_id(0) * ROWS * width
    for strip in range(tl.program_id(0), strips * planes, tl.num_programs(0)):
        plane = (strip // strips).to(tl.int64)
        i = strip % strips * ROWS + r
        base = x + plane // channels * x_image + plane % channels * x_channel
        start = tl.load(row_first + i, mask=i < height, other=0)
        for left in range(0, width, BLOCK):
            c = left + tl.arange(0, BLOCK)[None, :]
            inside = (i < height) & (c < width)
            total = tl.zeros((ROWS, BLOCK), tl.float32)
            for k in range(row_taps):
                tap = tl.load(row_weight + i * row_taps + k, mask=i < height, other=0.0)
                at = base + (start + k) * x_row + c * x_column
                total += tap * tl.load(at, mask=inside, other=0.0).to(tl.float32)
            tl.store(own + r * width + c, total, mask=inside)
        tl.debug_barrier()
        for left in range(0, out_width, BLOCK):
            j = left + tl.arange(0, BLOCK)[None, :]
            inside = (i < height) & (j < out_width)
            start_column = tl.load(column_first + j, mask=j < out_width, other=0)
            total = tl.zeros((ROWS, BLOCK), tl.float32)
            for k in range(column_taps):
                tap = tl.load(column_weight + j * column_taps + k, mask=j < out_width, other=0.0)
                total += tap * tl.load(own + r * width + start_column + k, mask=inside, other=0.0)
            total = total * tl.load(gain + plane % channels) + tl.load(bias + plane % channels)
            tl.store(y + (plane * height + i) * out_width + j, total, mask=inside)
        tl.debug_barrier()


@functools.cache
def _channels(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[tuple[Tensor, Tensor], ...]:
    """Gain and bias per channel that normalise it, and that take its gradient back."""
    gain = 1.0 / torch.tensor(std, dtype=torch.float64)
    pairs = (gain, -gain * torch.tensor(mean)), (gain, torch.zeros_like(gain))
    return tuple((a.to(device, torch.float32), b.to(device, torch.float32)) for a, b in pairs)


def _apply(x: Tensor, rows: Band, columns: Band, y: Tensor, channel: tuple[Tensor, Tensor]) -> None:
    """Resample the rows of x, then the columns, into the contiguous y; scale and shift channels."""
    channels, width = x.shape[1], x.shape[3]
    height, out_width = y.shape[-2:]
    strips, planes = cdiv(height, ROWS), y.shape[0] * channels
    programs = min(strips * planes, 4 * processors(x.device))
    own = x.new_empty(programs, ROWS, width, dtype=torch.float32)
    _resample[(programs,)](
        x, y, own, *rows, *columns, *channel,
        *x.stride(), width, height, out_width, channels,
        rows.weight.shape[1], columns.weight.shape[1], strips, planes,
        ROWS, BLOCK, num_warps=warps(ROWS * BLOCK),
    )  # fmt: skip


@torch.library.custom_op("leapalign::prepare", mutates_args=())
def _op(
    images: Tensor,
    resized: Sequence[int],
    corner: Sequence[int],
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
) -> Tensor:
    """Resampling by the bands, then normalisation."""
    y = _op_shape(images, resized, corner, size, mean, std)
    axes = _axes(images.shape, resized, corner, size)
    (rows, _), (columns, _) = (bands(axis, images.device) for axis in axes)
    normalising, _ = _channels(tuple(mean), tuple(std), images.device)
    _apply(images, rows, columns, y, normalising)
    return y


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


@torch.library.custom_op("leapalign::prepare_backward", mutates_args=())
def _backward_op(
    g: Tensor, shape: Sequence[int], resized: Sequence[int], corner: Sequence[int], std: list[float]
) -> Tensor:
    """The same by the transposed bands."""
    dx = _backward_shape(g, shape, resized, corner, std)
    axes = _axes(shape, resized, corner, g.shape[-2:])
    (_, rows), (_, columns) = (bands(axis, g.device) for axis in axes)
    _, scaling = _channels((0.0,) * len(std), tuple(std), g.device)
    _apply(g, rows, columns, dx, scaling)
    return dx


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


def _differentiate(ctx, g):
    dx = torch.ops.leapalign.prepare_backward(g, ctx.shape, ctx.resized, ctx.corner, ctx.std)
    return dx, None, None, None, None, None


_op.register_autograd(_differentiate, setup_context=_save)
