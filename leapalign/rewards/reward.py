"""The interface of a reward: what a scorer says of itself, and the checks that all share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from leapalign.errors import UserError
from leapalign.rewards.images import by_shape

ROUNDING = 1e-4  # float32 may carry a cosine, and the like, this far past its bound


class Reward(ABC):
    """Scores images against their prompts; higher is better.

    There are two ways to the same model. Training goes through tensors: `transform`, then `rate`.
    Evaluation from files goes as the authors' own code does: `prepare` each, then `rate`.

    Attributes:
        name: Its name in messages; a shipped one's is that which `load_reward` knows.
        quantity: Which quantity `score` returns, and its usual range.
        range: The least and the greatest score that is not a sign of damage.
        unit: The score that counts as 1 in a training loss and its threshold λ.
        batch: Image files that go through the model at once.
        differentiable: Whether scores have a gradient in the images, as direct gradients need.
        device: Where the model is.
    """

    name: ClassVar[str]
    quantity: ClassVar[str]
    range: ClassVar[tuple[float, float]]
    unit: ClassVar[float] = 1.0
    batch: ClassVar[int] = 32
    differentiable: ClassVar[bool] = True
    device: torch.device

    @classmethod
    @abstractmethod
    def load(cls, path: Path, device: torch.device) -> Reward:
        """The reward with its weights, on a device.

        Raises:
            UserError: The weights are missing or damaged.
        """

    @abstractmethod
    def transform(self, images: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """What the model reads of images in [0, 1]; differentiable."""

    @abstractmethod
    def prepare(self, image: Image.Image) -> Tensor:
        """What the model reads of one image file, as the authors' code prepares it.

        Args:
            image: As Pillow opens it, in its own mode; it may be prepared in any thread.
        """

    @abstractmethod
    def rate(self, prepared: Tensor, prompts: Sequence[str]) -> Float[Tensor, " batch"]:
        """The model's scores of prepared images of one shape, one prompt each."""

    def score(
        self, images: Float[Tensor, "batch 3 height width"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """Score images in [0, 1], one prompt each, in float32; differentiable in the images.

        Raises:
            UserError: A score is out of range, or carries no gradient though the images want it.
        """
        scores = self.rate(self.transform(images.float()), prompts)
        if images.requires_grad and torch.is_grad_enabled() and not scores.requires_grad:
            raise UserError(
                f"{self.name}: its scores have no gradient in the images; train with another reward"
            )
        return self.checked(scores, prompts)

    def score_pil(
        self, images: Sequence[Image.Image], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """Score the contents of image files, prepared as the authors' code prepares them.

        Raises:
            UserError: A score is out of range, or an image or prompt is none that can be scored.
        """
        return self.score_prepared([self.prepare(image) for image in images], prompts)

    @torch.no_grad()
    def score_prepared(
        self, prepared: Sequence[Tensor], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """`score_pil` of images that are prepared already; equal shapes go in one batch."""
        scores = torch.empty(len(prepared))
        for members in by_shape(prepared, self.batch):
            batch = torch.stack([prepared[i] for i in members]).to(self.device)
            scores[members] = self.rate(batch, [prompts[i] for i in members]).cpu()
        return self.checked(scores, prompts)

    def checked(
        self, scores: Float[Tensor, " batch"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """The scores, if they are numbers in the reward's range.

        Raises:
            UserError: One is not; the message has its value and prompt.
        """
        low, high = self.range
        wrong = ~((scores >= low - ROUNDING) & (scores <= high + ROUNDING))  # NaN compares false
        if wrong.any():
            first = int(wrong.nonzero()[0])
            raise UserError(
                f"{self.name} gave {scores[first].item()} for prompt {prompts[first]!r}, outside "
                f"[{low:g}, {high:g}]; the image is not finite or the weights are damaged"
            )
        return scores
