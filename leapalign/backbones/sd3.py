"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206) from a diffusers folder or hub id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import StableDiffusion3Pipeline
from jaxtyping import Float
from torch import Tensor, nn

from leapalign.backbones.pipeline import (
    EncodedPrompts,
    PipelineBackbone,
    dynamic_shift,
    joined,
    pack,
    unpack,
)
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.steps import Latents

# The length that SD3's own pipeline gives its T5 encoder unless told otherwise.
MAX_SEQUENCE = 256
# σ = 1 on the time scale that the transformer was trained with.
TIMES = 1000


@dataclass(frozen=True, slots=True)
class GuidedVelocity:
    """The velocity field v(x, σ) of an SD3 transformer under classifier-free guidance.

    v = v_negative + guidance · (v_prompt - v_negative) with the gradient through both (arXiv
    2207.12598); without negative prompts v_prompt alone.

    Args:
        transformer: maps latents [batch, channels, height, width] to their velocity.
        prompts: what to show; tokens of CLIP and T5, pooled embeddings of both CLIPs.
        negative: what to move away from, one for each of the prompts.
        guidance: the guidance's strength.
        patch: side of the patches of latents that make one token.
    """

    transformer: nn.Module
    prompts: EncodedPrompts
    negative: EncodedPrompts | None
    guidance: float
    patch: int

    def __call__(self, x: Latents, time: Float[Tensor, " batch"]) -> Latents:
        """One transformer pass, dx/dσ, over the batch twice if guided; `time` is σ in [0, 1]."""
        latents = unpack(x, self.patch)
        if self.negative is None:
            return pack(self._evaluate(latents, time, self.prompts), self.patch)
        prompts = joined([self.negative, self.prompts])
        both = self._evaluate(torch.cat([latents] * 2), torch.cat([time] * 2), prompts)
        negative, prompted = both.chunk(2)
        return pack(negative + self.guidance * (prompted - negative), self.patch)

    def __getitem__(self, rows: Tensor | slice) -> GuidedVelocity:
        """The field under these rows' prompts."""
        negative = None if self.negative is None else self.negative[rows]
        return GuidedVelocity(
            self.transformer, self.prompts[rows], negative, self.guidance, self.patch
        )

    def _evaluate(self, latents: Tensor, time: Tensor, prompts: EncodedPrompts) -> Tensor:
        velocity: Tensor = self.transformer(
            hidden_states=latents,
            timestep=time * TIMES,
            encoder_hidden_states=prompts.tokens,
            pooled_projections=prompts.pooled,
            return_dict=False,
        )[0]
        return velocity


class StableDiffusion3(PipelineBackbone):
    """A Stable Diffusion 3 or 3.5 model at one resolution; its T5 may be absent."""

    stock = StableDiffusion3Pipeline
    title = "Stable Diffusion 3"
    spare = ("text_encoder_3", "tokenizer_3")

    @property
    def patch(self) -> int:
        """Side of the patches of latents that make one token."""
        return int(self.pipeline.patch_size)

    def check(self) -> None:
        """Refuse what this model cannot do.

        Raises:
            UserError: the resolution is between tokens, or more than the position embedding
                reaches.
        """
        super().check()
        largest = self.pipeline.transformer.config.pos_embed_max_size
        if self.side > largest:
            raise UserError(
                f"resolution: {self.resolution} is more than {largest * self.token}, "
                "as far as this model's position embedding reaches"
            )

    def grid(self, steps: int) -> Grid:
        """The sigmas of the stock pipeline's own scheduler."""
        scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        dynamic = scheduler.config.use_dynamic_shifting
        scheduler.set_timesteps(
            steps, mu=dynamic_shift(scheduler.config, self.side**2) if dynamic else None
        )
        # Noise is σ = 1, of which the shift in float32 may miss the last bit.
        return Grid((1.0, *scheduler.sigmas[1:].tolist()))

    def field(self, prompts: Sequence[str], guidance: float) -> GuidedVelocity:
        """The velocity field under `prompts`, guided away from the empty prompt.

        As in the stock pipeline, guidance of 1 or less is none.
        """
        negative = self.encode([""] * len(prompts)) if guidance > 1.0 else None
        return GuidedVelocity(
            self.transformer, self.encode(prompts), negative, guidance, self.patch
        )

    def passes(self, guidance: float) -> int:
        """Two where there is guidance: with and without the prompt."""
        return 2 if guidance > 1.0 else 1

    def _encode(self, prompt: str) -> EncodedPrompts:
        tokenizer = self.pipeline.tokenizer_3
        limit = MAX_SEQUENCE if tokenizer is None else tokenizer.model_max_length
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            prompt=prompt,
            prompt_2=None,
            prompt_3=None,
            device=self.pipeline.device,
            do_classifier_free_guidance=False,
            max_sequence_length=min(MAX_SEQUENCE, limit),
        )
        return EncodedPrompts(tokens, pooled)
