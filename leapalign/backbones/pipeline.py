"""What all backbones share that come as a diffusers pipeline with a transformer and 2D latents."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from leapalign.backbones.finetuned import load_finetuned
from leapalign.errors import UserError
from leapalign.steps import Latents

LOADERS = {
    "FluxPipeline": "leapalign.backbones.flux:Flux",
    "StableDiffusion3Pipeline": "leapalign.backbones.sd3:StableDiffusion3",
}
"""The backbone that loads a folder, by what its model_index.json says."""

Loaded = TypeVar("Loaded", bound="PipelineBackbone")


@dataclass(frozen=True, slots=True)
class EncodedPrompts:
    """Encoded prompts.

    Args:
        tokens: token embeddings.
        pooled: pooled embedding.
    """

    tokens: Float[Tensor, "batch tokens width"]
    pooled: Float[Tensor, "batch pooled"]

    def __getitem__(self, rows: Tensor | slice) -> EncodedPrompts:
        """The prompts of these rows."""
        return EncodedPrompts(self.tokens[rows], self.pooled[rows])


def joined(parts: Sequence[EncodedPrompts]) -> EncodedPrompts:
    """All the parts' prompts in one batch."""
    return EncodedPrompts(
        torch.cat([part.tokens for part in parts]), torch.cat([part.pooled for part in parts])
    )


@dataclass
class PipelineBackbone(ABC):
    """A model at one resolution.

    Args:
        pipeline: the stock diffusers pipeline.
        resolution: side of the square image in pixels.

    Attributes:
        stock: the pipeline's class.
        title: the model's name, for messages.
        spare: parts that the model can do without.
    """

    pipeline: Any
    resolution: int
    _encoded: dict[str, EncodedPrompts] = field(default_factory=dict)

    stock: ClassVar[type[DiffusionPipeline]]
    title: ClassVar[str]
    spare: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def load(
        cls: type[Loaded],
        path: str | Path,
        resolution: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Loaded:
        """Load a diffusers folder or hub id; only its transformer can be trained.

        Raises:
            UserError: the folder is another model's or damaged, or it cannot make images of this
                resolution.
        """
        try:
            index = DiffusionPipeline.load_config(path)
            cls._refuse_another(path, index)
            # The stock loader wants to be told of a part that it cannot find.
            absent = {part: None for part in cls.spare if index.get(part) == [None, None]}
            pipeline = cls.stock.from_pretrained(path, dtype=dtype, **absent)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(
                f"{path}: not a loadable {cls.title} pipeline folder: {str(error).splitlines()[0]}"
            ) from error
        backbone = cls(pipeline, resolution)
        backbone.check()
        for name, module in pipeline.components.items():
            if isinstance(module, nn.Module) and name != "transformer":
                module.requires_grad_(False).eval()
        pipeline.to(device)
        # The decoder is a third of a pocket iteration; this halves its forward pass on a CPU.
        pipeline.vae.to(memory_format=torch.channels_last)
        pipeline.set_progress_bar_config(disable=True)
        return backbone

    @classmethod
    def _refuse_another(cls, path: str | Path, index: Mapping[str, Any]) -> None:
        found = index.get("_class_name")
        if found != cls.stock.__name__ and found in LOADERS:
            raise UserError(
                f"{path}: a {found} folder, not a {cls.title} one; "
                f"set backbone.loader to {LOADERS[found]}, or correct backbone.path"
            )

    def check(self) -> None:
        """Refuse what this model cannot do.

        Raises:
            UserError: naming the setting.
        """
        if self.resolution % self.token:
            raise UserError(
                f"resolution: {self.resolution} is not a multiple of {self.token}, "
                "the size of one latent token"
            )

    @property
    @abstractmethod
    def patch(self) -> int:
        """Side of the patches of latents that make one token."""

    @abstractmethod
    def _encode(self, prompt: str) -> EncodedPrompts:
        """One prompt's encoding by the stock pipeline."""

    @property
    def transformer(self) -> nn.Module:
        """The trained network; assign to it to wrap it."""
        network: nn.Module = self.pipeline.transformer
        return network

    @transformer.setter
    def transformer(self, module: nn.Module) -> None:
        self.pipeline.transformer = module

    def load_weights(self, path: str | Path) -> None:
        """Replace the transformer's weights by fine-tuned ones, or add a trained adapter.

        Raises:
            UserError: the file is missing, damaged or of another model.
        """
        load_finetuned(self.pipeline, path)

    def latents(self, generators: Sequence[torch.Generator]) -> Latents:
        """Standard normal packed latents, one per generator, drawn as the stock pipeline does."""
        vae, side = self.pipeline.vae, self.resolution // self.pipeline.vae_scale_factor
        shape = (len(generators), vae.config.latent_channels, side, side)
        noise = randn_tensor(shape, list(generators), device=vae.device, dtype=vae.dtype)
        return pack(noise, self.patch)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> EncodedPrompts:
        """The prompts' encodings, each computed once and alone.

        The last bits of a batch's encodings depend on what else is in it, and a resumed run meets
        its prompts in other company than an unbroken one.
        """
        for prompt in prompts:
            if prompt not in self._encoded:
                self._encoded[prompt] = self._encode(prompt)
        return joined([self._encoded[prompt] for prompt in prompts])

    def decode(self, x: Latents) -> Float[Tensor, "batch 3 height width"]:
        """Packed latents to images in [0, 1], differentiable."""
        vae = self.pipeline.vae
        latents = unpack(x, self.patch) / vae.config.scaling_factor + vae.config.shift_factor
        return (vae.decode(latents, return_dict=False)[0] / 2.0 + 0.5).clamp(0.0, 1.0)

    @property
    def token(self) -> int:
        """Side of one token in pixels."""
        return int(self.pipeline.vae_scale_factor) * self.patch

    @property
    def side(self) -> int:
        """Tokens along a side of the image."""
        return self.resolution // self.token


def pack(latents: Float[Tensor, "batch depth height width"], patch: int) -> Latents:
    """One token per square patch, row by row: FLUX's packing."""
    tokens = functional.pixel_unshuffle(latents, patch).flatten(2)
    return tokens.transpose(1, 2).contiguous()


def unpack(x: Latents, patch: int) -> Float[Tensor, "batch depth height width"]:
    """The inverse of `pack` for square images."""
    side = math.isqrt(x.shape[1])
    return functional.pixel_shuffle(x.transpose(1, 2).unflatten(2, (side, side)), patch)


def dynamic_shift(config: Mapping[str, Any], tokens: int) -> float:
    """μ of a scheduler with dynamic shifting: linear in the image tokens."""
    return calculate_shift(
        tokens,
        config["base_image_seq_len"],
        config["max_image_seq_len"],
        config["base_shift"],
        config["max_shift"],
    )
