"""DRTune (arXiv 2405.00760): a few equally spaced steps with detached inputs, and an early stop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from leapalign.direct import DirectGradient
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.plan import Leap, Plan, euler_path, jump


@dataclass(frozen=True, kw_only=True)
class DRTune(DirectGradient):
    """Train K equally spaced steps, inputs detached; reward x̂_0 predicted at an early stop.

    Args:
        active: K, training steps, ⌊T/K⌋ apart.
        last: the stop is drawn uniformly from the last this many steps.
    """

    active: int = 2
    last: int = 11

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse a spacing or stop that does not fit the path, or might leave nothing to train."""
        if not 1 <= self.active <= steps:
            raise UserError(
                f"active: must lie between 1 and the {steps} training steps, got {self.active}"
            )
        if not 1 <= self.last <= steps:
            raise UserError(
                f"last: must lie between 1 and the {steps} training steps, got {self.last}"
            )
        if 1 + (self.active - 1) * (steps // self.active) < self.last:
            raise UserError(
                f"last: a stop up to {self.last} steps before the image can come before every "
                "training step; lower last, or raise active"
            )

    @override
    def plan(self, grid: Grid, rng: np.random.Generator) -> Plan:
        """Algorithm 1: t_min and the training set {s + i ⌊T/K⌋}, both counted from the image."""
        spacing = grid.steps // self.active
        t_min = int(rng.integers(1, self.last, endpoint=True))
        s = int(rng.integers(1, grid.steps - (self.active - 1) * spacing, endpoint=True))
        training = {grid.end - (s + i * spacing) for i in range(self.active)}
        stop = grid.end - t_min
        # Inputs are detached, so the steps to the stop and the prediction from there are one leap.
        prefix = euler_path(grid, 0, stop).weight if stop > 0 else {}
        weight = {**prefix, **jump(grid, stop, grid.end).weight}
        active = {i: 1.0 for i in training if i in weight}
        return Plan((Leap(0, grid.end, weight, active),), reward_on="prediction")
