"""Before and after Mask2Former: the official image preparation, and objects from its logits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Image = NDArray[np.uint8]

LONGEST, SHORTEST = 1333, 800
DIVISOR, PADDING = 32, 128
MEAN = np.array([123.675, 116.28, 103.53])
STD = np.array([58.395, 57.12, 57.375])
LIMIT = 100
FIXED_POINT = 2048


class Segments(NamedTuple):
    """Objects in the detector's order: classes, boxes [n, 4], scores [n], masks [n, h, w]."""

    labels: Tensor
    boxes: Tensor
    scores: Tensor
    masks: Tensor


class Prepared(NamedTuple):
    """The network's input [1, 3, H, W], and the height and width of it that are image."""

    pixels: Tensor
    height: int
    width: int


def prepare(image: Image, longest: int = LONGEST, shortest: int = SHORTEST) -> Prepared:
    """Mmdet's test pipeline: resize within (longest, shortest), pad with grey, normalise.

    Args:
        image: uint8 [height, width, 3] in RGB.
        longest: The most that the longer side may have, in pixels.
        shortest: The most that the shorter side may have.
    """
    height, width = image.shape[:2]
    scale = min(longest / max(height, width), shortest / min(height, width))
    height, width = int(height * scale + 0.5), int(width * scale + 0.5)
    padded = pad(resize(image, height, width))
    # OpenCV multiplies by the inverse deviation, in double precision, after rounding the mean off.
    centered = (padded - MEAN).astype(np.float32)
    pixels = (centered * (1 / STD)).astype(np.float32)
    return Prepared(torch.from_numpy(pixels).permute(2, 0, 1)[None], height, width)


def pad(image: Image) -> Image:
    """Grey at the right and the bottom, up to a multiple of 32."""
    height, width = image.shape[:2]
    margins = ((0, -height % DIVISOR), (0, -width % DIVISOR), (0, 0))
    return np.pad(image, margins, constant_values=PADDING)


def resize(image: Image, height: int, width: int) -> Image:
    """OpenCV's bilinear resize of 8-bit images, bit for bit: no antialias, 11-bit weights."""
    left, right, across = _taps(image.shape[1], width)
    # OpenCV does not interpolate beyond the first and last column, but does between equal rows.
    across[:, left == right] = [[FIXED_POINT], [0]]
    upper, lower, down = _taps(image.shape[0], height)
    wide = image.astype(np.int64)
    rows = wide[:, left] * across[0][:, None] + wide[:, right] * across[1][:, None] >> 4
    blend = (rows[upper] * down[0][:, None, None] >> 16) + (
        rows[lower] * down[1][:, None, None] >> 16
    )
    return (blend + 2 >> 2).astype(np.uint8)


def _taps(size: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.int64]]:
    """Both source pixels of each new one along an axis, and their weights [2, new]."""
    inverse = 1 / (new / size)
    position = ((np.arange(new) + 0.5) * inverse - 0.5).astype(np.float32)
    first = np.floor(position)
    share = position - first
    weights = np.rint(np.stack([1 - share, share]) * np.float32(FIXED_POINT)).astype(np.int64)
    low = np.clip(first, 0, size - 1).astype(np.intp)
    high = np.clip(first + 1, 0, size - 1).astype(np.intp)
    return low, high, weights


def segment(
    class_logits: Tensor, mask_logits: Tensor, prepared: Prepared, height: int, width: int
) -> Segments:
    """Mmdet's instance post-processing: the 100 best pairs of query and class are objects.

    Args:
        class_logits: [queries, classes + 1]; the last is "no object".
        mask_logits: [queries, H / 4, W / 4] of the padded input.
        prepared: The input, of which the padding is cut off.
        height: Of the original image, to whose size the masks are brought.
        width: Of the original image.

    Returns:
        Objects with score = probability x mean of the mask's sigmoid; those with an empty mask
        have score 0 and a box of zeros.
    """
    padded = F.interpolate(mask_logits[None], size=prepared.pixels.shape[-2:], mode="bilinear")
    cut = padded[..., : prepared.height, : prepared.width]
    logits = F.interpolate(cut, size=(height, width), mode="bilinear")[0]
    probabilities = class_logits.softmax(-1)[:, :-1]
    chosen = probabilities.flatten().topk(min(LIMIT, probabilities.numel()), sorted=False)
    logits = logits[chosen.indices // probabilities.shape[1]]
    masks = logits > 0
    area = masks.flatten(1).sum(1)
    inside = (logits.sigmoid() * masks).flatten(1).sum(1) / (area + 1e-6)
    labels = chosen.indices % probabilities.shape[1]
    return Segments(labels, boxes_of(masks), chosen.values * inside, masks)


def boxes_of(masks: Tensor) -> Tensor:
    """The tight boxes [n, 4] of masks [n, h, w]: right and bottom lie one pixel beyond."""
    spans = []
    for axis in (1, 2):
        hit = masks.any(dim=axis).int()
        first, last = hit.argmax(1), hit.shape[1] - hit.flip(1).argmax(1)
        spans.append(torch.stack([first, last * hit.any(1)]))
    (left, right), (top, bottom) = spans
    return torch.stack([left, top, right, bottom], dim=1).float()
