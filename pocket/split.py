"""Which prompts train and which test: writes `pocket/prompts/{train,test}.jsonl`.

    python -m pocket.split

A prompt and its mirror ("a red circle and a blue star", "a blue star and a red circle") stay on one
side. Single objects have too little variety to hold any out; no method trains on them anyway.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from leapalign.errors import main_guard
from pocket.world import OPPOSITE, TAGS, Metadata, prompts_by_tag

TEST = {
    "single_object": 6,
    "two_object": 14,
    "counting": 12,
    "colors": 16,
    "position": 26,
    "color_attr": 26,
}
"""Test prompts per tag, 100 in all: enough of each to see the hard tasks move."""


def meaning(metadata: Metadata) -> tuple[object, ...]:
    """What the prompt asks for, the same for a prompt and its mirror."""
    clauses = [(c["class"], c.get("color"), c["count"]) for c in metadata["include"]]
    if metadata["tag"] != "position":
        return tuple(sorted(clauses, key=str))
    relation = metadata["include"][1]["position"][0]
    if relation in ("left of", "above"):
        return (*clauses, relation)
    return (*clauses[::-1], OPPOSITE[relation])


def split(seed: int = 0) -> tuple[list[Metadata], list[Metadata]]:
    """Training and test prompts."""
    rng = np.random.default_rng(seed)
    train: list[Metadata] = []
    test: list[Metadata] = []
    for tag in TAGS:
        groups: dict[tuple[object, ...], list[Metadata]] = {}
        for metadata in prompts_by_tag()[tag]:
            groups.setdefault(meaning(metadata), []).append(metadata)
        ordered = [list(groups.values())[i] for i in rng.permutation(len(groups))]
        lines = [metadata for group in ordered for metadata in group]
        test += lines[: TEST[tag]]
        if tag != "single_object":
            train += lines[TEST[tag] :]
    return train, test


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Write both files into `--out`."""
    parser = argparse.ArgumentParser(prog="python -m pocket.split", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "prompts")
    folder = parser.parse_args(argv).out
    for name, lines in zip(("train", "test"), split(), strict=True):
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)


if __name__ == "__main__":
    main()
