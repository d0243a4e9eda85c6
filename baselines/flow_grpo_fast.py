"""Flow-GRPO-Fast (arXiv 2505.05470, its code): Flow-GRPO with a few stochastic steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from typing_extensions import override

from baselines.flow_grpo import FlowGRPO
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.grpo import Path


@dataclass(frozen=True, kw_only=True)
class FlowGRPOFast(FlowGRPO):
    """One Euler path per prompt branches into a group at a random step of the first half.

    Args:
        window: stochastic steps from there on; all of them train.
    """

    eta: float = 0.8
    clip: float = 1e-5
    window: int = 2

    shared_noise: ClassVar[bool] = True

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse a window that could reach the last step."""
        super().check(steps, batch)
        longest = steps - 1 - steps // 2
        if not 1 <= self.window <= longest:
            raise UserError(
                f"window: {self.window} stochastic steps from the middle of {steps} on must end "
                f"before the last; set it between 1 and {longest}, or raise steps"
            )

    @override
    def path(self, grid: Grid, iteration: int, rng: np.random.Generator) -> Path:
        """The window starts at a step drawn uniformly from 0 … ⌊T/2⌋, one draw per iteration."""
        start = int(rng.integers(0, grid.steps // 2, endpoint=True))
        return Path(grid, range(start, start + self.window))
