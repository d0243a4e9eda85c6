"""What all backbones share that come as a diffusers pipeline with a transformer and 2D latents."""

from __future__ import annotations

import contextlib
import gc
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, TypeVar

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from leapalign import cache
from leapalign.backbones.encodings import EncodedPrompts, Encoder, Encodings
from leapalign.backbones.finetuned import load_finetuned
from leapalign.backbones.folder import (
    check_loaded,
    check_whole,
    configuration,
    local,
    text_identity,
    text_parts,
)
from leapalign.errors import UserError
from leapalign.kernels.fuse import fuse
from leapalign.steps import Latents

LOADERS = {
    "FluxPipeline": "leapalign.backbones.flux:Flux",
    "Flux2KleinPipeline": "leapalign.backbones.flux2:Flux2Klein",
    "StableDiffusion3Pipeline": "leapalign.backbones.sd3:StableDiffusion3",
}
"""The backbone that loads a folder, by what its model_index.json says."""

Loaded = TypeVar("Loaded", bound="PipelineBackbone")


@dataclass
class PipelineBackbone(ABC):
    """A model at one resolution.

    Args:
        pipeline: the stock diffusers pipeline, without its text encoders.
        resolution: side of the square image in pixels.
        encodings: of prompts; they load the text encoders when they need them.

    Attributes:
        stock: the pipeline's class.
        title: the model's name, for messages.
        longest: tokens that a prompt may have.
        spare: parts that the model can do without.
    """

    pipeline: Any
    resolution: int
    encodings: Encodings

    stock: ClassVar[type[DiffusionPipeline]]
    title: ClassVar[str]
    longest: ClassVar[int]
    spare: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        """Fit the fused operations into the transformer, where it has a place for them."""
        fuse(self.transformer)

    @classmethod
    def load(
        cls: type[Loaded],
        path: str | Path,
        resolution: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        encoder_dtype: torch.dtype | None = None,
    ) -> Loaded:
        """Load a diffusers folder or hub id; only its transformer can be trained.

        The decoder is in float32 at least: every method's gradient comes through it, and in
        bfloat16 its pixels would be rounded to a level of 255. It is 1% of FLUX's weights.

        Args:
            path: the folder, or the model on the hub.
            resolution: side of the square image in pixels.
            device: where it runs.
            dtype: of the transformer; float32 where all its weights are trained.
            encoder_dtype: of the text encoders; by default the transformer's.

        Raises:
            UserError: the folder is another model's, lacks a part or is damaged, or it cannot make
                images of this resolution.
        """
        with cls._naming(path):
            folder = local(path)
            index = DiffusionPipeline.load_config(folder)
            cls._refuse_another(path, index)
            check_whole(folder, index, [*cls.spare, *cls.stock._optional_components])
            types = {"vae": torch.promote_types(dtype, torch.float32), "default": dtype}
            without = dict.fromkeys(text_parts(index))
            pipeline = cls.stock.from_pretrained(folder, dtype=types, **without)
            for part in ("transformer", "vae"):
                check_loaded(getattr(pipeline, part), folder / part)
        how = torch.device(device), encoder_dtype or dtype
        encodings = Encodings(
            cache.folder() / "encodings" / text_identity(folder, how[0].type, how[1], cls.longest),
            lambda: cls.text_encoders(folder, *how),
        )
        backbone = cls(pipeline, resolution, encodings)
        backbone.check()
        pipeline.vae.requires_grad_(False).eval()
        pipeline.to(device)
        # The decoder is a third of a pocket iteration; this halves its forward pass on a CPU.
        pipeline.vae.to(memory_format=torch.channels_last)
        pipeline.set_progress_bar_config(disable=True)
        return backbone

    @classmethod
    @contextlib.contextmanager
    def text_encoders(
        cls, folder: Path, device: torch.device, dtype: torch.dtype
    ) -> Iterator[Encoder]:
        """Load the text encoders; yields what encodes a prompt, and frees their memory at the end.

        Raises:
            UserError: one is damaged.
        """
        with cls._naming(folder):
            index = DiffusionPipeline.load_config(folder)
            parts = [part for part, kind in index.items() if isinstance(kind, list)]
            without = dict.fromkeys(set(parts) - set(text_parts(index)))
            absent = {part: None for part in cls.spare if index.get(part) == [None, None]}
            pipeline = cls.stock.from_pretrained(folder, dtype=dtype, **without, **absent)
        pipeline.to(device)
        # A part that is absent is as wide as the transformer's configuration says.
        pipeline.transformer = SimpleNamespace(config=configuration(folder / "transformer"))
        try:
            with torch.no_grad():
                yield lambda prompt: cls._encode(pipeline, prompt)
        finally:
            del pipeline
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()

    @classmethod
    @contextlib.contextmanager
    def _naming(cls, path: str | Path) -> Iterator[None]:
        """Name the folder in what goes wrong while it is loaded."""
        try:
            yield
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path}: not a loadable {cls.title} pipeline folder: {reason}"
            ) from error

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

    @classmethod
    @abstractmethod
    def _encode(cls, encoders: Any, prompt: str) -> EncodedPrompts:  # noqa: ANN401 - a pipeline
        """One prompt's encoding by a stock pipeline of the text encoders alone."""

    def check_guidance(self, guidance: float) -> None:  # noqa: B027 - most models take any
        """Refuse guidance that the model cannot give.

        Raises:
            UserError: naming the setting.
        """

    @property
    def transformer(self) -> nn.Module:
        """The trained network."""
        network: nn.Module = self.pipeline.transformer
        return network

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

    def prefetch(self, prompts: Iterable[str], guidance: float) -> None:
        """Encode what `field` will need of these prompts; then the text encoders are gone.

        Raises:
            UserError: the model cannot give guidance of this strength.
        """
        self.check_guidance(guidance)
        self.encodings.prefetch(prompts)

    def encode(self, prompts: Sequence[str]) -> EncodedPrompts:
        """The prompts' encodings."""
        return self.encodings(prompts).to(self.pipeline.vae.device)

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
