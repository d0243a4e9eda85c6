"""MixGRPO (arXiv 2507.21802): stochastic steps only inside a sliding window, Euler elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.grpo import Path, PolicyGradient
from leapalign.policy import mixed_advantages
from leapalign.steps import FlowSDE


@dataclass(frozen=True, kw_only=True)
class MixGRPO(PolicyGradient):
    """All the window's steps train, in order; the window slides from noise to image.

    A group's images are one and the same before the window: computed once per prompt. Under several
    rewards an image's advantage is the mean of its advantages under each.

    Args:
        window: stochastic steps.
        stride: how far the window's start moves; 0 keeps it at the noise.
        iterations_per_position: after how many iterations it moves.
    """

    eta: float = 0.7
    window: int = 4
    stride: int = 1
    iterations_per_position: int = 25

    several_rewards: ClassVar[bool] = True

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse a window longer than the path, or one that moves back or at no iteration."""
        super().check(steps, batch)
        if not 1 <= self.window <= steps:
            raise UserError(
                f"window: must lie between 1 and the {steps} training steps, got {self.window}"
            )
        for name, least in (("stride", 0), ("iterations_per_position", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name}: must be {least} or more, got {getattr(self, name)}")

    @override
    def rule(self, grid: Grid) -> FlowSDE:
        """Flow-GRPO's step."""
        return FlowSDE(self.eta, grid.sigmas[1])

    @override
    def path(self, grid: Grid, iteration: int, rng: np.random.Generator) -> Path:
        """The window, a function of the iteration's number alone; past the end it starts over."""
        last = grid.steps - self.window
        starts = range(0, last + 1, self.stride) if self.stride else range(1)
        start = starts[iteration // self.iterations_per_position % len(starts)]
        return Path(grid, range(start, start + self.window))

    @override
    def advantages(
        self, rewards: Float[Tensor, "prompts group rewards"]
    ) -> Float[Tensor, "prompts group"]:
        """Each reward standardised in each group, then their mean."""
        return mixed_advantages(rewards, self.advantage_clip)
