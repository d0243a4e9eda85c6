"""Images that are not clean renders, labelled by the judge's detector.

A reward that has seen clean renders alone is hacked at once: it must know the generator's own
errors, and what gradient ascent does to an image. Whatever an image is made of, its labels are what
the detector finds in it, and how far it is from a clean render of just that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.geneval.records import Detection, Options
from leapalign.errors import UserError
from pocket.detector import detect
from pocket.rewards.data import Examples, cell_labels, concatenate, interleave
from pocket.rewards.facts import certain, credit, facts_of_detections, prompt_table
from pocket.world import (
    BACKGROUND,
    CELLS,
    COLORS,
    RADII,
    SIZE,
    SPRITE,
    Icon,
    Scene,
    render,
    sprite,
)

# The squared difference, in units of 255, that a missing icon of middling contrast makes.
ICON_ENERGY = 30.0


def label(
    images: NDArray[np.uint8], prompt: NDArray[np.int64], found: Sequence[list[Detection]]
) -> Examples:
    """Label images by what was found in them; `prompt` is the row of each image's own prompt."""
    facts = [facts_of_detections(detections) for detections in found]
    scenes = [redraw(image, detections) for image, detections in zip(images, found, strict=True)]
    return Examples(
        images=images,
        prompt=prompt,
        credit=np.stack([credit(fact) for fact in facts]),
        certain=np.stack([certain(fact) for fact in facts]),
        quality=np.array(
            [quality(image, scene) for image, scene in zip(images, scenes, strict=True)], np.float32
        ),
        cells=np.stack([trusted_cells(i, s) for i, s in zip(images, scenes, strict=True)]),
    )


def quality(image: NDArray[np.uint8], scene: Scene) -> float:
    """exp(-distance to the clean render of what is there), in units of one missing icon."""
    difference = (image.astype(np.float32) - render(scene)) / 255
    return float(np.exp(-np.square(difference).sum() / ICON_ENERGY))


def trusted_cells(image: NDArray[np.uint8], scene: Scene) -> NDArray[np.int64]:
    """The cells' labels; those where the image differs much from the render are unknown."""
    difference = (image.astype(np.float32) - render(scene)) / 255
    side = SIZE // CELLS
    energy = np.square(difference).sum(2).reshape(CELLS, side, CELLS, side).sum((1, 3)).ravel()
    return np.where(energy < ICON_ENERGY, cell_labels(scene), -1)


def redraw(image: NDArray[np.uint8], detections: Sequence[Detection]) -> Scene:
    """The scene whose render comes closest to the detected objects."""
    kept = [d for d in detections if d["score"] > Options().threshold and d.get("color") in COLORS]
    return Scene(tuple(fit(image, detection) for detection in kept))


def fit(image: NDArray[np.uint8], detection: Detection) -> Icon:
    """The icon of the detected shape and colour that fits best, up to a pixel off."""
    left, top, right, bottom = detection["box"]
    shape, color = detection["label"], str(detection["color"])
    x, y = round((left + right) / 2), round((top + bottom) / 2)
    edge = SPRITE // 2
    choices = [
        Icon(
            shape,
            color,
            (int(np.clip(x + dx, edge, SIZE - edge)), int(np.clip(y + dy, edge, SIZE - edge))),
            r,
        )
        for dx in (-1, 0, 1)
        for dy in (-1, 0, 1)
        for r in RADII
    ]
    return min(choices, key=lambda icon: misfit(image, icon))


def misfit(image: NDArray[np.uint8], icon: Icon) -> float:
    """Squared difference between an icon and the image under it."""
    left, top = icon.center[0] - SPRITE // 2, icon.center[1] - SPRITE // 2
    window = image[top : top + SPRITE, left : left + SPRITE].astype(np.float32)
    return float(np.square(window - sprite(icon.shape, icon.color, icon.radius)).sum())


def read_samples(folder: Path) -> Examples:
    """The base's own images: "images" in NAME.npz, metadata and detections in NAME.jsonl.

    Raises:
        UserError: There are none.
    """
    parts = []
    for archive in sorted(folder.glob("*.npz")):
        lines = archive.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
        cases = [json.loads(line) for line in lines]
        rows = [prompt_table().row[case["metadata"]["prompt"]] for case in cases]
        found = [case["detections"] for case in cases]
        parts.append(label(np.load(archive)["images"], np.array(rows), found))
    if not parts:
        raise UserError(f"{folder}: no samples (.npz and .jsonl); draw some from the base first")
    return concatenate(parts)


def twins(clean: Examples, rng: np.random.Generator) -> Examples:
    """Clean renders, each followed by a spoilt copy of itself."""
    spoilt = np.stack([spoil(image, rng) for image in clean.images])
    return interleave(clean, label(spoilt, clean.prompt, [detect(image) for image in spoilt]))


# --- spoiling ----------------------------------------------------------------------------------


def spoil(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A visibly worse copy: noise, blur, faded, smeared, half-erased or blotched."""
    ways = (add_noise, blur, fade, mix_in, erase, blotch)
    spoilt = ways[rng.integers(len(ways))](image.astype(np.float32), rng)
    return np.rint(np.clip(spoilt, 0, 255)).astype(np.uint8)


def add_noise(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Gaussian noise."""
    return image + rng.normal(0, rng.uniform(15, 60), image.shape).astype(np.float32)


def blur(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Repeated 3x3 box filters."""
    for _ in range(rng.integers(1, 4)):
        padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
        image = sum(padded[i : i + SIZE, j : j + SIZE] for i in range(3) for j in range(3)) / 9
    return image


def fade(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Towards the background."""
    return image + rng.uniform(0.3, 0.8) * (np.float32(BACKGROUND) - image)


def mix_in(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Blended with itself, shifted by some pixels."""
    dx, dy = rng.integers(2, 12, 2)
    share = rng.uniform(0.25, 0.5)
    return (1 - share) * image + share * np.roll(image, (int(dx), int(dy)), (0, 1))


def erase(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """A stripe through an object is missing."""
    ys, xs = np.nonzero(np.abs(image - np.float32(BACKGROUND)).sum(2) > 100)
    out = image.copy()
    if len(ys):
        pick = rng.integers(len(ys))
        top, left = max(ys[pick] - 4, 0), max(xs[pick] - 4, 0)
        out[top : top + rng.integers(5, 10), left : left + rng.integers(5, 10)] = BACKGROUND[0]
    return out


def blotch(image: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth blobs of random colours."""
    y, x = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    out = image
    for _ in range(rng.integers(1, 4)):
        cx, cy, width = rng.uniform(4, 60), rng.uniform(4, 60), rng.uniform(3, 7)
        alpha = rng.uniform(0.3, 0.9) * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * width**2))
        out = out + alpha[:, :, None] * (rng.uniform(0, 255, 3) - out)
    return out.astype(np.float32)
