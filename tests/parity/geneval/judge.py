"""Golden decisions of GenEval's official script on random detections.

    python -m tests.parity.geneval.judge CLONE > tests/parity/golden/geneval_judge.jsonl

CLONE is a clone of the official repository. The script's functions are run as they are, in an
environment with the numpy that it pins (1.23); the detector and the colour classifier, which need
weights, are replaced by the random detections. Imports nothing of this project.
"""

from __future__ import annotations

import ast
import json
import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

CLASSES = ["person", "bench", "computer mouse"]
COLORS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"]
RELATIONS = ["left of", "right of", "above", "below"]
TAGS = ["single_object", "two_object", "counting", "colors", "position", "color_attr"]
EDGES = [0.3, 0.9, 0.31, 0.5, 0.95, 0.3 + 1e-10, 0.9 + 1e-10, 0.3 + 3e-8, 0.9 + 6e-8, 0.9 - 6e-8]
FUNCTIONS = {"compute_iou", "relative_position", "evaluate", "evaluate_image"}
CASES = 600


def official(script: Path) -> dict[str, Any]:
    """The official script's functions, without its imports and its command line."""
    tree = ast.parse(script.read_text())
    tree.body = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS
    ]
    image = SimpleNamespace(open=lambda path: path, exif_transpose=lambda image: image)
    names: dict[str, Any] = {"np": np, "json": json, "Image": image, "ImageOps": image}
    names |= {"COLORS": COLORS, "classnames": CLASSES, "object_detector": None}
    exec(compile(tree, str(script), "exec"), names)
    as_set = names["relative_position"]
    # A set's order depends on the interpreter's hash seed; this one does not.
    names["relative_position"] = lambda a, b: [one for one in RELATIONS if one in as_set(a, b)]
    names["color_classification"] = lambda _, objects, __: [mask for _, mask in objects]
    return names


def detection(rng: random.Random, score: float) -> dict[str, Any]:
    """A random object on a coarse grid, so that diagonals, contact and equality are common."""
    x, y = rng.randrange(0, 200, 10), rng.randrange(0, 200, 10)
    width, height = rng.choice([10, 20, 50, 97]), rng.choice([10, 20, 50, 33])
    shift = rng.choice([0.0, 0.0, 0.5, 0.001])
    box = [x + shift, y, x + width, y + height]
    color = rng.choice([*COLORS[:3], None])
    return {"label": rng.choice(CLASSES), "box": box, "score": score, "color": color}


def detections(rng: random.Random) -> list[dict[str, Any]]:
    """A few objects whose scores tie and lie on the thresholds, or a crowd beyond the cap."""
    if rng.random() < 0.08:
        scores = rng.sample(range(250, 1000), 70)
        return [detection(rng, score / 1000) for score in scores]
    return [detection(rng, rng.choice(EDGES)) for _ in range(rng.randrange(14))]


def clause(rng: random.Random, index: int) -> dict[str, Any]:
    """A random `include` clause, the `index`-th of its prompt."""
    found: dict[str, Any] = {"class": rng.choice(CLASSES), "count": rng.choice([1, 1, 1, 1, 2])}
    if rng.random() < 0.2:
        found["color"] = rng.choice(COLORS[:3])
    if index and rng.random() < 0.7:
        found["position"] = [rng.choice(RELATIONS), rng.randrange(index)]
    return found


def case(rng: random.Random) -> dict[str, Any]:
    """A random prompt, what was detected, and sometimes options."""
    metadata: dict[str, Any] = {"tag": rng.choice(TAGS)}
    metadata["include"] = [clause(rng, index) for index in range(rng.choice([1, 2, 2, 3]))]
    if rng.random() < 0.2:
        label, count = rng.choice(CLASSES), rng.choice([1, 2, 3, 16, 17])
        metadata["exclude"] = [{"class": label, "count": count}]
    metadata["prompt"] = "a photo"
    made = {"metadata": metadata, "detections": detections(rng)}
    if rng.random() < 0.2:
        choices = {
            "threshold": [0.3, 0.5, 0.05],
            "counting_threshold": [0.9, 0.3],
            "max_objects": [16, 2, 5],
            "max_overlap": [0.5, 0.3, 0.1, 1.0],
            "position_threshold": [0.1, 0.0, 0.5],
        }
        made["options"] = {name: rng.choice(values) for name, values in choices.items()}
    return made


def verdict(names: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """The official decision on a case; a detection's colour stands where its mask does."""
    by_class = [[one for one in made["detections"] if one["label"] == name] for name in CLASSES]
    boxes = [
        np.array([[*one["box"], one["score"]] for one in found], np.float32).reshape(-1, 5)
        for found in by_class
    ]
    options = made.get("options", {})
    names |= {
        "inference_detector": lambda *_: (
            boxes,
            [[one["color"] for one in found] for found in by_class],
        ),
        "THRESHOLD": options.get("threshold", 0.3),
        "COUNTING_THRESHOLD": options.get("counting_threshold", 0.9),
        "MAX_OBJECTS": options.get("max_objects", 16),
        "NMS_THRESHOLD": options.get("max_overlap", 1.0),
        "POSITION_THRESHOLD": options.get("position_threshold", 0.1),
    }
    record = names["evaluate_image"]("0.png", made["metadata"])
    return {key: record[key] for key in ("correct", "reason", "details")}


def main() -> None:
    """Print the versions, then one case and its verdict a line."""
    names = official(Path(sys.argv[1]) / "evaluation" / "evaluate_images.py")
    versions = {"numpy": np.__version__, "python": sys.version.split()[0]}
    sys.stdout.write(json.dumps({"versions": versions}) + "\n")
    rng = random.Random(0)
    for _ in range(CASES):
        made = case(rng)
        sys.stdout.write(json.dumps(made | {"official": verdict(names, made)}) + "\n")


if __name__ == "__main__":
    main()
