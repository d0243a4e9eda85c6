"""GenEval's decision: does what was detected in an image satisfy the prompt's metadata?

The rules are those of the official `evaluate_images.py` (Ghosh et al., 2023), in its precision:
scores and boxes are float32, and so is every comparison with a threshold. Where scores tie, the
detection that comes later in the detector's order ranks first: the official ascending sort, which
is then reversed, is stable in its environment (numpy 1.23) for up to 16 objects of a class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eval.geneval.records import COLORS, Box, Detection, Include, Metadata, Options

# Below this many pixels an offset is no relation; above this cosine a relation holds.
NEGLIGIBLE, DECISIVE = 1e-3, 0.5


# From some objects of one class to the name of each one's colour.
NameColors = Callable[[Sequence[Detection]], Sequence[str | None]]


class Verdict(NamedTuple):
    """Whether the image is correct, and if not, one line for each clause that fails."""

    correct: bool
    reason: str


def given_colors(objects: Sequence[Detection]) -> list[str | None]:
    """The colours that come with the detections."""
    return [found.get("color") for found in objects]


def judge(
    metadata: Metadata,
    detections: Sequence[Detection],
    options: Options | None = None,
    name_colors: NameColors = given_colors,
) -> Verdict:
    """Judge one image by its detections, in the detector's own order.

    Every `include` clause must hold and no `exclude` clause may be reached. A clause looks only
    at the best `count` objects of its class; more than `count` of them is no fault. `name_colors`
    is asked only for those, and only where the clause names a colour.
    """
    options = options or Options()
    objects = kept(metadata["tag"], detections, options)
    reasons: list[str] = []
    groups: list[list[Detection] | None] = []
    for clause in metadata.get("include", []):
        best = objects.get(clause["class"], [])[: clause["count"]]
        fault = (
            _shortfall(clause, best)
            or _miscolored(clause, best, name_colors)
            or _misplaced(clause, best, groups, options.position_threshold)
        )
        groups.append(None if fault else best)
        reasons += [fault] if fault else []
    for unwanted in metadata.get("exclude", []):
        label, limit, found = (
            unwanted["class"],
            unwanted["count"],
            objects.get(unwanted["class"], []),
        )
        if len(found) >= limit:
            reasons.append(f"expected {label}<{limit}, found {len(found)}")
    return Verdict(not reasons, "\n".join(reasons))


def relations(a: Box, b: Box, position_threshold: float = 0.1) -> tuple[str, ...]:
    """Where box `a` lies relative to box `b`: none, one or two (on a diagonal) relations."""
    corners = np.array([a, b], dtype=np.float32).reshape(2, 2, 2)
    centers = corners.mean(axis=1)
    sizes = np.abs(corners[:, 1] - corners[:, 0])
    offset = centers[0] - centers[1]
    distance = np.maximum(np.abs(offset) - position_threshold * sizes.sum(axis=0), 0)
    revised = distance * np.sign(offset)
    if np.all(np.abs(revised) < NEGLIGIBLE):
        return ()
    dx, dy = revised / np.linalg.norm(offset)
    holds = {
        "left of": dx < -DECISIVE,
        "right of": dx > DECISIVE,
        "above": dy < -DECISIVE,
        "below": dy > DECISIVE,
    }
    return tuple(relation for relation, held in holds.items() if held)


def kept(
    tag: str, detections: Sequence[Detection], options: Options
) -> Mapping[str, list[Detection]]:
    """The detections that count, by class, the best first: threshold, cap, then suppression."""
    threshold = options.counting_threshold if tag == "counting" else options.threshold
    by_label: dict[str, list[Detection]] = {}
    for detection in detections:
        by_label.setdefault(detection["label"], []).append(detection)
    ranked = {}
    for label, found in by_label.items():
        scores = np.array([detection["score"] for detection in found], dtype=np.float32)
        order = np.argsort(scores, kind="stable")[::-1]
        order = order[scores[order] > np.float32(threshold)][: options.max_objects]
        ranked[label] = _distinct([found[index] for index in order], options.max_overlap)
    return ranked


def _distinct(ranked: list[Detection], max_overlap: float) -> list[Detection]:
    """Greedy non-maximum suppression: each survivor drops those that overlap it too much."""
    if max_overlap == 1:
        return ranked
    kept: list[Detection] = []
    while ranked:
        best, *rest = ranked
        kept.append(best)
        ranked = [other for other in rest if _iou(best["box"], other["box"]) < max_overlap]
    return kept


def _iou(a: Box, b: Box) -> np.float32:
    """Intersection over union in float32, each side one pixel longer than its difference."""
    first, second = np.array(a, dtype=np.float32), np.array(b, dtype=np.float32)
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    shared = _area(low, high)
    union = _area(first[:2], first[2:]) + _area(second[:2], second[2:]) - shared
    return shared / union if union else np.float32(0)


def _area(low: NDArray[np.float32], high: NDArray[np.float32]) -> np.float32:
    return np.maximum(high - low + 1, 0).prod()


def _shortfall(clause: Include, best: Sequence[Detection]) -> str | None:
    if len(best) >= clause["count"]:
        return None
    return f"expected {clause['class']}>={clause['count']}, found {len(best)}"


def _miscolored(clause: Include, best: Sequence[Detection], name_colors: NameColors) -> str | None:
    if "color" not in clause:
        return None
    color, found = clause["color"], Counter(name_colors(best))
    if found[color] >= clause["count"]:
        return None
    listing = ", ".join(f"{found[name]} {name}" for name in COLORS if found[name])
    wanted = f"{color} {clause['class']}>={clause['count']}"
    return f"expected {wanted}, found {found[color]} {color}; and {listing}"


def _misplaced(
    clause: Include,
    best: Sequence[Detection],
    groups: Sequence[Sequence[Detection] | None],
    position_threshold: float,
) -> str | None:
    """Every object must stand in the relation to every object of the earlier clause."""
    if "position" not in clause:
        return None
    relation, index = clause["position"]
    targets = groups[index]
    if targets is None:
        return f"no target for {clause['class']} to be {relation}"
    for a in best:
        for b in targets:
            found = relations(a["box"], b["box"], position_threshold)
            if relation not in found:
                where = " and ".join(found)
                return f"expected {clause['class']} {relation} target, found {where} target"
    return None
