"""FlowBP-Bridge (arXiv 2606.11075): two sparse halves, and the nested gradient between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from typing_extensions import override

from baselines.flowbp_sparse import FlowBPSparse, late_biased
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.plan import Plan, euler_path, rescaled


@dataclass(frozen=True, kw_only=True)
class FlowBPBridge(FlowBPSparse):
    """Split the path at j; both halves are FlowBP-Sparse's, and j itself is always active.

    The halves share the K active steps by length. The gradient crosses j through its velocity's
    input too, times α.

    Args:
        nesting: α, the share of the nested gradient that crosses j, in [0, 1].
    """

    active: int = 5
    nesting: float = 0.1

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse what leaves a half without an active step, and α outside [0, 1]."""
        super().check(steps, batch)
        if self.active < 2:
            raise UserError(
                f"active: each side of j needs an active step, so 2 or more, got {self.active}"
            )
        if not 0.0 <= self.nesting <= 1.0:
            raise UserError(f"nesting: α must lie in [0, 1], got {self.nesting}")

    @override
    def plan(self, grid: Grid, rng: np.random.Generator) -> Plan:
        """Two leaps along the whole path, exact in value; j is the later of two steps drawn."""
        j = int(rng.choice(grid.steps, 2, replace=False).max())
        first = self._active_before(j, grid.steps)
        before = late_biased(rng, range(j), first, self.bias)
        after = late_biased(rng, range(j + 1, grid.steps), self.active - first - 1, self.bias)
        halves = euler_path(grid, 0, j, before), euler_path(grid, j, grid.end, [j, *after])
        return Plan(rescaled(halves, self.rescale), nesting=self.nesting)

    def _active_before(self, j: int, steps: int) -> int:
        """The first half's part of K by its length; neither half goes empty or overflows."""
        least, most = max(1, self.active - (steps - j)), min(j, self.active - 1)
        return min(max(round(self.active * j / steps), least), most)
