"""PickScore (Kirstain et al., 2023): CLIP's scaled cosine, tuned on human choices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from leapalign.errors import UserError
from leapalign.rewards.images import normalize, shorten, to_rgb
from leapalign.rewards.reward import Reward
from leapalign.rewards.weights import load_strictly, read_state_dict, verify

WEIGHTS = "model.safetensors"


def prepare(images: Float[Tensor, "batch 3 h w"], size: int) -> Float[Tensor, "batch 3 size size"]:
    """CLIP's processor on floats: shortest edge to `size`, clamp, centre crop, normalise.

    The crop's offset is rounded down, as the processor does (torchvision rounds to nearest).
    """
    images = shorten(images, size)
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return normalize(images[..., top : top + size, left : left + size])


class PickScore(Reward):
    """PickScore from a transformers CLIPModel folder with its processor."""

    name: ClassVar[str] = "pickscore"
    quantity: ClassVar[str] = "exp(logit scale) times cosine similarity, about 15 to 25"
    range: ClassVar[tuple[float, float]] = (-100.0, 100.0)  # CLIP's logit scale is 100 at most
    unit: ClassVar[float] = 100.0  # LeapAlign trains on the plain cosine

    def __init__(
        self, model: CLIPModel, processor: CLIPImageProcessorPil, tokenizer: CLIPTokenizer
    ) -> None:
        """Score with a frozen `model`."""
        self.model = model.eval().requires_grad_(False)
        self.device = model.device
        self.processor = processor
        self.tokenizer = tokenizer
        self._texts: dict[str, Tensor] = {}

    @classmethod
    def load(cls, path: Path, device: torch.device) -> PickScore:
        """Load from a folder with model, image processor and tokenizer.

        Raises:
            UserError: The weights are missing, damaged or of another model.
        """
        verify(path)
        state = read_state_dict(path / WEIGHTS)
        try:
            model = CLIPModel(CLIPConfig.from_pretrained(path, local_files_only=True))
            processor = CLIPImageProcessorPil.from_pretrained(path, local_files_only=True)
            tokenizer = CLIPTokenizer.from_pretrained(path, local_files_only=True)
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: no CLIPModel folder: {error}") from error
        load_strictly(model, drop_position_ids(state), path / WEIGHTS)
        return cls(model.to(device), processor, tokenizer)

    def transform(self, images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 size size"]:
        """The processor's steps on floats."""
        return prepare(images, self.model.config.vision_config.image_size)

    def prepare(self, image: Image.Image) -> Float[Tensor, "3 size size"]:
        """The processor of transformers, which resizes with Pillow on 8-bit pixels."""
        return self.processor(images=to_rgb(image), return_tensors="pt")["pixel_values"][0]

    def rate(
        self, prepared: Float[Tensor, "batch 3 size size"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """exp(logit scale) * cos(image, text)."""
        features = F.normalize(self.model.get_image_features(prepared).pooler_output, dim=-1)
        return self.model.logit_scale.exp() * (features * self.encode(prompts)).sum(-1)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "batch dim"]:
        """Normalised text embeddings; each prompt's is computed once, alone, and kept."""
        for prompt in prompts:
            if prompt not in self._texts:
                tokens = self.tokenizer(
                    [prompt],
                    truncation=True,
                    max_length=self.model.config.text_config.max_position_embeddings,
                    return_tensors="pt",
                ).to(self.device)
                features = self.model.get_text_features(**tokens).pooler_output
                self._texts[prompt] = F.normalize(features, dim=-1)[0]
        return torch.stack([self._texts[prompt] for prompt in prompts])


def drop_position_ids(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the position indices that older checkpoints store; they are constants."""
    return {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}
