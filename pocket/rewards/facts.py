"""What an image shows, and how far it fulfils each of the world's 1,116 prompts.

One table of facts decides about all prompts at once, so that every training image can be compared
with any prompt. The decisions are GenEval's (see `eval.geneval.judge`); the credit of a prompt that
is not fulfilled is partial.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eval.geneval.judge import relations
from eval.geneval.records import Detection, Options
from pocket.world import COLORS, OPPOSITE, SHAPES, TAGS, Icon, Scene, all_prompts

PARTIAL = 0.5
COLOR_NAMES = tuple(COLORS)
RELATIONS = tuple(OPPOSITE)


@dataclass(frozen=True, slots=True)
class Facts:
    """Per shape (S = 6): how many there are, and where and in which colour the best of them is.

    Attributes:
        count: Objects detected with the confidence that counting asks for [S]. present: Whether any
        object was detected [S]. unique: Whether it is plain which object is the best one [S].
        color: Index of the best object's colour, -1 for none [S]. relation: Whether the best object
        of a shape stands in a relation to that of another [S, S, 4].
    """

    count: NDArray[np.int64]
    present: NDArray[np.bool_]
    unique: NDArray[np.bool_]
    color: NDArray[np.int64]
    relation: NDArray[np.bool_]


def facts_of_detections(detections: Sequence[Detection]) -> Facts:
    """The facts that GenEval's decision uses, from a detector's findings."""
    options = Options()
    count, color = np.zeros(len(SHAPES), int), np.full(len(SHAPES), -1)
    kinds: list[set[str | None]] = [set() for _ in SHAPES]
    boxes: dict[int, tuple[float, float, float, float]] = {}
    for detection in sorted(detections, key=lambda found: -found["score"]):
        shape = SHAPES.index(detection["label"])
        count[shape] += np.float32(detection["score"]) > options.counting_threshold
        if detection["score"] <= options.threshold:
            continue
        kinds[shape].add(str(detection["box"]))
        if shape not in boxes:
            boxes[shape] = detection["box"]
            name = detection.get("color")
            color[shape] = COLOR_NAMES.index(name) if name in COLORS else -1
    return Facts(
        count=count,
        present=np.array([shape in boxes for shape in range(len(SHAPES))]),
        unique=np.array([len(kind) <= 1 for kind in kinds]),
        color=color,
        relation=_relations(boxes),
    )


def facts_of_scene(scene: Scene) -> Facts:
    """The facts of a scene that is drawn cleanly."""
    return facts_of_detections([_detection(icon) for icon in scene.icons])


def _detection(icon: Icon) -> Detection:
    (x, y), r = icon.center, icon.radius
    return {
        "label": icon.shape,
        "box": (x - r, y - r, x + r, y + r),
        "score": 1.0,
        "color": icon.color,
    }


def _relations(boxes: dict[int, tuple[float, float, float, float]]) -> NDArray[np.bool_]:
    held = np.zeros((len(SHAPES), len(SHAPES), len(RELATIONS)), bool)
    for a, box in boxes.items():
        for b, anchor in boxes.items():
            if a != b:
                for relation in relations(box, anchor):
                    held[a, b, RELATIONS.index(relation)] = True
    return held


@dataclass(frozen=True, slots=True)
class PromptTable:
    """All prompts as indices: shapes a (and b), colours, counts and relations; -1 where absent."""

    texts: tuple[str, ...]
    tag: NDArray[np.int64]
    shape: NDArray[np.int64]
    color: NDArray[np.int64]
    count: NDArray[np.int64]
    relation: NDArray[np.int64]
    row: dict[str, int]


@functools.cache
def prompt_table() -> PromptTable:
    """The world's prompts, in the order of `all_prompts`."""
    prompts = all_prompts()
    shape, color = np.full((2, len(prompts)), -1), np.full((2, len(prompts)), -1)
    count, relation = np.zeros(len(prompts), int), np.full(len(prompts), -1)
    for row, metadata in enumerate(prompts):
        for clause, include in enumerate(metadata["include"]):
            shape[clause, row] = SHAPES.index(include["class"])
            if "color" in include:
                color[clause, row] = COLOR_NAMES.index(include["color"])
            if "position" in include:
                relation[row] = RELATIONS.index(include["position"][0])
        if metadata["tag"] == "counting":
            count[row] = metadata["include"][0]["count"]
    texts = tuple(metadata["prompt"] for metadata in prompts)
    tag = np.array([TAGS.index(metadata["tag"]) for metadata in prompts])
    return PromptTable(
        texts, tag, shape, color, count, relation, {t: i for i, t in enumerate(texts)}
    )


def credit(facts: Facts) -> NDArray[np.float32]:
    """Per prompt: 1 where the image fulfils it, else at most PARTIAL, by the share fulfilled."""
    table = prompt_table()
    a, b = table.shape
    paired = b >= 0
    share = np.stack([_clause(facts, a, table.color[0]), _clause(facts, b, table.color[1])])
    fulfilled = np.where(paired, share.mean(0), share[0])
    holds = facts.relation[b, a, table.relation]
    fulfilled = np.where(table.relation >= 0, (fulfilled + holds) / 2, fulfilled)
    wanted = np.maximum(table.count, 1)
    off = np.abs(facts.count[a] - table.count) / wanted
    fulfilled = np.where(table.count > 0, np.clip(1 - off, 0, 1), fulfilled)
    return np.where(fulfilled == 1, 1, PARTIAL * fulfilled).astype(np.float32)


def certain(facts: Facts) -> NDArray[np.bool_]:
    """For each prompt, whether its decision does not hang on which of several objects is best."""
    table = prompt_table()
    a, b = table.shape
    hangs = (table.color[0] >= 0) | (table.relation >= 0)
    return ~hangs | (facts.unique[a] & ((b < 0) | facts.unique[b]))


def _clause(
    facts: Facts, shape: NDArray[np.int64], color: NDArray[np.int64]
) -> NDArray[np.float64]:
    """The share of one clause that holds: the object, and half of it its colour if it has one."""
    present = facts.present[shape] & (shape >= 0)
    colored = np.where(color >= 0, facts.color[shape] == color, True)
    return present * (0.5 + 0.5 * colored)
