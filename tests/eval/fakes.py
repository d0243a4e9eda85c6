"""Stand-ins for a backbone, a reward and a detector."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from leapalign import rewards
from leapalign.grid import Grid


class Field:
    """A field that draws each sample half the way to a color of its prompt."""

    def __init__(self, prompts: Sequence[str], guidance: float) -> None:
        self.target = torch.tensor([[[len(prompt) * guidance / 50]] for prompt in prompts])

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        return (x - self.target) * time[:, None, None]

    def __getitem__(self, rows: Tensor | slice) -> Field:
        part = copy.copy(self)
        part.target = self.target[rows]
        return part


class Backbone:
    """Small images, one latent token a pixel."""

    loaded = 0

    def __init__(self, shade: float, side: int = 4) -> None:
        self.shade, self.side = shade, side

    @classmethod
    def load(cls, path: str, resolution: int, device: str, dtype: torch.dtype) -> Backbone:
        assert (Path(path).name, device, dtype) == ("base", "cpu", torch.float32)
        cls.loaded += 1
        return cls(0.0, resolution)

    def load_weights(self, path: Path) -> None:
        self.shade = float(path.read_text())

    def grid(self, steps: int) -> Grid:
        return Grid.shifted(steps, 1.0)

    def latents(self, generators: Sequence[torch.Generator]) -> Tensor:
        return torch.stack([torch.randn(self.side**2, 3, generator=one) for one in generators])

    def prefetch(self, prompts: Sequence[str], guidance: float) -> None:
        """Nothing takes long here."""

    def field(self, prompts: Sequence[str], guidance: float) -> Field:
        return Field(prompts, guidance)

    def decode(self, x: Tensor) -> Tensor:
        return (x + self.shade).sigmoid().reshape(-1, self.side, self.side, 3).permute(0, 3, 1, 2)


class Reward(rewards.Reward):
    """Scores the share of red in an image; a black image breaks it."""

    name = "hpsv2"
    quantity = "scale times the share of red"
    range = (0.0, 10.0)
    device = torch.device("cpu")

    def __init__(self, path: Path) -> None:
        self.scale = float((path / "model.safetensors").read_text())

    def transform(self, images: Tensor) -> Tensor:
        return images.mean(dim=(-2, -1)) * 255

    def prepare(self, image: Image.Image) -> Tensor:
        means = np.asarray(image.convert("RGB"), dtype=np.float32).mean(axis=(0, 1))
        return torch.from_numpy(means)

    def rate(self, prepared: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(prepared) == len(prompts)
        return self.scale * prepared[:, 0] / prepared.sum(-1)


def detect(image: np.ndarray) -> list[dict]:
    """One cube where the image's first pixel is red."""
    red, green, _ = image[0, 0]
    score = 0.95 if red > green else 0.1
    return [{"label": "cube", "box": [0, 0, 2, 2], "score": score, "color": "red"}]
