"""DanceGRPO (arXiv 2505.07818): every step stochastic, a random share of them trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import override

from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.grpo import Path, PolicyGradient
from leapalign.steps import DanceSDE


@dataclass(frozen=True, kw_only=True)
class DanceGRPO(PolicyGradient):
    """The reward is taken on x̂_0 of the last step, whose own transition is dropped.

    Args:
        fraction: share of the T - 1 transitions that each image trains, its own random choice.
    """

    updates_per_iteration: int = 3
    fraction: float = 0.6

    rewards_prediction: ClassVar[bool] = True

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse a share outside (0, 1], or a path without a transition to train."""
        super().check(steps, batch)
        if not 0.0 < self.fraction <= 1.0:
            raise UserError(f"fraction: must lie in (0, 1], got {self.fraction}")
        if steps < 2:
            raise UserError(f"steps: {steps} leaves no transition to train; set it to 2 or more")

    @override
    def rule(self, grid: Grid) -> DanceSDE:
        """Constant diffusion η."""
        return DanceSDE(self.eta)

    @override
    def path(self, grid: Grid, iteration: int, rng: np.random.Generator) -> Path:
        """All transitions but the last are stochastic."""
        return Path(grid, range(grid.steps - 1))

    @override
    def trained(self, stochastic: range, rng: np.random.Generator) -> list[int]:
        """The first int(fraction · (T - 1)) of a random permutation."""
        count = max(1, int(len(stochastic) * self.fraction))
        return [int(i) for i in rng.permutation(stochastic)[:count]]
