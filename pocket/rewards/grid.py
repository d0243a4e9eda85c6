"""Dense lessons for the image towers: what each cell of the grid can be asked.

A pooled embedding learns slowly how many objects there are and where they stand to each other.
Asked of every cell with an object (how many of your shape are there? where are you, seen from the
star?), one hop of attention answers.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pocket.rewards.facts import RELATIONS
from pocket.world import CELLS, COLORS, SHAPES

EMPTY = 0
KINDS = 1 + len(SHAPES) * len(COLORS)
MOST = 8
PER_SHAPE = MOST + 1 + 2
PLACES = CELLS * CELLS
ANSWERS = KINDS + PLACES + MOST + len(SHAPES) * len(RELATIONS)
RELATION_WEIGHT = 4.0
DIRECTIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}


@functools.cache
def held() -> NDArray[np.bool_]:
    """Whether a cell stands in a relation to another one [16, 16, 4] (GenEval's rule, by cell)."""
    place = np.array([(cell % CELLS, cell // CELLS) for cell in range(CELLS * CELLS)], float)
    offset = place[:, None] - place[None]
    unit = offset / np.maximum(np.linalg.norm(offset, axis=-1, keepdims=True), 1e-6)
    return unit @ np.array([DIRECTIONS[name] for name in RELATIONS], float).T > 0.5


def relations_to_single_objects(
    shapes: NDArray[np.int64],
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Per image, cell and shape: relations to its object, and whether it has only one."""
    is_shape = shapes[:, :, None] == np.arange(len(SHAPES))
    single = is_shape.sum(1) == 1
    where = is_shape.argmax(1)
    return held()[:, where].transpose(1, 0, 2, 3), np.broadcast_to(
        single[:, None], (len(shapes), CELLS * CELLS, len(SHAPES))
    )


class Answers(NamedTuple):
    """What an image tower says of each cell, and the pooled embedding of the shapes."""

    cells: Float[Tensor, "batch 16 answers"]
    shapes: Float[Tensor, "batch per_shape"] | None = None


def lesson(answers: Answers, cells: Int[NDArray[np.int64], "batch 16"]) -> Tensor:
    """All dense losses of a batch."""
    loss = grid_loss(answers.cells, cells)
    return loss if answers.shapes is None else loss + shape_loss(answers.shapes, cells)


def shape_loss(
    told: Float[Tensor, "batch per_shape"], cells: Int[NDArray[np.int64], "batch 16"]
) -> Tensor:
    """How many objects of each shape there are, and their mean column and row."""
    known = (cells >= 0).all(1)
    plain = cells[known]
    shapes = np.where(plain > EMPTY, (plain - 1) // len(COLORS), -1)
    is_shape = (shapes[:, :, None] == np.arange(len(SHAPES))).astype(np.float32)
    count = is_shape.sum(1)
    place = np.array([(cell % CELLS - 1.5, cell // CELLS - 1.5) for cell in range(CELLS * CELLS)])
    mean = np.einsum("ncs,ca->nsa", is_shape, place) / np.maximum(count, 1)[..., None]
    number, where = (
        told[torch.from_numpy(known)].unflatten(-1, (len(SHAPES), -1)).split([MOST + 1, 2], -1)
    )
    label = torch.from_numpy(count.clip(0, MOST)).long()
    weight = torch.where(label == 0, 0.3, 1.0)
    loss = F.cross_entropy(number.transpose(1, 2), label, reduction="none")
    error = (where - torch.from_numpy(mean).float()).square().sum(-1)
    there = (label > 0).float()
    return (loss * weight).sum() / weight.sum() + (error * there).sum() / there.sum().clamp(min=1)


def grid_loss(
    answers: Float[Tensor, "batch 16 answers"], cells: Int[NDArray[np.int64], "batch 16"]
) -> Tensor:
    """Cross entropies of what cells show, how many there are of a shape, and where they stand.

    Empty cells count less, unknown ones (-1) not at all; nor do numbers and relations in an image
    with an unknown cell.
    """
    sizes = [KINDS, PLACES, MOST, len(SHAPES) * len(RELATIONS)]
    kinds, places, numbers, relations = answers.split(sizes, dim=-1)
    labels = torch.from_numpy(cells)
    shown = F.cross_entropy(kinds.transpose(1, 2), labels, ignore_index=-1, reduction="none")
    weight = torch.where(labels == EMPTY, 0.2, 1.0) * (labels >= 0)
    loss = (shown * weight).sum() / weight.sum().clamp(min=1)
    # Towers with rotary positions must find out where a cell is.
    loss = loss + F.cross_entropy(places.flatten(0, 1), torch.arange(PLACES).repeat(len(cells)))

    plain = cells[(cells >= 0).all(1)]
    shapes = np.where(plain > EMPTY, (plain - 1) // len(COLORS), -1)
    occupied = torch.from_numpy(shapes >= 0)
    known = torch.from_numpy((cells >= 0).all(1))
    count = (shapes[:, :, None] == shapes[:, None, :]).sum(2).clip(1, MOST) - 1
    loss = loss + F.cross_entropy(numbers[known][occupied], torch.from_numpy(count)[occupied])

    relation, single = relations_to_single_objects(shapes)
    asked = torch.from_numpy(single.copy()) & occupied[..., None]
    told = relations[known].unflatten(-1, (len(SHAPES), len(RELATIONS)))[asked]
    truth = torch.from_numpy(relation.copy()).float()[asked]
    return loss + RELATION_WEIGHT * F.binary_cross_entropy_with_logits(told, truth)
