"""HPSv2.1 (Wu et al., 2023): the cosine of CLIP embeddings tuned on human preferences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import open_clip
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from leapalign.errors import UserError
from leapalign.kernels.prepare import View
from leapalign.kernels.prepare import prepare as prepare_images
from leapalign.rewards.images import MEAN, STD, normalize, to_tensor
from leapalign.rewards.reward import Reward
from leapalign.rewards.weights import load_strictly, read_state_dict, verify

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
OFFICIAL_MODEL, OFFICIAL_WEIGHTS = "ViT-H-14", "HPS_v2.1_compressed.pt"


def model_name(path: Path) -> str:
    """What open_clip calls the model in an open_clip folder, or the official one elsewhere."""
    return f"local-dir:{path}" if (path / CONFIG).is_file() else OFFICIAL_MODEL


def prepare(images: Float[Tensor, "batch 3 h w"], size: int) -> Float[Tensor, "batch 3 H W"]:
    """The official transform: longest side to `size`, centred on black, then normalised.

    The odd pixel of padding goes right or bottom. Images whose longest side is `size` already are
    not padded, so a 224x200 image keeps its shape.
    """
    height, width = images.shape[-2:]
    scale = size / max(height, width)
    if scale == 1:
        return normalize(images)
    # Multiplied by the quotient, as officially: some half pixels round the other way otherwise.
    height, width = round(height * scale), round(width * scale)
    corner = -((size - height) // 2), -((size - width) // 2)
    return prepare_images(images, View((height, width), corner, (size, size), MEAN, STD))


class HPSv2(Reward):
    """HPSv2.1 from an open_clip folder or the official checkpoint."""

    name: ClassVar[str] = "hpsv2"
    quantity: ClassVar[str] = "cosine similarity without logit scale, about 0.2 to 0.35"
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def __init__(
        self, model: open_clip.CLIP, tokenizer: Callable[[list[str]], Tensor], size: int
    ) -> None:
        """Score with a frozen `model` whose input is `size` pixels wide."""
        self.model = model.eval().requires_grad_(False)
        self.device = model.logit_scale.device
        self.tokenizer = tokenizer
        self.size = size
        self._texts: dict[str, Tensor] = {}

    @classmethod
    def load(cls, path: Path, device: torch.device) -> HPSv2:
        """Load from an open_clip local-dir folder, or the official ViT-H-14 .pt or its folder.

        Raises:
            UserError: The weights are missing, damaged or of another model.
        """
        verify(path)
        name = model_name(path)
        if name == OFFICIAL_MODEL:
            weights = path / OFFICIAL_WEIGHTS if path.is_dir() else path
        else:
            weights = path / WEIGHTS
        state = read_state_dict(weights)
        try:
            model = open_clip.CLIP(**open_clip.get_model_config(name))
            tokenizer = open_clip.get_tokenizer(name)
        except (ValueError, TypeError, RuntimeError, OSError) as error:
            raise UserError(f"{path}: no open_clip model: {error}") from error
        load_strictly(model, state, weights)
        size = model.visual.image_size
        return cls(model.to(device), tokenizer, size if isinstance(size, int) else size[0])

    def transform(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 H W"]:
        """The official transform, which works on tensors.

        Raises:
            UserError: An image's shape is one that the official code fails on, too.
        """
        height, width = images.shape[-2:]
        if self.size == max(height, width) != min(height, width):
            raise UserError(
                f"{self.name}: {width}x{height} pixels: with {self.size} already, the longest side "
                "is not padded officially, and the model reads squares; resize it by a pixel"
            )
        if 2 * min(height, width) * self.size <= max(height, width):
            raise UserError(f"{self.name}: {width}x{height} pixels: too narrow to be resized")
        return prepare(images, self.size)

    def prepare(self, image: Image.Image) -> Float[Tensor, "3 H W"]:
        """The same on 8-bit pixels; the official one fails on an alpha channel, here dropped."""
        return self.transform(to_tensor(image)[None])[0]

    def rate(
        self, prepared: Float[Tensor, "batch 3 H W"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """cos(image, text), both L2-normalised, without the logit scale."""
        features = self.model.encode_image(prepared, normalize=True)
        return (features * self.encode(prompts)).sum(-1)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "batch dim"]:
        """Normalised text embeddings; each prompt's is computed once, alone, and kept."""
        for prompt in prompts:
            if prompt not in self._texts:
                tokens = self.tokenizer([prompt]).to(self.device)
                self._texts[prompt] = self.model.encode_text(tokens, normalize=True)[0]
        return torch.stack([self._texts[prompt] for prompt in prompts])
