"""The scorers: what each computes for an image and its prompt, and what that depends on."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

import eval.geneval
import leapalign.rewards
from eval.fingerprints import fingerprint, sources
from eval.geneval import Options, judge
from eval.geneval.detector import Detector, find_detector
from eval.geneval.detector import Image as Pixels
from eval.geneval.judge import kept
from eval.geneval.records import COLORS, CaseError, check_metadata
from eval.manifest import Sample, upright
from leapalign.errors import UserError
from leapalign.parsing import nearest
from leapalign.rewards import REWARDS, load_reward
from leapalign.sources import locate
from leapalign.weights import check_weights
from leapalign.weights import fingerprint as weights_fingerprint

GENEVAL = "geneval"

# What is kept of one image: its "score" (None where the model gave none that can be read), and
# for GenEval the fields of the official record.
Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Model:
    """A scorer's model.

    Attributes:
        prepare: From an image as Pillow opens it to what `score` takes; for any thread.
        score: The entries of prepared images and their samples.
    """

    prepare: Callable[[Image.Image], Any]
    score: Callable[[Sequence[Any], Sequence[Sample]], list[Entry]]


@dataclass(frozen=True, slots=True)
class Scorer:
    """A scorer that is loaded only where a score is missing.

    Attributes:
        name: An evaluator's name.
        depends_on: Digest of the weights and the code that its scores depend on.
        load: Loads the weights.
        check: Raises `UserError` for a sample that it cannot score.
    """

    name: str
    depends_on: str
    load: Callable[[], Model]
    check: Callable[[Sample], None]


def make_scorer(name: str, weights: str, device: str = "cpu") -> Scorer:
    """The scorer of this name.

    Args:
        name: One of `REWARDS`, the class of another reward, `module:Class`, or "geneval".
        weights: A folder of weights or a hub id, `owner/name`; for GenEval's judge a folder or a
            detector, `module:function`.
        device: Where a network runs.

    Raises:
        UserError: The name is unknown or there are no such weights.
    """
    if name == GENEVAL:
        return _geneval(weights, device)
    if name not in REWARDS and ":" not in name:
        raise UserError(f"unknown evaluator `{name}`{nearest(name, [*REWARDS, GENEVAL])}")
    located = str(locate(weights))
    check_weights(located, f"evaluator `{name}`")
    return _reward(name, located, device)


def _reward(name: str, weights: str, device: str) -> Scorer:
    """A reward on its official path for image files: pixels as stored, whatever EXIF says."""

    def load() -> Model:
        reward = load_reward(name, weights, device)

        def score(prepared: Sequence[Tensor], samples: Sequence[Sample]) -> list[Entry]:
            scores = reward.score_prepared(prepared, [sample.prompt for sample in samples])
            return [{"score": None if isnan(value) else value} for value in scores.tolist()]

        return Model(reward.prepare, score)

    files = json.dumps(weights_fingerprint(weights), sort_keys=True)
    depends_on = fingerprint(name, files, sources(leapalign.rewards))
    return Scorer(name, depends_on, load, lambda _: None)


def _geneval(weights: str, device: str, options: Options | None = None) -> Scorer:
    """GenEval's judge over what a detector sees."""
    source = find_detector(weights, device)
    options = options or Options()

    def load() -> Model:
        detector = source.load()

        def score(images: Sequence[Image.Image], samples: Sequence[Sample]) -> list[Entry]:
            pairs = zip(images, samples, strict=True)
            return [_record(detector, np.asarray(image), one, options) for image, one in pairs]

        return Model(upright, score)

    depends_on = fingerprint(source.depends_on, repr(options), sources(eval.geneval))
    return Scorer(GENEVAL, depends_on, load, functools.partial(_judgeable, source.classes))


def _record(detector: Detector, image: Pixels, sample: Sample, options: Options) -> Entry:
    """The verdict on one image, in the words of the official result record."""
    detections = detector.detect(image)
    colors = functools.partial(detector.colors, image)
    verdict = judge(check_metadata(sample.metadata), detections, options, colors)
    seen = kept(sample.tag, detections, options)
    details = {
        label: [[*found["box"], found["score"]] for found in ranked]
        for label, ranked in seen.items()
        if ranked
    }
    return {
        "score": float(verdict.correct),
        "correct": verdict.correct,
        "reason": verdict.reason,
        "details": json.dumps(details),
    }


def _judgeable(classes: Collection[str], sample: Sample) -> None:
    """Refuse a prompt without metadata, and one that asks for what no detector could find."""
    try:
        metadata = check_metadata(sample.metadata)
    except CaseError as error:
        raise UserError(
            f"{sample.image}: no GenEval metadata ({error}); take prompts from a metadata file"
        ) from None
    wanted, unwanted = metadata.get("include", []), metadata.get("exclude", [])
    if classes:
        _known(sample, "class", [clause["class"] for clause in (*wanted, *unwanted)], classes)
    _known(sample, "color", [clause["color"] for clause in wanted if "color" in clause], COLORS)


def _known(sample: Sample, kind: str, names: Sequence[str], valid: Collection[str]) -> None:
    for name in names:
        if name not in valid:
            raise UserError(f"{sample.image}: metadata: no {kind} `{name}`{nearest(name, valid)}")
