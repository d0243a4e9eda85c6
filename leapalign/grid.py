"""The time grid and *the* index convention of the suite.

Index 0 is noise (σ = 1), index N is the image (σ = 0). A rectified flow is
x_σ = (1-σ) x_image + σ x_noise, and v = dx/dσ = x_noise - x_image, so one Euler step is
x[i+1] = x[i] + (σ[i+1] - σ[i]) v[i].
The paper's timestep t equals σ; its "step T … 1" are our indices 0 … N-1.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grid:
    """Decreasing noise levels σ[0] = 1 … σ[N] = 0, and the times the model is told at each.

    Args:
        sigmas: N + 1 strictly decreasing values from 1 to 0.
        times: what the network receives as its timestep at each index; σ itself unless a code base
            rounds it (see `quantised`).

    Raises:
        ValueError: if the values do not fall strictly from 1 to 0.
    """

    sigmas: tuple[float, ...]
    times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        s = self.sigmas
        if (
            len(s) < 2
            or s[0] != 1.0
            or s[-1] != 0.0
            or any(a <= b for a, b in itertools.pairwise(s))
        ):
            raise ValueError(f"sigmas must fall strictly from 1 to 0, got {s}")
        if not self.times:
            object.__setattr__(self, "times", s)

    @property
    def steps(self) -> int:
        """N, the number of steps."""
        return len(self.sigmas) - 1

    @property
    def end(self) -> int:
        """The index of the image, N."""
        return self.steps

    def delta(self, i: int) -> float:
        """σ[i+1] - σ[i], negative: the Euler weight of step i."""
        return self.sigmas[i + 1] - self.sigmas[i]

    def indices_within(self, low: float, high: float) -> list[int]:
        """The steps whose σ lies in [low, high], e.g. [0, 1/2] for the less noisy half."""
        return [i for i in range(self.steps) if low <= self.sigmas[i] <= high]

    @classmethod
    def shifted(cls, steps: int, shift: float) -> Grid:
        """SD3's resolution shift of a uniform grid (arXiv 2403.03206, Eq. 23).

        σ = s·u / (1 + (s-1)·u) for u = 1, 1 - 1/steps, …, 0.
        """
        return cls(tuple(_shift(1.0 - i / steps, shift) for i in range(steps + 1)))

    def thinned(self, after: int, steps: int) -> Grid:
        """This shifted grid up to index `after`, and `steps` steps from there to the image.

        The new steps are as even before the shift as the old ones were. What a shifted uniform grid
        was shifted by follows from any of its levels: σ / (1-σ) = s·u / (1-u).

        Args:
            after: the last index kept, neither noise nor image.
            steps: how many, at least 1.
        """
        kept, u = self.sigmas[after], 1.0 - after / self.steps
        shift = kept / (1.0 - kept) * (1.0 - u) / u
        later = [_shift(u * (1.0 - m / steps), shift) for m in range(1, steps + 1)]
        return Grid((*self.sigmas[: after + 1], *later))

    def quantised(self, levels: int = 1000) -> Grid:
        """The same σ, but the model is told ⌊levels·σ⌋ / levels, as in DanceGRPO's code."""
        return Grid(self.sigmas, tuple(math.floor(levels * s) / levels for s in self.sigmas))


def _shift(u: float, shift: float) -> float:
    return shift * u / (1.0 + (shift - 1.0) * u)
