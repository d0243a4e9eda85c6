"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206) from a diffusers folder or hub id."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from leapalign.backbones.backbone import EncodedPrompts
from leapalign.steps import Latents


@dataclass(frozen=True, slots=True)
class GuidedVelocity:
    """The velocity field v(x, σ) of an SD3 transformer under classifier-free guidance.

    v = v_negative + guidance · (v_prompt - v_negative), the gradient through both (arXiv
    2207.12598); without negative prompts v_prompt alone.

    Args:
        transformer: maps latents [batch, channels, height, width] and σ·1000 to their velocity.
        prompts: what to show.
        negative: what to move away from, one per prompt.
        guidance: the guidance's strength.
        patch: side of the patches of latents that make one token.
    """

    transformer: nn.Module
    prompts: EncodedPrompts
    negative: EncodedPrompts | None
    guidance: float
    patch: int

    def __call__(self, x: Latents, time: Float[Tensor, " batch"]) -> Latents:
        """One transformer pass, over a doubled batch if guided; `time` is σ in [0, 1]."""
        latents = unpack(x, self.patch)
        if self.negative is None:
            return pack(self._evaluate(latents, time, self.prompts), self.patch)
        both = self._evaluate(
            torch.cat([latents, latents]), torch.cat([time, time]), self.negative + self.prompts
        )
        negative, prompted = both.chunk(2)
        return pack(negative + self.guidance * (prompted - negative), self.patch)

    def __getitem__(self, rows: Tensor | slice) -> GuidedVelocity:
        """The field under these rows' prompts."""
        negative = None if self.negative is None else self.negative[rows]
        return GuidedVelocity(
            self.transformer, self.prompts[rows], negative, self.guidance, self.patch
        )

    def _evaluate(self, latents: Tensor, time: Tensor, prompts: EncodedPrompts) -> Tensor:
        return self.transformer(
            hidden_states=latents,
            timestep=time * 1000,
            encoder_hidden_states=prompts.tokens,
            pooled_projections=prompts.pooled,
            return_dict=False,
        )[0]


def pack(latents: Float[Tensor, "batch channels height width"], patch: int) -> Latents:
    """One token per square patch, row by row, as FLUX packs its latents."""
    return functional.pixel_unshuffle(latents, patch).flatten(2).transpose(1, 2)


def unpack(x: Latents, patch: int) -> Float[Tensor, "batch channels height width"]:
    """The inverse of `pack` for square images."""
    side = math.isqrt(x.shape[1])
    return functional.pixel_shuffle(x.transpose(1, 2).unflatten(2, (side, side)), patch)
