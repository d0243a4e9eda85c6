"""FlowBP-Sparse (arXiv 2606.11075): a few steps of the sampler's own path, late ones likelier."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from leapalign.direct import DirectGradient
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.plan import Plan, euler_path, rescaled


def late_biased(rng: np.random.Generator, steps: range, count: int, bias: float) -> list[int]:
    """`count` distinct steps, drawn one by one with weight n^bias for the n-th; in order."""
    if count == 0:
        return []
    weight = np.arange(1, len(steps) + 1) ** bias
    return sorted(rng.choice(steps, count, replace=False, p=weight / weight.sum()).tolist())


@dataclass(frozen=True, kw_only=True)
class FlowBPSparse(DirectGradient):
    """Rebuild x_0 = x_1 + Σ Δσ_i v_i over all steps, with gradient through K of them.

    The steps' inputs are detached, and the reward sees the generated image.

    Args:
        active: K, training steps.
        bias: step i is drawn with weight (i + 1)^bias, i counted from the noise.
        rescale: ρ, how far the K steps' gradients make up for the others (`rescaled`).
    """

    active: int = 3
    bias: float = 2.0
    rescale: float = 1.0

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse more active steps than there are, and negative exponents and rescales."""
        if not 1 <= self.active <= steps:
            raise UserError(
                f"active: must lie between 1 and the {steps} training steps, got {self.active}"
            )
        for name in ("bias", "rescale"):
            if getattr(self, name) < 0.0:
                raise UserError(f"{name}: must be 0 or more, got {getattr(self, name)}")

    @override
    def plan(self, grid: Grid, rng: np.random.Generator) -> Plan:
        """One leap along the whole path, exact in value, with gradient at K of its steps."""
        active = late_biased(rng, range(grid.steps), self.active, self.bias)
        return Plan(rescaled([euler_path(grid, 0, grid.end, active)], self.rescale))
