"""GenEval's prompts from its class and colour lists, by the official generator's own draws.

`benchmark` gives the 553 evaluation prompts (Ghosh et al., 2023), line for line as published;
`training` gives a training set of Flow-GRPO's mix (arXiv 2505.05470), which shares none with them.
Each task is a function of a random generator; the draws' kind and order are the official ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from eval.geneval.coco import CLASSES
from eval.geneval.records import COLORS, Metadata, Relation
from leapalign.data import GENEVAL_MIX

OFFICIAL_SEED, DRAWS = 43, 100
OFFICIAL_SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""Of `benchmark()` as `lines`, the official evaluation_metadata.jsonl."""

TRAINING_SEED, TRAINING_SIZE = 0, 50_000
NUMBERS = {2: "two", 3: "three", 4: "four"}
RELATIONS: tuple[Relation, ...] = ("left of", "right of", "above", "below")

Rng = np.random.Generator
Task = Callable[[Rng], Metadata]


def benchmark() -> list[Metadata]:
    """The 553 prompts: every class once, 100 draws of each other task, repeats dropped."""
    rng = np.random.default_rng(OFFICIAL_SEED)
    order = rng.choice(len(CLASSES), size=len(CLASSES), replace=False)
    drawn = [_single(CLASSES[index]) for index in order]
    for task in TASKS.values():
        drawn += [task(rng) for _ in range(DRAWS)]
    return list({json.dumps(metadata): metadata for metadata in drawn}.values())


def training(size: int = TRAINING_SIZE, seed: int = TRAINING_SEED) -> list[Metadata]:
    """Training prompts at `GENEVAL_MIX`, shuffled; small tasks repeat their prompts.

    A prompt of the benchmark is left out in either order of its objects, as in Flow-GRPO.
    """
    rng = np.random.default_rng(seed)
    held_out = {_content(metadata) for metadata in benchmark()}
    drawn: list[Metadata] = []
    for tag, count in shares(size).items():
        wanted = len(drawn) + count
        while len(drawn) < wanted:
            metadata = TASKS[tag](rng)
            if _content(metadata) not in held_out:
                drawn.append(metadata)
    return [drawn[index] for index in rng.permutation(size)]


def shares(size: int) -> dict[str, int]:
    """How many of `size` prompts each task gets, by the largest remainder."""
    total = sum(GENEVAL_MIX.values())
    exact = {tag: size * share / total for tag, share in GENEVAL_MIX.items() if share}
    counts = {tag: int(share) for tag, share in exact.items()}
    by_remainder = sorted(exact, key=lambda tag: counts[tag] - exact[tag])
    for tag in by_remainder[: size - sum(counts.values())]:
        counts[tag] += 1
    return counts


def lines(prompts: Iterable[Mapping[str, object]]) -> str:
    """Prompts as the official metadata file holds them, one JSON object a line."""
    return "".join(json.dumps(metadata) + "\n" for metadata in prompts)


def _content(metadata: Metadata) -> str:
    """What a prompt asks for, whichever of its objects is named first."""
    clauses = [json.dumps(clause, sort_keys=True) for clause in metadata["include"]]
    return f"{metadata['tag']} {sorted(clauses)}"


def _single(name: str) -> Metadata:
    return {
        "tag": "single_object",
        "include": [{"class": name, "count": 1}],
        "prompt": f"a photo of {_a(name)}",
    }


def _two(rng: Rng) -> Metadata:
    a, b = _pair(rng)
    return {
        "tag": "two_object",
        "include": [{"class": a, "count": 1}, {"class": b, "count": 1}],
        "prompt": f"a photo of {_a(a)} and {_a(b)}",
    }


def _counting(rng: Rng) -> Metadata:
    name = CLASSES[rng.choice(len(CLASSES))]
    count = int(rng.integers(min(NUMBERS), max(NUMBERS), endpoint=True))
    return {
        "tag": "counting",
        "include": [{"class": name, "count": count}],
        "exclude": [{"class": name, "count": count + 1}],
        "prompt": f"a photo of {NUMBERS[count]} {_plural(name)}",
    }


def _colors(rng: Rng) -> Metadata:
    name = THINGS[rng.choice(len(THINGS))]
    color = COLORS[rng.choice(len(COLORS))]
    return {
        "tag": "colors",
        "include": [{"class": name, "count": 1, "color": color}],
        "prompt": f"a photo of {_a(color)} {name}",
    }


def _position(rng: Rng) -> Metadata:
    a, b = _pair(rng)
    relation = RELATIONS[rng.choice(len(RELATIONS))]
    return {
        "tag": "position",
        "include": [
            {"class": b, "count": 1},
            {"class": a, "count": 1, "position": (relation, 0)},
        ],
        "prompt": f"a photo of {_a(a)} {relation} {_a(b)}",
    }


def _color_attr(rng: Rng) -> Metadata:
    a, b = (THINGS[index] for index in rng.choice(len(THINGS), size=2, replace=False))
    of_a, of_b = (COLORS[index] for index in rng.choice(len(COLORS), size=2, replace=False))
    return {
        "tag": "color_attr",
        "include": [
            {"class": a, "count": 1, "color": of_a},
            {"class": b, "count": 1, "color": of_b},
        ],
        "prompt": f"a photo of {_a(of_a)} {a} and {_a(of_b)} {b}",
    }


def _pair(rng: Rng) -> tuple[str, str]:
    first, second = rng.choice(len(CLASSES), size=2, replace=False)
    return CLASSES[first], CLASSES[second]


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _plural(name: str) -> str:
    """The official plural, which is not always English: "benchs", "sheeps"."""
    return f"{name}es" if name.endswith("s") else f"{name}s"


# Nobody is asked for in a colour: people are left out of the coloured things.
THINGS = CLASSES[1:]
TASKS: dict[str, Task] = {
    "two_object": _two,
    "counting": _counting,
    "colors": _colors,
    "position": _position,
    "color_attr": _color_attr,
}
