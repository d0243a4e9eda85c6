"""FLUX.1 (Black Forest Labs, 2024) from a diffusers folder or hub id, the miniature included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.kernels import dispatch
from leapalign.kernels.flux import fuse
from leapalign.steps import Latents

# What FLUX's own pipeline allows its T5 encoder.
MAX_SEQUENCE = 512
# Side of the patches of latents that make one token.
PATCH = 2


@dataclass(frozen=True, slots=True)
class FluxPrompts:
    """Encoded prompts.

    Args:
        tokens: T5 token embeddings.
        pooled: pooled CLIP embedding.
    """

    tokens: Float[Tensor, "batch tokens width"]
    pooled: Float[Tensor, "batch pooled"]

    def __getitem__(self, rows: Tensor | slice) -> FluxPrompts:
        """The prompts of these rows."""
        return FluxPrompts(self.tokens[rows], self.pooled[rows])


@dataclass(frozen=True, slots=True)
class FluxVelocity:
    """The velocity field v(x, σ) of a FLUX transformer under prompts and embedded guidance."""

    transformer: nn.Module
    prompts: FluxPrompts
    guidance: float | None
    image_ids: Tensor
    text_ids: Tensor

    def __call__(self, x: Latents, time: Float[Tensor, " batch"]) -> Latents:
        """One transformer pass, dx/dσ; `time` is σ in [0, 1]."""
        guidance = None if self.guidance is None else torch.full_like(time, self.guidance)
        return self.transformer(
            hidden_states=x,
            timestep=time,
            guidance=guidance,
            pooled_projections=self.prompts.pooled,
            encoder_hidden_states=self.prompts.tokens,
            txt_ids=self.text_ids,
            img_ids=self.image_ids,
            return_dict=False,
        )[0]

    def __getitem__(self, rows: Tensor | slice) -> FluxVelocity:
        """The field under these rows' prompts."""
        return FluxVelocity(
            self.transformer, self.prompts[rows], self.guidance, self.image_ids, self.text_ids
        )


@dataclass
class Flux:
    """A FLUX model at one resolution.

    Args:
        pipeline: the stock diffusers pipeline.
        resolution: side of the square image in pixels.
    """

    pipeline: FluxPipeline
    resolution: int
    _encoded: dict[str, FluxPrompts] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        path: str | Path,
        resolution: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Flux:
        """Load a diffusers folder or hub id; only its transformer can be trained.

        Raises:
            UserError: the folder is not a FLUX pipeline or is damaged, or it cannot make images of
                this resolution.
        """
        try:
            pipeline = FluxPipeline.from_pretrained(path, dtype=dtype)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise UserError(
                f"{path}: not a loadable FLUX pipeline folder: {str(error).splitlines()[0]}"
            ) from error
        multiple = pipeline.vae_scale_factor * PATCH
        if resolution % multiple:
            raise UserError(
                f"resolution: {resolution} is not a multiple of {multiple}, "
                "the size of one latent token"
            )
        for module in (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
            module.requires_grad_(False).eval()
        pipeline.to(device)
        if dispatch.ENABLED and pipeline.device.type == "cuda":
            fuse(pipeline.transformer)
        # The decoder is a third of a pocket iteration; this halves its forward pass on a CPU.
        pipeline.vae.to(memory_format=torch.channels_last)
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline, resolution)

    @property
    def transformer(self) -> nn.Module:
        """The trained network; assign to it to wrap it."""
        return self.pipeline.transformer

    @transformer.setter
    def transformer(self, module: nn.Module) -> None:
        self.pipeline.transformer = module

    def load_weights(self, path: str | Path) -> None:
        """Replace the transformer's weights by fine-tuned ones in safetensors format.

        Raises:
            UserError: the file is missing, damaged or of another model.
        """
        try:
            self.transformer.load_state_dict(load_file(path))
        except Exception as error:
            raise UserError(
                f"{path}: not weights of this transformer: {str(error).splitlines()[0]}"
            ) from error

    def grid(self, steps: int) -> Grid:
        """The pipeline's own sigmas: uniform, shifted by e^μ, μ linear in the image tokens."""
        config = self.pipeline.scheduler.config
        if not config.use_dynamic_shifting:
            return Grid.shifted(steps, config.shift)
        tokens = (self.resolution // (self.pipeline.vae_scale_factor * PATCH)) ** 2
        mu = calculate_shift(
            tokens,
            config.base_image_seq_len,
            config.max_image_seq_len,
            config.base_shift,
            config.max_shift,
        )
        return Grid.shifted(steps, math.exp(mu))

    def latents(self, generators: Sequence[torch.Generator]) -> Latents:
        """Standard normal packed latents, one per generator, drawn as the stock pipeline does."""
        return self._noise(generators)[0]

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> FluxPrompts:
        """The prompts' encodings, each computed once and alone.

        The last bits of a batch's encodings depend on what else is in it, and a resumed run meets
        its prompts in other company than an unbroken one.
        """
        length = min(MAX_SEQUENCE, self.pipeline.tokenizer_2.model_max_length)
        device = self.pipeline.device  # looked up once: the pipeline's own search doubles the time
        for prompt in prompts:
            if prompt not in self._encoded:
                tokens, pooled, _ = self.pipeline.encode_prompt(
                    prompt=prompt, prompt_2=None, device=device, max_sequence_length=length
                )
                self._encoded[prompt] = FluxPrompts(tokens, pooled)
        parts = [self._encoded[prompt] for prompt in prompts]
        return FluxPrompts(
            torch.cat([part.tokens for part in parts]), torch.cat([part.pooled for part in parts])
        )

    def field(self, prompts: Sequence[str], guidance: float) -> FluxVelocity:
        """The velocity field under `prompts`; guidance is embedded, in one pass."""
        encoded = self.encode(prompts)
        _, image_ids = self._noise([torch.Generator()])
        text_ids = torch.zeros(
            encoded.tokens.shape[1], 3, device=image_ids.device, dtype=image_ids.dtype
        )
        embedded = guidance if self._embeds_guidance else None
        return FluxVelocity(self.transformer, encoded, embedded, image_ids, text_ids)

    def decode(self, x: Latents) -> Float[Tensor, "batch 3 height width"]:
        """Packed latents to images in [0, 1], differentiable."""
        vae = self.pipeline.vae
        side = self.resolution
        latents = self.pipeline._unpack_latents(x, side, side, self.pipeline.vae_scale_factor)
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        return (vae.decode(latents, return_dict=False)[0] / 2.0 + 0.5).clamp(0.0, 1.0)

    @property
    def _embeds_guidance(self) -> bool:
        transformer: Any = getattr(self.transformer, "module", self.transformer)
        return bool(transformer.config.guidance_embeds)

    def _noise(self, generators: Sequence[torch.Generator]) -> tuple[Latents, Tensor]:
        channels = self.pipeline.vae.config.latent_channels
        return self.pipeline.prepare_latents(
            len(generators),
            channels,
            self.resolution,
            self.resolution,
            self.pipeline.vae.dtype,
            self.pipeline.vae.device,
            list(generators),
        )
