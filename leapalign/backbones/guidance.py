"""Classifier-free guidance (arXiv 2207.12598), which Stable Diffusion 3 and FLUX.2 share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from leapalign.backbones.encodings import EncodedPrompts, joined
from leapalign.backbones.pipeline import PipelineBackbone
from leapalign.rollout import Velocity
from leapalign.steps import Latents


@dataclass(frozen=True, slots=True)
class GuidedVelocity:
    """v = v_negative + guidance · (v_prompt - v_negative), with the gradient through both.

    Args:
        under: makes the velocity field under a batch of prompts.
        prompts: what to show.
        negative: what to move away from, one for each of the prompts.
        guidance: the guidance's strength.
    """

    under: Callable[[EncodedPrompts], Velocity]
    prompts: EncodedPrompts
    negative: EncodedPrompts
    guidance: float

    def __call__(self, x: Latents, time: Float[Tensor, " batch"]) -> Latents:
        """One transformer pass over the batch twice; `time` is σ in [0, 1]."""
        velocity = self.under(joined([self.negative, self.prompts]))
        negative, prompted = velocity(torch.cat([x] * 2), torch.cat([time] * 2)).chunk(2)
        return negative + self.guidance * (prompted - negative)

    def __getitem__(self, rows: Tensor | slice) -> GuidedVelocity:
        """The field under these rows' prompts."""
        return GuidedVelocity(self.under, self.prompts[rows], self.negative[rows], self.guidance)


class GuidedBackbone(PipelineBackbone):
    """A model guided away from the empty prompt; as in the stock pipelines, 1 or less is none."""

    @abstractmethod
    def under(self, prompts: EncodedPrompts) -> Velocity:
        """The velocity field under prompts, unguided."""

    def prefetch(self, prompts: Iterable[str], guidance: float) -> None:
        """Encode what `field` will need of these prompts; then the text encoders are gone."""
        super().prefetch([*prompts, ""] if self.passes(guidance) > 1 else prompts, guidance)

    def field(self, prompts: Sequence[str], guidance: float) -> Velocity:
        """The velocity field under `prompts`, guided away from the empty prompt.

        Raises:
            UserError: there is to be guidance, and the model has none.
        """
        self.check_guidance(guidance)
        encoded = self.encode(prompts)
        if self.passes(guidance) == 1:
            return self.under(encoded)
        negative = self.encode([""] * len(prompts))
        return GuidedVelocity(self.under, encoded, negative, guidance)

    def passes(self, guidance: float) -> int:
        """Two where there is guidance: with and without the prompt."""
        return 2 if guidance > 1.0 else 1
