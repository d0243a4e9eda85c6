"""Full-trajectory backpropagation (DRaFT with K = T, arXiv 2309.17400): the chain rule itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from leapalign.direct import DirectGradient
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.plan import Plan, jump


@dataclass(frozen=True, kw_only=True)
class FullBackprop(DirectGradient):
    """Every step trains, and the gradient crosses every step's input.

    Its norm can grow as a product of T Jacobians does; all other methods are ways around that.

    Args:
        nesting: share of the nested gradient that crosses each step's input, in [0, 1].
    """

    nesting: float = 1.0

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse a share outside [0, 1]."""
        if not 0.0 <= self.nesting <= 1.0:
            raise UserError(f"nesting: must lie in [0, 1], got {self.nesting}")

    @override
    def plan(self, grid: Grid, rng: np.random.Generator) -> Plan:
        """One leap per step."""
        return Plan(tuple(jump(grid, i, i + 1) for i in range(grid.steps)), nesting=self.nesting)
