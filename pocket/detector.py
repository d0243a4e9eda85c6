"""The pocket judge's eyes: a classical detector for the world's icons.

Pixels are unmixed into a share of each colour over the background, and connected components give
the candidates. The best template (6 shapes x 3 radii x small shifts) by soft intersection over
union gives label and score: a malformed icon overlaps no template well, so its score falls below
GenEval's threshold of 0.3 (counting: 0.9).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy import ndimage

from pocket.sprites import BACKGROUND, COLORS, RADII, SHAPES, SPRITE, Image, mask

NAMES = tuple(COLORS)
PAPER = np.array(BACKGROUND, np.float32)
INK = PAPER - np.array(list(COLORS.values()), np.float32)
INK_POWER = (INK**2).sum(1)
MIN_AREA = 16
MAX_SIDE = 16
SHIFT = 2
PRESENT = 0.4
"""A pixel holds an icon where this share of some colour lies over the background."""
TINT = 0.15
"""The deviation from an icon's own colour that costs nothing."""
OFF_COLOR, OFF_COLOR_WIDTH = 0.5, 0.05
"""How far from every named colour an icon may be painted before its score is one half."""
FAIR_OVERLAP, OVERLAP_WIDTH = 0.72, 0.03
"""The overlap at which the score is one half, and how fast it rises."""

Detections = list[dict[str, Any]]
Field = NDArray[np.float32]


@functools.cache
def templates() -> Field:
    """Coverage of every shape and radius, [shapes * radii, pixels]."""
    return np.stack([mask(shape, radius).ravel() for shape in SHAPES for radius in RADII])


def unmix(ink: Field) -> tuple[Field, NDArray[np.intp]]:
    """The share of the nearest colour at each pixel, and which colour that is, [h, w] each."""
    share = np.clip(np.einsum("hwc,kc->khw", ink, INK) / INK_POWER[:, None, None], 0, 1.2)
    rest = ink[None] - share[..., None] * INK[:, None, None, :]
    nearest = (np.sqrt((rest**2).sum(-1) / INK_POWER[:, None, None]) - 0.25 * share).argmin(0)
    return np.take_along_axis(share, nearest[None], 0)[0], nearest


def candidates(share: Field, nearest: NDArray[np.intp]) -> list[NDArray[np.bool_]]:
    """Masks of the connected components; one too large for an icon is split by colour."""
    found = []
    for part in components(share > PRESENT):
        rows, columns = np.nonzero(part)
        if max(np.ptp(rows), np.ptp(columns)) < MAX_SIDE:
            found.append(part)
        else:
            for k in np.unique(nearest[part]):
                found += components(part & (nearest == k))
    return found


def components(foreground: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The connected components of at least MIN_AREA pixels."""
    labels, count = ndimage.label(foreground)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    return [labels == i for i in range(1, count + 1) if areas[i] >= MIN_AREA]


def overlaps(ink: Field, paint: Field, center: tuple[int, int]) -> Field:
    """Soft intersection over union of each shape with the ink of colour `paint` around `center`."""
    pad = SPRITE // 2 + SHIFT
    window = np.pad(ink, ((pad, pad), (pad, pad), (0, 0)))
    window = window[center[0] : center[0] + 2 * pad, center[1] : center[1] + 2 * pad]
    power = (paint**2).sum()
    share = np.clip(window @ paint / power, 0, 1)
    rest = np.sqrt(((window - share[..., None] * paint) ** 2).sum(-1) / power)
    rest = np.maximum(rest - TINT, 0)
    share, rest = (
        sliding_window_view(x, (SPRITE, SPRITE)).reshape(-1, 1, SPRITE * SPRITE)
        for x in (share, rest)
    )
    form = templates()[None]
    agreed = np.maximum(np.minimum(share, form) - rest, 0).sum(-1)
    union = (np.maximum(share, form) + rest).sum(-1)
    return (agreed / union).max(0).reshape(len(SHAPES), len(RADII)).max(1)


def rises(x: float, middle: float, width: float) -> float:
    """A logistic step."""
    return float(1 / (1 + np.exp((middle - x) / width)))


def detect(image: Image) -> Detections:
    """Find the icons of an image, uint8 [h, w, 3].

    Returns:
        Per icon: "label", "box" [x1, y1, x2, y2] in pixels, "score" in [0, 1] and "color".
    """
    ink = PAPER - image.astype(np.float32)
    share, nearest = unmix(ink)
    return [describe(part, ink, share) for part in candidates(share, nearest)]


def describe(part: NDArray[np.bool_], ink: Field, share: Field) -> dict[str, Any]:
    """The detection of one component: its own colour first, then the shape of that colour."""
    rows, columns = np.nonzero(part)
    top, left, bottom, right = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    strengths = share[part]
    paint = np.median(ink[part][strengths >= np.median(strengths)], axis=0)
    distance = np.sqrt(((paint - INK) ** 2).sum(1) / INK_POWER)
    quality = overlaps(ink, paint, (int(top + bottom) // 2, int(left + right) // 2))
    best = int(quality.argmax())
    rivals = np.exp((quality - quality[best]) / OVERLAP_WIDTH).sum()
    score = (
        rises(quality[best], FAIR_OVERLAP, OVERLAP_WIDTH)
        * rises(-distance.min(), -OFF_COLOR, OFF_COLOR_WIDTH)
        / float(rivals)
    )
    return {
        "label": SHAPES[best],
        "box": [float(left), float(top), float(right), float(bottom)],
        "score": score,
        "color": NAMES[int(distance.argmin())],
    }
