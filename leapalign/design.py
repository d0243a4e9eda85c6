"""What a direct-gradient method does to a trajectory, read off the Plans that it draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from leapalign.grid import Grid
from leapalign.plan import REPLAY_COST, Leap, Plan

Kind = Literal["step", "euler", "jump", "euler+jump", "quadrature"]
"""How a leap integrates: a single step of the sampler; several; one velocity for many steps; steps
and then such a jump; or any other weights."""


@dataclass(frozen=True, slots=True)
class Design:
    """A method's choices, over many of its Plans.

    Args:
        steps: T.
        reward_on: "endpoint", the generated image, or "prediction".
        leaps: how each leap integrates, earliest first.
        nesting: α, the share of gradient that crosses a joint; 0 without joints.
        trained: share of the Plans in which each step carries gradient, noise first.
        active: fewest and most steps with gradient in one Plan.
        forwards: forward passes without gradient per image, on average.
        replays: forward-and-backward passes per image, on average, those of copies included.
    """

    steps: int
    reward_on: Literal["endpoint", "prediction"]
    leaps: tuple[Kind, ...]
    nesting: float
    trained: tuple[float, ...]
    active: tuple[int, int]
    forwards: float
    replays: float

    @property
    def early_steps(self) -> bool:
        """Whether a step of the noisier half of the path is ever trained."""
        return any(self.trained[: self.steps // 2])

    @property
    def nested(self) -> bool:
        """Whether the gradient reaches a velocity through another's input."""
        return self.nesting > 0.0

    @property
    def leap(self) -> bool:
        """Whether the trajectory skips steps; predicting the image that is rewarded is no leap."""
        path = self.leaps[:-1] if self.reward_on == "prediction" else self.leaps
        return any(kind not in ("step", "euler") for kind in path)

    @property
    def several(self) -> bool:
        """Whether several steps of one trajectory are trained."""
        return self.active[1] > 1

    @property
    def reached(self) -> int:
        """How many of the steps are ever trained."""
        return sum(share > 0.0 for share in self.trained)

    @property
    def evaluations(self) -> float:
        """Forward-equivalents per image: a forward is 1, a forward and its backward 3."""
        return self.forwards + REPLAY_COST * self.replays

    @property
    def chain(self) -> int:
        """How many transformer Jacobians the longest path of the gradient multiplies."""
        return len(self.leaps) if self.nested else 1


def describe(plans: Sequence[Plan], grid: Grid) -> Design:
    """What a method's Plans have in common.

    Args:
        plans: draws of one method; they differ in timesteps only.
        grid: the grid they were drawn on.
    """
    first = plans[0]
    active = [{i for leap in plan.leaps for i in leap.gain} for plan in plans]
    counts = [len(steps) for steps in active]
    return Design(
        steps=grid.steps,
        reward_on=first.reward_on,
        leaps=tuple(
            _common(kind(leap, grid) for leap in same_place)
            for same_place in zip(*(plan.leaps for plan in plans), strict=True)
        ),
        nesting=first.nesting if len(first.leaps) > 1 else 0.0,
        trained=tuple(sum(i in steps for steps in active) / len(plans) for i in range(grid.steps)),
        active=(min(counts), max(counts)),
        forwards=fmean(min(plan.horizon + 1, grid.steps) + plan.copies for plan in plans),
        replays=fmean(plan.replays for plan in plans),
    )


def kind(leap: Leap, grid: Grid) -> Kind:
    """How a leap integrates, by its weights."""
    own = [math.isclose(weight, grid.delta(i)) for i, weight in sorted(leap.weight.items())]
    gapless = sorted(leap.weight) == list(range(leap.start, max(leap.weight) + 1))
    if gapless and all(own):
        return "step" if len(own) == 1 else "euler"
    if len(own) == 1:
        return "jump"
    last = max(leap.weight)
    jumps = math.isclose(leap.weight[last], grid.sigmas[leap.stop] - grid.sigmas[last])
    return "euler+jump" if gapless and all(own[:-1]) and jumps else "quadrature"


def _common(kinds: Iterable[Kind]) -> Kind:
    """The kind that a leap is in general, where short ones may be special cases of it."""
    found = set(kinds) - {"step"}
    if len(found) < 2:
        return found.pop() if found else "step"
    return "quadrature" if "quadrature" in found else "euler+jump"
