"""A world of coloured icons on a 4x4 grid, described by GenEval's six tasks.

An image is 64x64 pixels. An icon (6 shapes x 6 colours, radius about 6 px) sits within 1 px of the
centre of a 16 px cell, so that one packed latent token of the pocket model covers one cell. Prompts
and metadata follow GenEval (Ghosh et al. 2023): `{"tag", "include", "exclude"?, "prompt"}`.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pocket.sprites import BACKGROUND, COLORS, RADII, SHAPES, SPRITE, Image, sprite

Metadata = dict[str, Any]

SIZE = 64
CELL = 16
CELLS = SIZE // CELL
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
OPPOSITE = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
}
Relation = Literal["left of", "right of", "above", "below"]


@dataclass(frozen=True, slots=True)
class Icon:
    """One object: `center` is (x, y) in pixels."""

    shape: str
    color: str
    center: tuple[int, int]
    radius: float = RADII[1]


@dataclass(frozen=True, slots=True)
class Scene:
    """What an image shows; icons never overlap."""

    icons: tuple[Icon, ...]


# --- prompts -----------------------------------------------------------------------------------


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return shape + ("es" if shape.endswith("s") else "s")


def single(shape: str) -> Metadata:
    """GenEval's task "single_object"."""
    include = [{"class": shape, "count": 1}]
    return {
        "tag": "single_object",
        "include": include,
        "prompt": f"a photo of a {shape}",
    }


def two(first: str, second: str) -> Metadata:
    """GenEval's task "two_object"."""
    include = [{"class": shape, "count": 1} for shape in (first, second)]
    return {
        "tag": "two_object",
        "include": include,
        "prompt": f"a photo of a {first} and a {second}",
    }


def counting(shape: str, count: int) -> Metadata:
    """GenEval's task "counting": exactly `count` objects."""
    return {
        "tag": "counting",
        "include": [{"class": shape, "count": count}],
        "exclude": [{"class": shape, "count": count + 1}],
        "prompt": f"a photo of {NUMBERS[count]} {plural(shape)}",
    }


def colored(shape: str, color: str) -> Metadata:
    """GenEval's task "colors"."""
    include = [{"class": shape, "count": 1, "color": color}]
    return {
        "tag": "colors",
        "include": include,
        "prompt": f"a photo of a {color} {shape}",
    }


def position(shape: str, relation: str, anchor: str) -> Metadata:
    """GenEval's task "position": `shape` stands `relation` `anchor`."""
    return {
        "tag": "position",
        "include": [
            {"class": anchor, "count": 1},
            {"class": shape, "count": 1, "position": [relation, 0]},
        ],
        "prompt": f"a photo of a {shape} {relation} a {anchor}",
    }


def color_attr(first: tuple[str, str], second: tuple[str, str]) -> Metadata:
    """GenEval's task "color_attr"; each object is (shape, color)."""
    return {
        "tag": "color_attr",
        "include": [{"class": s, "count": 1, "color": c} for s, c in (first, second)],
        "prompt": f"a photo of a {first[1]} {first[0]} and a {second[1]} {second[0]}",
    }


@functools.cache
def prompts_by_tag() -> dict[str, tuple[Metadata, ...]]:
    """Every prompt of the world, by GenEval tag; do not modify the dictionaries."""
    pairs = list(itertools.permutations(SHAPES, 2))
    color_pairs = list(itertools.permutations(COLORS, 2))
    return {
        "single_object": tuple(single(s) for s in SHAPES),
        "two_object": tuple(two(a, b) for a, b in pairs),
        "counting": tuple(counting(s, n) for s in SHAPES for n in NUMBERS),
        "colors": tuple(colored(s, c) for s in SHAPES for c in COLORS),
        "position": tuple(position(a, r, b) for a, b in pairs for r in OPPOSITE),
        "color_attr": tuple(color_attr((a, c), (b, d)) for a, b in pairs for c, d in color_pairs),
    }


def all_prompts() -> list[Metadata]:
    """Every prompt of the world (1,116), tag by tag."""
    return [metadata for prompts in prompts_by_tag().values() for metadata in prompts]


def sample_metadata(rng: np.random.Generator, tag: str | None = None) -> Metadata:
    """A random prompt of `tag`, or of a random tag."""
    prompts = prompts_by_tag()[tag or TAGS[rng.integers(len(TAGS))]]
    return prompts[rng.integers(len(prompts))]


# --- scenes ------------------------------------------------------------------------------------


@functools.cache
def pairs_of_cells(
    relation: str,
) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    """Pairs ((column, row) of the object, of its anchor) for which the relation clearly dominates.

    GenEval asks that the offset along the axis, less a tenth of both extents, exceeds half the
    distance; a strictly larger component along the axis fulfils it for any jitter.
    """
    cells = list(itertools.product(range(CELLS), range(CELLS)))
    sign, axis = (
        (-1 if relation in ("left of", "above") else 1),
        int(relation in ("above", "below")),
    )
    return tuple(
        (a, b)
        for a, b in itertools.permutations(cells, 2)
        if sign * (a[axis] - b[axis]) > abs(a[1 - axis] - b[1 - axis])
    )


def place(cell: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """A centre in pixels within 1 px of the middle of `cell` (column, row)."""
    dx, dy = rng.integers(-1, 2, size=2)
    return (CELL // 2 + CELL * cell[0] + int(dx), CELL // 2 + CELL * cell[1] + int(dy))


def sample_cells(metadata: Metadata, rng: np.random.Generator) -> list[tuple[int, int]]:
    """A cell for each object of the prompt, in the order of its `include` clauses."""
    if metadata["tag"] == "position":
        choices = pairs_of_cells(metadata["include"][1]["position"][0])
        shape, anchor = choices[rng.integers(len(choices))]
        return [anchor, shape]
    count = sum(clause["count"] for clause in metadata["include"])
    cells = rng.permutation(CELLS * CELLS)[:count]
    return [(int(cell) % CELLS, int(cell) // CELLS) for cell in cells]


def sample_scene(metadata: Metadata, rng: np.random.Generator) -> Scene:
    """A scene that satisfies `metadata` exactly: no other objects, unspecified colours random."""
    names = tuple(COLORS)
    wanted = [
        (clause["class"], clause.get("color"))
        for clause in metadata["include"]
        for _ in range(clause["count"])
    ]
    return Scene(
        tuple(
            Icon(
                shape,
                color or names[rng.integers(len(names))],
                place(cell, rng),
                RADII[rng.integers(len(RADII))],
            )
            for (shape, color), cell in zip(wanted, sample_cells(metadata, rng), strict=True)
        )
    )


def wrong_caption(metadata: Metadata, rng: np.random.Generator) -> Metadata:
    """A minimally wrong prompt: GenEval's decision on any `sample_scene(metadata)` is false.

    Swapped colours, a mirrored position, one object more or fewer, another colour or another shape.
    """
    include = metadata["include"]
    shapes = [clause["class"] for clause in include]
    colors = [clause.get("color") for clause in include]
    i = int(rng.integers(len(include)))
    other = list(shapes)
    other[i] = str(rng.choice([s for s in SHAPES if s not in shapes]))
    match metadata["tag"]:
        case "single_object":
            return single(other[0])
        case "two_object":
            return two(other[0], other[1])
        case "counting":
            count = include[0]["count"]
            return counting(shapes[0], int(rng.choice([n for n in NUMBERS if abs(n - count) == 1])))
        case "colors" if rng.random() < 0.5:
            return colored(shapes[0], str(rng.choice([c for c in COLORS if c != colors[0]])))
        case "colors":
            return colored(other[0], colors[0])
        case "position":
            relation = include[1]["position"][0]
            if rng.random() < 0.7:
                return position(shapes[1], OPPOSITE[relation], shapes[0])
            return position(other[1], relation, other[0])
    return wrong_color_attr(shapes, colors, other, rng)


def wrong_color_attr(
    shapes: list[str], colors: list[str], other: list[str], rng: np.random.Generator
) -> Metadata:
    """`wrong_caption` for two coloured objects; `other` are the shapes with one replaced."""
    kind = rng.random()
    if kind < 0.5:
        colors = colors[::-1]
    elif kind < 0.75:
        changed = list(colors)
        changed[rng.integers(2)] = str(rng.choice([c for c in COLORS if c not in colors]))
        colors = changed
    else:
        shapes = other
    return color_attr((shapes[0], colors[0]), (shapes[1], colors[1]))


def render(scene: Scene) -> Image:
    """Draw a scene: uint8 [64, 64, 3]."""
    image = np.full((SIZE, SIZE, 3), BACKGROUND[0], np.uint8)
    for icon in scene.icons:
        left, top = icon.center[0] - SPRITE // 2, icon.center[1] - SPRITE // 2
        window = image[top : top + SPRITE, left : left + SPRITE]
        window[:] = sprite(icon.shape, icon.color, icon.radius)
    return image
