"""LeapAlign (CVPR 2026, arXiv 2604.15311): two-step trajectories to any generation step."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from typing_extensions import override

from leapalign.direct import DirectGradient
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.plan import Plan, Similarity, jump

Weighting = Literal["both", "joint", "image", "none"]


@dataclass(frozen=True, kw_only=True)
class LeapAlign(DirectGradient):
    """Algorithm 1: draw k > j, leap k → j → image, backpropagate through both leaps.

    Args:
        nesting: α, the discount on the nested gradient (Eq. 9), in [0, 1].
        tau: τ, the floor of the connector distances (Eq. 13), in latent units.
        weighting: which distances weigh a sample: "both" d_j and d_0, "joint" d_j, "image" d_0,
            or "none" (Fig. 4d).
        leaps: one, two (the paper) or three leaps (Fig. 4b).
        reward_on: the generated image x_0 ("endpoint"), or the prediction x̂_{0|j} (Fig. 4c).
        range_low: lowest σ of the timesteps k and j (Fig. 4e).
        range_high: highest σ of the timesteps k and j; 1/2 leaves the early steps untrained.
        distance: fixed share of the steps between k and j instead of a random one (Fig. 4f); two
            leaps only.
        nested_only: train the first leap through the nested gradient alone (Fig. 6).
    """

    nesting: float = 0.3
    tau: float = 0.1
    weighting: Weighting = "both"
    leaps: int = 2
    reward_on: Literal["endpoint", "prediction"] = "endpoint"
    range_low: float = 0.0
    range_high: float = 1.0
    distance: float | None = None
    nested_only: bool = False

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse settings under which no pair of timesteps can be drawn."""
        if not 0.0 <= self.nesting <= 1.0:
            raise UserError(f"nesting: α must lie in [0, 1], got {self.nesting}")
        if self.tau <= 0.0:
            raise UserError(f"tau: τ must be positive, got {self.tau}")
        if not 1 <= self.leaps <= steps:
            raise UserError(
                f"leaps: must lie between 1 and the {steps} training steps, got {self.leaps}"
            )
        if not 0.0 <= self.range_low < self.range_high <= 1.0:
            raise UserError(
                f"range_low, range_high: must rise within [0, 1], got {self.range_low} and "
                f"{self.range_high}"
            )
        if self.distance is not None and (
            self.leaps != 2 or not 1 <= round(self.distance * steps) < steps
        ):
            raise UserError(
                f"distance: {self.distance} needs two leaps and a share of the {steps} steps "
                "in (0, 1)"
            )

    @override
    def plan(self, grid: Grid, rng: np.random.Generator) -> Plan:
        """Lines 7-12: the timesteps, the leaps between them, and how gradient crosses."""
        stops = [*self._timesteps(grid, rng), grid.end]
        return Plan(
            leaps=tuple(jump(grid, k, j) for k, j in itertools.pairwise(stops)),
            nesting=self.nesting,
            reward_on=self.reward_on,
            similarity=self._similarity(),
            nested_only=self.nested_only,
        )

    def _timesteps(self, grid: Grid, rng: np.random.Generator) -> list[int]:
        """Uniform without replacement from the allowed range, earliest (noisiest) first."""
        allowed = grid.indices_within(self.range_low, self.range_high)
        apart = 0 if self.distance is None else round(self.distance * grid.steps)
        starts = [i for i in allowed if i + apart in allowed]
        if not starts or len(allowed) < self.leaps:
            raise UserError(
                f"range_low, range_high: of the {grid.steps} steps only {len(allowed)} lie in "
                f"[{self.range_low}, {self.range_high}], too few to leap between; widen the range"
            )
        if self.distance is None:
            return sorted(int(i) for i in rng.choice(allowed, self.leaps, replace=False))
        k = int(rng.choice(starts))
        return [k, k + apart]

    def _similarity(self) -> Similarity | None:
        if self.weighting == "none":
            return None
        return Similarity(
            joint=self.weighting in ("both", "joint"),
            image=self.weighting in ("both", "image"),
            floor=self.tau,
        )
