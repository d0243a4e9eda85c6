"""GenEval's colour classifier: CLIP ViT-L/14 on each object, cut out and set on grey.

Zero-shot, as the official script has it (Ghosh et al., 2023): per colour the mean of three
prompts' embeddings. CLIP is OpenAI's, whose activation is the quick GELU; on a GPU it runs under
float16 autocast, which the official classifier (clip_benchmark 1.4.0) turns on by default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from eval.geneval.records import COLORS, Box
from leapalign.errors import UserError
from leapalign.rewards.weights import load_strictly, read_state_dict

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
OFFICIAL_MODEL = "ViT-L-14-quickgelu"
TEMPLATES = (
    "a photo of a {color} {name}",
    "a photo of a {color}-colored {name}",
    "a photo of a {color} object",
)
BACKGROUND = "#999"
BATCH = 16

# An object's box, and its mask over the whole image.
Cutout = tuple[Box, NDArray[np.bool_]]


class ColorNamer:
    """Names the colour of objects of one class."""

    def __init__(
        self,
        model: open_clip.CLIP,
        tokenizer: Callable[[list[str]], Tensor],
        transform: Callable[[Image.Image], Tensor],
    ) -> None:
        """Use a frozen CLIP and its own preparation of texts and images."""
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.transform = transform
        self._classifiers: dict[str, Tensor] = {}

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> ColorNamer:
        """Load open_clip's weights, of ViT-L/14 or of the model that the folder's config names.

        Raises:
            UserError: The weights are missing or damaged, or the model has another activation.
        """
        name = f"local-dir:{folder}" if (folder / CONFIG).is_file() else OFFICIAL_MODEL
        state = read_state_dict(folder / WEIGHTS)
        config = open_clip.get_model_config(name)
        if not config.get("quick_gelu"):
            raise UserError(
                f"{folder / CONFIG}: needs quick_gelu: true, the activation of OpenAI's CLIP"
            )
        model = open_clip.CLIP(**config)
        load_strictly(model, state, folder / WEIGHTS)
        transform = open_clip.image_transform(model.visual.image_size, is_train=False)
        return cls(model.to(device), open_clip.get_tokenizer(name), transform)

    def __call__(self, image: Image.Image, objects: Sequence[Cutout], name: str) -> list[str]:
        """The colours of objects of the class `name` in an image."""
        return [COLORS[best] for best in self.logits(image, objects, name).argmax(1).tolist()]

    @torch.inference_mode()
    def logits(
        self, image: Image.Image, objects: Sequence[Cutout], name: str
    ) -> Float[Tensor, "objects colors"]:
        """100 times the cosine of each object with each colour."""
        crops = torch.stack([self.transform(cut_out(image, *one)) for one in objects])
        classifier = self.classifier(name)
        with self._autocast():
            logits = [
                100.0 * self.model.encode_image(batch, normalize=True) @ classifier
                for batch in crops.to(self.device).split(BATCH)
            ]
        return torch.cat(logits).float()

    @torch.inference_mode()
    def classifier(self, name: str) -> Float[Tensor, "dim colors"]:
        """One unit vector a colour, for objects of the class `name`."""
        if name not in self._classifiers:
            columns = []
            for color in COLORS:
                texts = [one.format(color=color, name=name) for one in TEMPLATES]
                with self._autocast():
                    tokens = self.tokenizer(texts).to(self.device)
                    mean = self.model.encode_text(tokens, normalize=True).mean(dim=0)
                    columns.append(mean / mean.norm())
            self._classifiers[name] = torch.stack(columns, dim=1)
        return self._classifiers[name]

    @property
    def device(self) -> torch.device:
        """Where CLIP runs."""
        return self.model.logit_scale.device

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cuda", torch.float16, enabled=self.device.type == "cuda")


def cut_out(image: Image.Image, box: Box, mask: NDArray[np.bool_]) -> Image.Image:
    """An object on grey, cut to its box (corners rounded, half to even)."""
    blank = Image.new("RGB", image.size, BACKGROUND)
    return Image.composite(image, blank, Image.fromarray(mask)).crop(box)
