"""MixGRPO-Flash (arXiv 2507.21802): MixGRPO with fewer, higher-order steps after the window."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from typing_extensions import override

from baselines.mix_grpo import MixGRPO
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.grpo import Path
from leapalign.rollout import dpm_solver


@dataclass(frozen=True, kw_only=True)
class MixGRPOFlash(MixGRPO):
    """After the window, DPM-Solver++(2M) over a share of the remaining steps.

    With `stride` 0 the window stays at the noise, where the saving is largest (Flash*).

    Args:
        kept: share of the steps after the window that are made; at least one is.
    """

    iterations_per_position: int = 20
    kept: float = 0.4

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse a share outside (0, 1]."""
        super().check(steps, batch)
        if not 0.0 < self.kept <= 1.0:
            raise UserError(f"kept: must lie in (0, 1], got {self.kept}")

    @override
    def path(self, grid: Grid, iteration: int, rng: np.random.Generator) -> Path:
        """MixGRPO's window, and a thinned grid from its end to the image."""
        path = super().path(grid, iteration, rng)
        remaining = grid.steps - path.stochastic.stop
        if remaining == 0:
            return path
        thinned = grid.thinned(path.stochastic.stop, max(1, int(self.kept * remaining)))
        return replace(path, grid=self.told(thinned), solver=dpm_solver)
