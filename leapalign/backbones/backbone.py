"""What training and evaluation ask of a base model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from diffusers import DiffusionPipeline
from jaxtyping import Float
from torch import Tensor, nn

from leapalign.grid import Grid
from leapalign.rollout import Velocity
from leapalign.steps import Latents


class Backbone(Protocol):
    """A rectified-flow model at one resolution; a class of this shape is a `backbone.loader`.

    Attributes:
        pipeline: the stock diffusers pipeline.
        resolution: side of the square image in pixels.
        transformer: the trained network.
    """

    pipeline: DiffusionPipeline
    resolution: int

    @classmethod
    def load(
        cls,
        path: str | Path,
        resolution: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        encoder_dtype: torch.dtype | None = None,
    ) -> Backbone:
        """Load a folder or hub id; only its transformer can be trained.

        Args:
            path: the folder, or the model on the hub.
            resolution: side of the square image in pixels.
            device: where it runs.
            dtype: of the transformer; float32 where all its weights are trained.
            encoder_dtype: of the text encoders; by default the transformer's.

        Raises:
            UserError: it is another model's or damaged, or cannot make images of this resolution.
        """
        ...

    @property
    def transformer(self) -> nn.Module:
        """The trained network."""
        ...

    def load_weights(self, path: str | Path) -> None:
        """Replace the transformer's weights by fine-tuned ones, or add a trained adapter.

        Raises:
            UserError: the file is missing, damaged or of another model.
        """
        ...

    def grid(self, steps: int) -> Grid:
        """The noise levels of the stock pipeline."""
        ...

    def latents(self, generators: Sequence[torch.Generator]) -> Latents:
        """Standard normal packed latents, one per generator, drawn as the stock pipeline does."""
        ...

    def prefetch(self, prompts: Iterable[str], guidance: float) -> None:
        """Do beforehand what `field` would do for these prompts; it works without, only later.

        Raises:
            UserError: the model cannot give guidance of this strength.
        """
        ...

    def field(self, prompts: Sequence[str], guidance: float) -> Velocity:
        """The velocity field under these prompts at this strength of guidance."""
        ...

    def passes(self, guidance: float) -> int:
        """Transformer passes that one evaluation of the velocity takes."""
        ...

    def decode(self, x: Latents) -> Float[Tensor, "batch 3 height width"]:
        """Packed latents to images in [0, 1], differentiable."""
        ...
