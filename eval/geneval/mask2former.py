"""GenEval's detector: mmdet's Mask2Former Swin-S (COCO instances) through transformers, no mmcv.

Its weights stand in one folder: the official checkpoint, mask2former*.pth, and in `clip` those of
the colour classifier.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import Mask2FormerForUniversalSegmentation

from eval.geneval.coco import CLASSES
from eval.geneval.colors import ColorNamer
from eval.geneval.mmdet import UNUSED, configure, convert
from eval.geneval.records import Detection
from eval.geneval.segments import prepare, segment
from leapalign.errors import UserError
from leapalign.rewards.weights import damaged, read_state_dict

CHECKPOINT, CLIP = "mask2former*.pth", "clip"
PORTRAIT, SITTER = "grace_hopper.jpg", "person"
"""What every sighted detector sees in the photograph that matplotlib ships."""
SURE, LARGE = 0.5, 0.5


class Segment(Detection):
    """A detection with the pixels that are the object, [height, width]."""

    mask: NDArray[np.bool_]


class Mask2Former:
    """Finds COCO's objects in an image, and names their colours when asked."""

    classes = CLASSES

    def __init__(self, model: Mask2FormerForUniversalSegmentation, name_colors: ColorNamer) -> None:
        """Detect with a frozen model."""
        self.model = model.eval().requires_grad_(False)
        self.name_colors = name_colors

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Mask2Former:
        """Load the official checkpoint and the colour classifier, and look at a known image.

        Raises:
            UserError: Weights are missing, damaged or another model's, or the detector is blind.
        """
        found = sorted(folder.glob(CHECKPOINT))
        if len(found) != 1:
            raise UserError(f"{folder}: has {len(found)} files {CHECKPOINT}, needs one")
        model = build(read_state_dict(found[0]), found[0]).to(device)
        detector = cls(model, ColorNamer.load(folder / CLIP, device))
        detector.check_sight()
        return detector

    @torch.inference_mode()
    def detect(self, image: NDArray[np.uint8]) -> list[Detection]:
        """The objects in an image, uint8 [height, width, 3] in RGB.

        Classes come in COCO's order, and objects of a class in the detector's, as mmdet has them.
        """
        prepared = prepare(image)
        outputs = self.model(pixel_values=prepared.pixels.to(self.model.device))
        found = segment(
            outputs.class_queries_logits[0],
            outputs.masks_queries_logits[0],
            prepared,
            *image.shape[:2],
        )
        order = found.labels.argsort(stable=True)
        labels, boxes, scores, masks = (column[order].cpu() for column in found)
        return [
            Segment(label=CLASSES[label], box=tuple(box), score=score, mask=mask)
            for label, box, score, mask in zip(
                labels.tolist(), boxes.tolist(), scores.tolist(), masks.numpy(), strict=True
            )
        ]

    def colors(self, image: NDArray[np.uint8], objects: Sequence[Detection]) -> list[str]:
        """The colours of detected objects, all of one class."""
        pairs = [(one["box"], cast(Segment, one)["mask"]) for one in objects]
        names = [one["label"] for one in objects]
        return self.name_colors(Image.fromarray(image), pairs, names[0]) if names else []

    def check_sight(self) -> None:
        """Look for the person in a portrait.

        On some GPUs detectors are known to see nothing, which would only look like a bad model.

        Raises:
            UserError: The person is not found.
        """
        portrait = Path(matplotlib.get_data_path()) / "sample_data" / PORTRAIT
        image = np.asarray(Image.open(portrait).convert("RGB"))
        people = [one for one in self.detect(image) if one["label"] == SITTER]
        large = [one["score"] for one in people if _area(one) > LARGE * image[..., 0].size]
        best = max(large, default=0.0)
        if best < SURE:
            raise UserError(
                f"the detector is blind on {self.model.device}: it scores the person in a portrait "
                f"{best:.2f}, below {SURE}; check its weights, or use another device"
            )


def build(state: dict[str, Tensor], path: Path) -> Mask2FormerForUniversalSegmentation:
    """The model of an mmdet checkpoint, with its weights; `path` names it in the error."""
    try:
        model = Mask2FormerForUniversalSegmentation(configure(state))
        missing, unexpected = model.load_state_dict(convert(state), strict=False)
    except (KeyError, RuntimeError) as error:
        raise damaged(path, f"no Mask2Former of mmdet: {error}") from error
    if unexpected or set(missing) != UNUSED:
        names = sorted({*unexpected, *missing} - UNUSED)
        raise damaged(path, f"no Mask2Former of mmdet: {len(names)} tensors differ, as {names[0]}")
    return model


def _area(found: Detection) -> float:
    left, top, right, bottom = found["box"]
    return (right - left) * (bottom - top)
