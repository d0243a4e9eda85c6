"""Colourfulness (Hasler and Süsstrunk, 2003): a reward in closed form, without weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from leapalign.rewards import Reward


class Colourfulness(Reward):
    """σ + 0.3 μ: how far the opponent colours R - G and (R + G) / 2 - B spread, and lie from grey.

    It looks at no prompt: trained on, it is hacked at once, which is what it is good for here.
    """

    name = "colourfulness"
    quantity = "colourfulness of RGB in [0, 1]"
    range = (0.0, 2.0)

    def __init__(self, device: torch.device) -> None:
        self.device = device

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Colourfulness:  # noqa: ARG003 - no weights
        """There is nothing to load."""
        return cls(device)

    def transform(self, images: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """The images as they are."""
        return images

    def prepare(self, image: Image.Image) -> Tensor:
        """The pixels in [0, 1]."""
        return to_tensor(image.convert("RGB"))

    def rate(self, prepared: Tensor, prompts: Sequence[str]) -> Float[Tensor, " batch"]:  # noqa: ARG002
        """σ + 0.3 μ of each image."""
        red, green, blue = prepared.flatten(2).unbind(1)
        opponents = torch.stack([red - green, (red + green) / 2 - blue])
        # The small constant keeps the root's gradient finite on a grey image.
        spread = (opponents.var(-1, correction=0).sum(0) + 1e-12).sqrt()
        offset = (opponents.mean(-1).square().sum(0) + 1e-12).sqrt()
        return spread + 0.3 * offset
