"""The Method protocol, the Problem that all methods share, and what they report of an update.

A method is a frozen dataclass; its fields are its settings. A method derives from one of two
classes: `leapalign.direct.DirectGradient` asks it for a Plan per sample,
`leapalign.grpo.PolicyGradient` for where the rollout is stochastic and which of those steps train.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from jaxtyping import Float
from torch import Tensor

from leapalign.grid import Grid
from leapalign.rollout import Velocity
from leapalign.steps import Latents

# A forward with gradient and its backward, in units of one forward pass.
REPLAY_COST = 3


class Problem(Protocol):
    """What all methods optimise over: prompts, noise, field, decoder and reward.

    A *slot* numbers a prompt of an iteration. Everything random is a function of
    (seed, iteration, slot, name).
    """

    @property
    def steps(self) -> int:
        """T, the rollout's steps."""
        ...

    @property
    def batch(self) -> int:
        """Images per iteration, over all devices."""
        ...

    @property
    def threshold(self) -> float:
        """λ (Eq. 11), in the reward's unit."""
        ...

    def grid(self, steps: int) -> Grid:
        """The base model's own time grid."""
        ...

    def slots(self, count: int) -> range:
        """This process's share of an iteration's `count` prompts."""
        ...

    def prompts(self, iteration: int, slots: Sequence[int]) -> list[str]:
        """The prompts drawn for these slots."""
        ...

    def noise(self, iteration: int, slots: Sequence[int], *name: str | int) -> Latents:
        """Standard normal latents, one per slot, from the stream called `name`."""
        ...

    def choices(self, iteration: int, slot: int, name: str) -> np.random.Generator:
        """A generator for a slot's discrete choices."""
        ...

    def field(self, prompts: Sequence[str]) -> Velocity:
        """The velocity field under these prompts."""
        ...

    def score(self, x: Latents, prompts: Sequence[str]) -> Float[Tensor, " batch"]:
        """The reward of decode(x), float32, differentiable in x."""
        ...

    def micro_batches(self, count: int) -> Iterator[slice]:
        """Slices that cover `count` samples, as many at a time as memory allows."""
        ...

    def sync_gradients(self) -> None:
        """Announce the update's last backward: gradients are reduced over processes only there."""
        ...


@dataclass(slots=True)
class Progress:
    """What one optimiser update saw; the training log's source.

    Args:
        rewards: the rollouts' rewards.
        loss: the loss whose gradient was accumulated.
        joint_distances: d_j per sample and inner joint.
        image_distances: d_0 per sample.
        clip_fraction: share of clipped ratios, for a policy gradient.
        forwards: forward passes without gradient, summed over samples.
        replays: forward-and-backward passes, summed over samples.
        images: images generated.
        skipped_groups: groups without spread in reward.
        trains: whether any gradient was accumulated.
    """

    rewards: list[float] = field(default_factory=list)
    loss: float = 0.0
    joint_distances: list[float] = field(default_factory=list)
    image_distances: list[float] = field(default_factory=list)
    clip_fraction: float | None = None
    forwards: int = 0
    replays: int = 0
    images: int = 0
    skipped_groups: int | None = None
    trains: bool = True

    @property
    def evaluations(self) -> int:
        """Forward-equivalents: a forward is 1, a forward and its backward 3."""
        return self.forwards + REPLAY_COST * self.replays


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A post-training method. Its dataclass fields are its settings."""

    def check(self, steps: int, batch: int) -> None:  # noqa: B027 - most settings fit any budget
        """Raise `UserError` where the settings do not fit the budget."""

    def grid(self, problem: Problem) -> Grid:
        """The training rollout's time grid: the base model's own."""
        return problem.grid(problem.steps)

    @abstractmethod
    def updates(self, problem: Problem, iteration: int) -> Iterator[Progress]:
        """Accumulate the gradients of one iteration; yields where the optimiser is to step."""
