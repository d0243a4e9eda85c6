"""FLUX.2 [klein] (Black Forest Labs, 2026) from a diffusers folder or hub id.

Its base models are guided without a classifier, its distilled ones not at all. One token is a
square of 2 x 2 latents, normalised by the running statistics of the decoder's batch norm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float
from torch import Tensor, nn

from leapalign.backbones.encodings import EncodedPrompts
from leapalign.backbones.guidance import GuidedBackbone
from leapalign.backbones.pipeline import pack, unpack
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.steps import Latents

# Side of the patches of latents that make one token.
PATCH = 2


@dataclass(frozen=True, slots=True)
class Flux2Velocity:
    """The velocity field v(x, σ) of a FLUX.2 transformer under prompts."""

    transformer: nn.Module
    prompts: EncodedPrompts
    image_ids: Tensor
    text_ids: Tensor

    def __call__(self, x: Latents, time: Float[Tensor, " batch"]) -> Latents:
        """One transformer pass, dx/dσ; `time` is σ in [0, 1]."""
        return self.transformer(
            hidden_states=x,
            timestep=time,
            guidance=None,
            encoder_hidden_states=self.prompts.tokens,
            txt_ids=self.text_ids,
            img_ids=self.image_ids,
            return_dict=False,
        )[0]

    def __getitem__(self, rows: Tensor | slice) -> Flux2Velocity:
        """The field under these rows' prompts."""
        return Flux2Velocity(self.transformer, self.prompts[rows], self.image_ids, self.text_ids)


class Flux2Klein(GuidedBackbone):
    """A FLUX.2 [klein] model at one resolution."""

    stock = Flux2KleinPipeline
    title = "FLUX.2 [klein]"
    longest = 512
    patch = PATCH

    def grid(self, steps: int) -> Grid:
        """The pipeline's own sigmas: uniform, shifted by e^μ, μ from image tokens and steps."""
        config = self.pipeline.scheduler.config
        if not config.use_dynamic_shifting:
            return Grid.shifted(steps, config.shift)
        return Grid.shifted(steps, math.exp(compute_empirical_mu(self.side**2, steps)))

    def latents(self, generators: Sequence[torch.Generator]) -> Latents:
        """Standard normal packed latents, one per generator; drawn as tokens, not as latents."""
        vae = self.pipeline.vae
        channels = vae.config.latent_channels * self.patch**2
        shape = (len(generators), channels, self.side, self.side)
        noise = randn_tensor(shape, list(generators), device=vae.device, dtype=vae.dtype)
        return pack(noise, 1)

    def under(self, prompts: EncodedPrompts) -> Flux2Velocity:
        """The velocity field under prompts, unguided."""
        stock, device = type(self.pipeline), prompts.tokens.device
        image = torch.empty(1, 0, self.side, self.side)
        image_ids = stock._prepare_latent_ids(image)[0].to(device)
        text_ids = stock._prepare_text_ids(prompts.tokens[:1])[0].to(device)
        return Flux2Velocity(self.transformer, prompts, image_ids, text_ids)

    def decode(self, x: Latents) -> Float[Tensor, "batch 3 height width"]:
        """Packed latents to images in [0, 1], differentiable."""
        vae = self.pipeline.vae
        std = torch.sqrt(vae.bn.running_var + vae.config.batch_norm_eps)
        latents = unpack(x * std + vae.bn.running_mean, self.patch)
        return (vae.decode(latents, return_dict=False)[0] / 2.0 + 0.5).clamp(0.0, 1.0)

    def check_guidance(self, guidance: float) -> None:
        """Refuse guidance of a distilled model.

        Raises:
            UserError: naming the setting.
        """
        if guidance > 1.0 and self.pipeline.config.is_distilled:
            raise UserError(
                f"guidance: {guidance:g}, but this FLUX.2 model is distilled and takes none; "
                "set guidance to 1, or take a base model"
            )

    @classmethod
    def _encode(cls, encoders: Any, prompt: str) -> EncodedPrompts:  # noqa: ANN401 - a pipeline
        tokens, _ = encoders.encode_prompt(
            prompt, device=encoders.device, max_sequence_length=cls.longest
        )
        return EncodedPrompts(tokens, tokens.new_empty(1, 0))
