"""The scorers: what each computes for an image and its prompt, and what that depends on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

import eval.geneval
import leapalign.rewards
from eval.fingerprints import fingerprint, sources
from eval.geneval import Detection, Detector, Options, judge
from eval.geneval.judge import kept
from eval.geneval.records import CaseError, check_metadata
from eval.manifest import Sample, upright
from leapalign.errors import UserError
from leapalign.parsing import nearest, resolve
from leapalign.rewards import REWARDS, load_reward
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
        name: One of `REWARDS`, or "geneval".
        weights: A reward's folder of weights; for GenEval the detector (`module:function`).
        device: Where a reward runs.

    Raises:
        UserError: The name is unknown or there are no such weights.
    """
    if name == GENEVAL:
        return _geneval(weights)
    if name not in REWARDS:
        raise UserError(f"unknown evaluator `{name}`{nearest(name, [*REWARDS, GENEVAL])}")
    check_weights(weights, f"evaluator `{name}`")
    return _reward(name, weights, device)


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


def _geneval(reference: str, options: Options | None = None) -> Scorer:
    """GenEval's judge over a detector, whose code stands in one package."""
    detect: Detector = resolve(reference, "detector")
    options = options or Options()

    def load() -> Model:
        def score(images: Sequence[Image.Image], samples: Sequence[Sample]) -> list[Entry]:
            pairs = zip(images, samples, strict=True)
            return [_record(detect(np.asarray(image)), sample, options) for image, sample in pairs]

        return Model(upright, score)

    depends_on = fingerprint(reference, repr(options), sources(_package(detect), eval.geneval))
    return Scorer(GENEVAL, depends_on, load, _judgeable)


def _record(detections: Sequence[Detection], sample: Sample, options: Options) -> Entry:
    """The verdict on one image, in the words of the official result record."""
    verdict = judge(check_metadata(sample.metadata), detections, options)
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


def _judgeable(sample: Sample) -> None:
    try:
        check_metadata(sample.metadata)
    except CaseError as error:
        raise UserError(
            f"{sample.image}: no GenEval metadata ({error}); take prompts from a metadata file"
        ) from None


def _package(detect: Detector) -> ModuleType:
    """The package that a detector stands in: it may share that with modules it depends on."""
    module, _, _ = detect.__module__.rpartition(".")
    return sys.modules[module or detect.__module__]
