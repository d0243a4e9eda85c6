"""DRaFT-LV (arXiv 2309.17400): the last step, and low-variance copies of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from leapalign.direct import DirectGradient
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.plan import Plan, jump


@dataclass(frozen=True, kw_only=True)
class DRaFTLV(DirectGradient):
    """Backpropagate through the last step, then through the last step of n re-noised images.

    The losses of the image and of its copies are summed, as in the paper's Algorithm 1.

    Args:
        copies: n, re-noised copies x = (1-σ) x_0 + σ ε, each denoised by one step with gradient.
    """

    copies: int = 2

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse a negative number of copies."""
        if self.copies < 0:
            raise UserError(f"copies: must be 0 or more, got {self.copies}")

    @override
    def plan(self, grid: Grid, rng: np.random.Generator) -> Plan:
        """The jump over the last step, which is the sampler's own last step."""
        return Plan((jump(grid, grid.end - 1, grid.end),), copies=self.copies)
