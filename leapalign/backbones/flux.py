"""FLUX.1 (Black Forest Labs, 2024) from a diffusers folder or hub id, the miniature included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FluxPipeline
from jaxtyping import Float
from torch import Tensor, nn

from leapalign.backbones.encodings import EncodedPrompts
from leapalign.backbones.pipeline import PipelineBackbone, dynamic_shift
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.steps import Latents

# Side of the patches of latents that make one token.
PATCH = 2


@dataclass(frozen=True, slots=True)
class FluxVelocity:
    """The velocity field v(x, σ) of a FLUX transformer under prompts and embedded guidance.

    The prompts' tokens are T5's, their pooled embeddings CLIP's.
    """

    transformer: nn.Module
    prompts: EncodedPrompts
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


class Flux(PipelineBackbone):
    """A FLUX model at one resolution."""

    stock = FluxPipeline
    title = "FLUX"
    longest = 512
    patch = PATCH

    def grid(self, steps: int) -> Grid:
        """The pipeline's own sigmas: uniform, shifted by e^μ, μ linear in the image tokens."""
        config = self.pipeline.scheduler.config
        if not config.use_dynamic_shifting:
            return Grid.shifted(steps, config.shift)
        return Grid.shifted(steps, math.exp(dynamic_shift(config, self.side**2)))

    def field(self, prompts: Sequence[str], guidance: float) -> FluxVelocity:
        """The velocity field under `prompts`; guidance is embedded, in one pass.

        Raises:
            UserError: there is to be guidance, and the model has none.
        """
        self.check_guidance(guidance)
        encoded, vae = self.encode(prompts), self.pipeline.vae
        image_ids = self.pipeline._prepare_latent_image_ids(
            1, self.side, self.side, vae.device, vae.dtype
        )
        text_ids = torch.zeros(
            encoded.tokens.shape[1], 3, device=image_ids.device, dtype=image_ids.dtype
        )
        embedded = guidance if self._embeds_guidance else None
        return FluxVelocity(self.transformer, encoded, embedded, image_ids, text_ids)

    def passes(self, guidance: float) -> int:  # noqa: ARG002  # embedded whatever its strength
        """One: guidance is embedded."""
        return 1

    def check_guidance(self, guidance: float) -> None:
        """Refuse guidance of a model that was distilled without, as FLUX.1-schnell was.

        Raises:
            UserError: naming the setting.
        """
        if guidance > 1.0 and not self._embeds_guidance:
            raise UserError(
                f"guidance: {guidance:g}, but this FLUX model has none embedded (guidance_embeds "
                "is false, as in FLUX.1-schnell); set guidance to 1"
            )

    @classmethod
    def _encode(cls, encoders: Any, prompt: str) -> EncodedPrompts:  # noqa: ANN401 - a pipeline
        length = min(cls.longest, encoders.tokenizer_2.model_max_length)
        tokens, pooled, _ = encoders.encode_prompt(
            prompt=prompt, prompt_2=None, device=encoders.device, max_sequence_length=length
        )
        return EncodedPrompts(tokens, pooled)

    @property
    def _embeds_guidance(self) -> bool:
        return bool(self.pipeline.transformer.config.guidance_embeds)
