"""Training images with what they show: clean renders made on the fly, and pools of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocket.rewards.facts import certain, credit, facts_of_scene, prompt_table
from pocket.rewards.grid import EMPTY
from pocket.world import (
    CELL,
    CELLS,
    COLORS,
    RADII,
    SHAPES,
    Icon,
    Scene,
    all_prompts,
    place,
    render,
    sample_metadata,
    sample_scene,
    wrong_caption,
)

CROWD, ALIKE = 5, 0.4
COLOR_NAMES = tuple(COLORS)


@dataclass(frozen=True, slots=True)
class Examples:
    """Images and their labels, row by row.

    Attributes:
        images: RGB in 0..255 [n, 64, 64, 3].
        prompt: Row of the prompt in `prompt_table` that the image was made for [n].
        credit: How far each prompt is fulfilled [n, prompts].
        certain: Whether that decision is plain [n, prompts].
        quality: 1 for a clean image, towards 0 the more of it is not as the world draws it [n].
        cells: What each cell of the grid shows, 0 for nothing, -1 for unknown [n, 16].
    """

    images: NDArray[np.uint8]
    prompt: NDArray[np.int64]
    credit: NDArray[np.float32]
    certain: NDArray[np.bool_]
    quality: NDArray[np.float32]
    cells: NDArray[np.int64]

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def take(self, rows: NDArray[np.int64] | slice) -> Examples:
        """Some of the rows."""
        return Examples(*(getattr(self, field.name)[rows] for field in fields(self)))

    def pixels(self) -> Tensor:
        """The images in [0, 1], float32 [n, 3, 64, 64]."""
        return torch.from_numpy(self.images).permute(0, 3, 1, 2).float() / 255

    def target(self) -> Tensor:
        """What a reward should say of each image and prompt, in [0, 1]: credit times quality."""
        return torch.from_numpy(self.credit * (0.5 + 0.5 * self.quality[:, None]))


def concatenate(parts: Sequence[Examples]) -> Examples:
    """One table from several."""
    return Examples(
        *(
            np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(Examples)
        )
    )


def interleave(first: Examples, second: Examples) -> Examples:
    """Row by row one of each."""
    both = concatenate([first, second])
    return both.take(np.arange(len(both)).reshape(2, -1).T.ravel())


def cell_labels(scene: Scene) -> NDArray[np.int64]:
    """What each cell shows: 0 for nothing, else 1 + shape * colours + colour."""
    labels = np.zeros(CELLS * CELLS, np.int64)
    for icon in scene.icons:
        cell = icon.center[1] // CELL * CELLS + icon.center[0] // CELL
        labels[cell] = 1 + SHAPES.index(icon.shape) * len(COLORS) + COLOR_NAMES.index(icon.color)
    return labels


def random_icon(cell: int, rng: np.random.Generator) -> Icon:
    """Any icon in a cell."""
    center = place((cell % CELLS, cell // CELLS), rng)
    shape, color = SHAPES[rng.integers(len(SHAPES))], COLOR_NAMES[rng.integers(len(COLORS))]
    return Icon(shape, color, center, RADII[rng.integers(len(RADII))])


def crowded(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene with up to CROWD more icons, of any shape or of one that is there already."""
    free = np.flatnonzero(cell_labels(scene) == EMPTY)
    extra = rng.permutation(free)[: rng.integers(1, CROWD + 1)]
    icons = [random_icon(int(cell), rng) for cell in extra]
    if rng.random() < ALIKE:
        icons = [replace(icon, shape=scene.icons[0].shape) for icon in icons]
    return Scene((*scene.icons, *icons))


def renders(
    count: int, rng: np.random.Generator, crowd: float = 0.4, emphasis: str | None = None
) -> Examples:
    """Clean renders of random prompts' scenes.

    Args:
        count: How many.
        rng: Decides all of it.
        crowd: The share that has further icons.
        emphasis: A task that half of them belong to; else all six alike.
    """
    table = prompt_table()
    images, rows, scenes = [], [], []
    for _ in range(count):
        metadata = sample_metadata(rng, emphasis if rng.random() < 0.5 else None)
        scene = sample_scene(metadata, rng)
        scenes.append(crowded(scene, rng) if rng.random() < crowd else scene)
        images.append(render(scenes[-1]))
        rows.append(table.row[metadata["prompt"]])
    facts = [facts_of_scene(scene) for scene in scenes]
    return Examples(
        images=np.stack(images),
        prompt=np.array(rows),
        credit=np.stack([credit(fact) for fact in facts]),
        certain=np.stack([certain(fact) for fact in facts]),
        quality=np.ones(count, np.float32),
        cells=np.stack([cell_labels(scene) for scene in scenes]),
    )


def wrong_rows(rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """For each prompt a minimally wrong one."""
    prompts, table = all_prompts(), prompt_table()
    return np.array([table.row[wrong_caption(prompts[row], rng)["prompt"]] for row in rows])


class Pool:
    """Labelled images to draw batches from, in neighbouring pairs of one group."""

    def __init__(self, examples: Examples, group: NDArray[np.int64]) -> None:
        """Images that are best compared share a `group`: a prompt's, or an image's copies."""
        self.examples = examples
        _, self.group = np.unique(group, return_inverse=True)
        order = np.argsort(self.group, kind="stable")
        self.members = np.split(order, np.cumsum(np.bincount(self.group))[:-1])

    def draw(self, count: int, rng: np.random.Generator) -> Examples:
        """`count` images: pairs from a group, groups by their sizes."""
        first = rng.integers(len(self.examples), size=count // 2)
        second = [rng.choice(self.members[self.group[row]]) for row in first]
        return self.examples.take(np.stack([first, second], 1).ravel())
