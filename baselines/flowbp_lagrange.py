"""FlowBP-Lagrange (arXiv 2606.11075): LeapAlign's two leaps, each by Lagrange quadrature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from leapalign.direct import DirectGradient
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.plan import Leap, Plan, Similarity, evenly_spaced, quadrature, rescaled


@dataclass(frozen=True, kw_only=True)
class FlowBPLagrange(DirectGradient):
    """Leap k → j → image over a few recorded velocities each, which brings x̂ closer to x.

    A sample weighs 1 / (max(d_j, τ) + max(d_0, τ)), as in LeapAlign (Eq. 13).

    Args:
        nesting: α, the discount on the nested gradient, in [0, 1].
        tau: τ, the floor of the connector distances, in latent units.
        nodes: velocities a leap interpolates, at most; evenly spaced from its start.
        active: how many of them carry gradient, the earliest first.
        later_gain: factor on the gradient of those after the first, in (0, 1].
        rescale: ρ, how far the active nodes' gradients make up for the others (`rescaled`).
        concentration: Dirichlet parameters of the path's three parts: j to the image, k to j, and
            the noise to k.
    """

    nesting: float = 0.1
    tau: float = 0.2
    nodes: int = 3
    active: int = 2
    later_gain: float = 0.25
    rescale: float = 0.5
    concentration: tuple[float, float, float] = (2.5, 6.0, 2.0)

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse paths too short for three parts, and settings outside their ranges."""
        if steps < 3:
            raise UserError(f"steps: {steps} cannot be parted at k and j; set it to 3 or more")
        if not 0.0 <= self.nesting <= 1.0:
            raise UserError(f"nesting: α must lie in [0, 1], got {self.nesting}")
        if self.tau <= 0.0:
            raise UserError(f"tau: τ must be positive, got {self.tau}")
        if not 1 <= self.active <= self.nodes:
            raise UserError(
                f"active: must lie between 1 and the {self.nodes} nodes, got {self.active}"
            )
        if not 0.0 < self.later_gain <= 1.0:
            raise UserError(f"later_gain: must lie in (0, 1], got {self.later_gain}")
        if self.rescale < 0.0:
            raise UserError(f"rescale: must be 0 or more, got {self.rescale}")
        if min(self.concentration) <= 0.0:
            raise UserError(f"concentration: must be positive, got {list(self.concentration)}")

    @override
    def plan(self, grid: Grid, rng: np.random.Generator) -> Plan:
        """The timesteps, a quadrature between them, and how gradient crosses."""
        k, j = self._timesteps(grid.steps, rng)
        return Plan(
            leaps=(self._leap(grid, k, j), self._leap(grid, j, grid.end)),
            nesting=self.nesting,
            similarity=Similarity(joint=True, image=True, floor=self.tau),
        )

    def _timesteps(self, steps: int, rng: np.random.Generator) -> tuple[int, int]:
        """Part the steps in Dirichlet shares, rounded to at least one step each."""
        shares = rng.dirichlet(self.concentration)
        lengths = (shares * steps).round().astype(int)
        lengths[shares.argmax()] += steps - lengths.sum()
        lengths = lengths.clip(min=1)
        lengths[lengths.argmax()] += steps - lengths.sum()
        _, gap, early = (int(length) for length in lengths)
        k = early - 1  # the shortest early part leaves k at the noise
        return k, k + gap

    def _leap(self, grid: Grid, start: int, stop: int) -> Leap:
        """From start to stop over evenly spaced velocities, the first of them active."""
        nodes = evenly_spaced(start, stop, self.nodes)
        gain = {i: 1.0 if i == start else self.later_gain for i in nodes[: self.active]}
        (leap,) = rescaled([quadrature(grid, start, stop, nodes, gain)], self.rescale)
        return leap
