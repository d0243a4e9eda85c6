"""The interface of a reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from PIL import Image
from torch import Tensor


class Reward(ABC):
    """Scores images against their prompts; higher is better.

    Attributes:
        name: The name that `load_reward` knows.
        quantity: Which quantity `score` returns, and its usual range.
    """

    name: ClassVar[str]
    quantity: ClassVar[str]

    @abstractmethod
    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """Score images in [0, 1], one prompt each, in float32; differentiable in the images."""

    @abstractmethod
    def score_pil(
        self, images: Sequence[Image.Image], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """Score image files' contents, prepared as the official evaluation prepares them."""
