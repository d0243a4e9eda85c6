"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206) from a diffusers folder or hub id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers import StableDiffusion3Pipeline
from jaxtyping import Float
from torch import Tensor, nn

from leapalign.backbones.encodings import EncodedPrompts
from leapalign.backbones.guidance import GuidedBackbone
from leapalign.backbones.pipeline import dynamic_shift, pack, unpack
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.steps import Latents

# σ = 1 on the time scale that the transformer was trained with.
TIMES = 1000


@dataclass(frozen=True, slots=True)
class StableDiffusion3Velocity:
    """The velocity field v(x, σ) of an SD3 transformer under prompts.

    Args:
        transformer: maps latents [batch, channels, height, width] to their velocity.
        prompts: what to show; tokens of CLIP and T5, pooled embeddings of both CLIPs.
        patch: side of the patches of latents that make one token.
    """

    transformer: nn.Module
    prompts: EncodedPrompts
    patch: int

    def __call__(self, x: Latents, time: Float[Tensor, " batch"]) -> Latents:
        """One transformer pass, dx/dσ; `time` is σ in [0, 1]."""
        velocity = self.transformer(
            hidden_states=unpack(x, self.patch),
            timestep=time * TIMES,
            encoder_hidden_states=self.prompts.tokens,
            pooled_projections=self.prompts.pooled,
            return_dict=False,
        )[0]
        return pack(velocity, self.patch)

    def __getitem__(self, rows: Tensor | slice) -> StableDiffusion3Velocity:
        """The field under these rows' prompts."""
        return StableDiffusion3Velocity(self.transformer, self.prompts[rows], self.patch)


class StableDiffusion3(GuidedBackbone):
    """A Stable Diffusion 3 or 3.5 model at one resolution; its T5 may be absent."""

    stock = StableDiffusion3Pipeline
    title = "Stable Diffusion 3"
    # What SD3's own pipeline gives its T5 encoder unless told otherwise.
    longest = 256
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

    def under(self, prompts: EncodedPrompts) -> StableDiffusion3Velocity:
        """The velocity field under prompts, unguided."""
        return StableDiffusion3Velocity(self.transformer, prompts, self.patch)

    @classmethod
    def _encode(cls, encoders: Any, prompt: str) -> EncodedPrompts:  # noqa: ANN401 - a pipeline
        tokenizer = encoders.tokenizer_3
        limit = cls.longest if tokenizer is None else tokenizer.model_max_length
        tokens, _, pooled, _ = encoders.encode_prompt(
            prompt=prompt,
            prompt_2=None,
            prompt_3=None,
            device=encoders.device,
            do_classifier_free_guidance=False,
            max_sequence_length=min(cls.longest, limit),
        )
        return EncodedPrompts(tokens, pooled)
