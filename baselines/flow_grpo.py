"""Flow-GRPO (arXiv 2505.05470): every step stochastic and trained but the last."""

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
from leapalign.policy import batch_advantages
from leapalign.steps import FlowSDE


@dataclass(frozen=True, kw_only=True)
class FlowGRPO(PolicyGradient):
    """Each image of a group starts from its own noise; few steps, on the base model's own grid.

    An advantage is a reward's distance from its group's mean, in units of the whole batch's spread.
    """

    group: int = 24
    updates_per_iteration: int = 2
    eta: float = 0.9
    shift: float | None = None
    quantise_times: bool = False

    shared_noise: ClassVar[bool] = False

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse a path without a transition to train."""
        super().check(steps, batch)
        if steps < 2:
            raise UserError(f"steps: {steps} leaves no transition to train; set it to 2 or more")

    @override
    def rule(self, grid: Grid) -> FlowSDE:
        """Diffusion η √(σ / (1-σ))."""
        return FlowSDE(self.eta, grid.sigmas[1])

    @override
    def path(self, grid: Grid, iteration: int, rng: np.random.Generator) -> Path:
        """All transitions but the last, whose density is too sharp to train."""
        return Path(grid, range(grid.steps - 1))

    @override
    def advantages(self, rewards: Float[Tensor, "prompts group"]) -> Float[Tensor, "prompts group"]:
        """Group means, the batch's spread."""
        return batch_advantages(rewards, self.advantage_clip)
