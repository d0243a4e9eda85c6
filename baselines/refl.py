"""ReFL (arXiv 2304.05977): one late step, rewarded on its one-step prediction of the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from leapalign.direct import DirectGradient
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.plan import Plan, jump


@dataclass(frozen=True, kw_only=True)
class ReFL(DirectGradient):
    """Stop at a late step, predict x̂_0 from it, train that step alone; no pre-training loss.

    Args:
        last: the stop is drawn uniformly from the last this many steps.
    """

    last: int = 11

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse a range longer than the path."""
        if not 1 <= self.last <= steps:
            raise UserError(
                f"last: must lie between 1 and the {steps} training steps, got {self.last}"
            )

    @override
    def plan(self, grid: Grid, rng: np.random.Generator) -> Plan:
        """t_min = randint(1, last), counted from the image; one jump from there."""
        t_min = int(rng.integers(1, self.last, endpoint=True))
        return Plan((jump(grid, grid.end - t_min, grid.end),), reward_on="prediction")
