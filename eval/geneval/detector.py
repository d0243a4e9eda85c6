"""What sees for GenEval: a function that tells colours too, or the official networks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eval.fingerprints import fingerprint, sources
from eval.geneval.coco import CLASSES
from eval.geneval.judge import given_colors
from eval.geneval.records import Detection
from leapalign.parsing import resolve
from leapalign.weights import check_weights
from leapalign.weights import fingerprint as weights_fingerprint

Image = NDArray[np.uint8]


class Detector(Protocol):
    """Finds objects in an image, uint8 [height, width, 3] in RGB, and names their colours."""

    def detect(self, image: Image) -> list[Detection]:
        """The objects, in the detector's order."""

    def colors(self, image: Image, objects: Sequence[Detection]) -> Sequence[str | None]:
        """The colours of some of them, all of one class."""


@dataclass(frozen=True, slots=True)
class Source:
    """A detector that is loaded only where an image is to be judged.

    Attributes:
        depends_on: Digest of the weights or the code behind its detections.
        load: Loads it.
        classes: What it can see, or nothing where it does not say.
    """

    depends_on: str
    load: Callable[[], Detector]
    classes: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class Reporting:
    """A function whose detections come with their colours."""

    function: Callable[[Image], list[Detection]]

    def detect(self, image: Image) -> list[Detection]:
        """What the function reports."""
        return self.function(image)

    def colors(self, _image: Image, objects: Sequence[Detection]) -> list[str | None]:
        """The colours that it reported."""
        return given_colors(objects)


def find_detector(reference: str, device: str) -> Source:
    """The detector behind `module:function`, or behind a folder of the official weights.

    Raises:
        UserError: There is no such function, or no whole weights in the folder.
    """
    if ":" in reference:
        function = resolve(reference, "detector")
        # A detector may share its package with modules that it depends on.
        package, _, _ = function.__module__.rpartition(".")
        code = sources(sys.modules[package or function.__module__])
        return Source(fingerprint(reference, code), lambda: Reporting(function))
    check_weights(reference, "evaluator `geneval`")
    digests = json.dumps(weights_fingerprint(reference), sort_keys=True)

    def load() -> Detector:
        import torch

        from eval.geneval.mask2former import Mask2Former

        return Mask2Former.load(Path(reference), torch.device(device))

    return Source(fingerprint(digests), load, CLASSES)
