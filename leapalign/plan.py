"""Plans: which recorded velocities carry gradient, how strongly, and what the reward sees.

A direct-gradient method *is* its choice of Plan. The forward value of a plan is always the recorded
rollout (or a one-step prediction from it); a plan only says how the backward pass goes. Nothing
here knows torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.polynomial import Polynomial

from leapalign.grid import Grid

# A forward with gradient and its backward, in units of one forward pass.
REPLAY_COST = 3


@dataclass(frozen=True, slots=True)
class Leap:
    """x[stop] ≈ x[start] + Σ_i weight[i] · v[i], of which the steps in `gain` carry gradient.

    Args:
        start: grid index where the leap departs.
        stop: grid index where it lands, start < stop.
        weight: step → integration weight; they sum to σ[stop] - σ[start].
        gain: active step → factor on its gradient (1 is the true one).
    """

    start: int
    stop: int
    weight: Mapping[int, float]
    gain: Mapping[int, float]

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(
                f"a leap goes forward from start to stop, got {self.start} → {self.stop}"
            )
        if not set(self.gain) <= set(self.weight):
            raise ValueError(
                f"active steps {sorted(self.gain)} without a weight in {sorted(self.weight)}"
            )

    @property
    def active(self) -> tuple[int, ...]:
        """The steps that carry gradient, earliest first."""
        return tuple(sorted(self.gain))


def jump(grid: Grid, start: int, stop: int) -> Leap:
    """One-step leap prediction (Eq. 3): x[stop] ≈ x[start] + (σ[stop] - σ[start]) v[start]."""
    return Leap(start, stop, {start: grid.sigmas[stop] - grid.sigmas[start]}, {start: 1.0})


def euler_path(grid: Grid, start: int, stop: int, active: Sequence[int] = ()) -> Leap:
    """The sampler's own path, exact in value, with gradient at the `active` steps only."""
    return Leap(
        start, stop, {i: grid.delta(i) for i in range(start, stop)}, dict.fromkeys(active, 1.0)
    )


def quadrature(
    grid: Grid, start: int, stop: int, nodes: Sequence[int], gain: Mapping[int, float]
) -> Leap:
    """Lagrange quadrature: the integral of the polynomial through v at the nodes (FlowBP-Lagrange).

    weight[i] = ∫ Π_{m≠i} (σ - σ[m]) / (σ[i] - σ[m]) dσ from σ[start] to σ[stop], over the nodes m:
    exact for a velocity that is a polynomial in σ, of a degree below the number of nodes. With one
    node at the start it is a `jump`.

    Args:
        grid: the time grid.
        start: where the leap departs.
        stop: where it lands.
        nodes: distinct steps whose recorded velocities are interpolated.
        gain: active nodes → factor on their gradient.
    """
    weight = {}
    for i in nodes:
        others = [grid.sigmas[m] for m in nodes if m != i]
        basis = Polynomial.fromroots(others) if others else Polynomial([1.0])
        integral = (basis / basis(grid.sigmas[i])).integ()
        weight[i] = float(integral(grid.sigmas[stop]) - integral(grid.sigmas[start]))
    return Leap(start, stop, weight, gain)


def evenly_spaced(start: int, stop: int, count: int) -> list[int]:
    """`start` and up to count - 1 more steps before `stop`, as evenly apart as indices allow."""
    offsets = np.linspace(0, stop - start - 1, min(count, stop - start)).round()
    return [start + int(offset) for offset in offsets]


def rescaled(leaps: Sequence[Leap], strength: float) -> tuple[Leap, ...]:
    """The leaps with gradients raised to make up for inactive steps (FlowBP's rescale ρ).

    Every gain is multiplied by 1 + ρ (Σ|w| / Σ_active |w| - 1), the sums over all these leaps: at
    ρ = 1 the active steps weigh as much as the whole path. Values stay as they are.

    Args:
        leaps: with an active step among them.
        strength: ρ, at least 0.
    """
    whole = sum(abs(weight) for leap in leaps for weight in leap.weight.values())
    active = sum(abs(leap.weight[i]) for leap in leaps for i in leap.gain)
    # A quadrature can weigh its active nodes by nothing but rounding; there is nothing to raise.
    factor = 1.0 + strength * (whole / active - 1.0) if active > 1e-8 * whole else 1.0
    return tuple(
        replace(leap, gain={i: factor * gain for i, gain in leap.gain.items()}) for leap in leaps
    )


@dataclass(frozen=True, slots=True)
class Similarity:
    """Trajectory-similarity weight (Eq. 13): w = 1 / Σ max(d, τ) over the chosen distances.

    Args:
        joint: count the distances at inner joints (d_j).
        image: count the distance at the image (d_0).
        floor: τ > 0, in latent units.
    """

    joint: bool
    image: bool
    floor: float

    def counts(self, leaps: int) -> tuple[bool, ...]:
        """Which of the leaps' landing distances enter the sum."""
        return (self.joint,) * (leaps - 1) + (self.image,)


@dataclass(frozen=True, slots=True)
class Plan:
    """Contiguous leaps that end at the image, and how gradient crosses them.

    Args:
        leaps: earliest first; each departs where the one before landed, the last lands at the
            image.
        nesting: α, the share of the nested gradient that crosses a joint (Eq. 9).
        reward_on: "endpoint", the generated image x_0; or "prediction", the last leap's own
            landing point.
        similarity: per-sample loss weight from the connector distances; without it, 1.
        nested_only: drop the direct path at joints, leaving the nested gradient alone (Fig. 6,
            Eq. 14).
        copies: re-noised copies of the image, denoised by the last step with gradient (DRaFT-LV).
    """

    leaps: tuple[Leap, ...]
    nesting: float = 0.0
    reward_on: Literal["endpoint", "prediction"] = "endpoint"
    similarity: Similarity | None = field(default=None)
    nested_only: bool = False
    copies: int = 0

    def __post_init__(self) -> None:
        if any(a.stop != b.start for a, b in itertools.pairwise(self.leaps)):
            raise ValueError(
                f"leaps must be contiguous, got {[(leap.start, leap.stop) for leap in self.leaps]}"
            )
        if not any(leap.gain for leap in self.leaps):
            raise ValueError("no step of this plan carries gradient: nothing would train")

    @property
    def horizon(self) -> int:
        """The last state the plan needs; a rollout may stop there."""
        last = self.leaps[-1]
        weighs_image = self.similarity is not None and self.similarity.image
        return last.stop if self.reward_on == "endpoint" or weighs_image else max(last.weight)

    @property
    def replays(self) -> int:
        """Velocity evaluations with gradient, the copies' included."""
        return sum(len(leap.gain) for leap in self.leaps) + self.copies
