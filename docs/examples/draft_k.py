"""DRaFT-K (arXiv 2309.17400): backpropagation through the last K steps of the sampler."""

from dataclasses import dataclass

import numpy as np

from leapalign.direct import DirectGradient
from leapalign.grid import Grid
from leapalign.plan import Plan, jump


@dataclass(frozen=True, kw_only=True)
class DRaFTK(DirectGradient):
    """Train the last K steps; the gradient crosses their inputs whole.

    Args:
        last: K, training steps.
    """

    last: int = 3

    def plan(self, grid: Grid, rng: np.random.Generator) -> Plan:  # noqa: ARG002 - draws nothing
        """One leap per step, and the chain rule from each to the one before."""
        steps = range(max(0, grid.end - self.last), grid.end)
        return Plan(tuple(jump(grid, i, i + 1) for i in steps), nesting=1.0)
