"""What a base model offers to training and evaluation, and what the models share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.rollout import Velocity
from leapalign.steps import Latents


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

    def __add__(self, other: EncodedPrompts) -> EncodedPrompts:
        """These prompts, then the other ones."""
        return EncodedPrompts(
            torch.cat([self.tokens, other.tokens]), torch.cat([self.pooled, other.pooled])
        )
