"""An iteration of a method without a model: which passes it makes, counted rather than derived.

The method itself runs, on tiny latents and a velocity that is one multiplication: what it asks of
its Problem is the same at any size. So a method of the user's own is foretold as the shipped are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from leapalign.doctor.meter import Meter
from leapalign.grid import Grid
from leapalign.method import Method, Progress
from leapalign.settings import TrainSettings
from leapalign.steps import Latents
from leapalign.streams import choices, stream_seed

TOKENS, CHANNELS = 16, 4
DRAWN = 8
"""Iterations rehearsed, evenly over the training: windows slide, and plans are drawn."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one process does in an iteration, on average.

    Args:
        forwards: velocities without gradient, summed over images.
        replays: velocities with gradient.
        images: images that a rollout makes.
        scored: images decoded and rewarded.
        updates: optimiser steps.
        graded: whether the reward is taken with gradient.
        rows: images in the largest pass with gradient.
        calls: passes with gradient in one update, at most.
        chunks: times that images are decoded and rewarded, before the last pass with gradient.
        paths: recorded latents that are held at once, in units of one image's.
    """

    forwards: float
    replays: float
    images: float
    scored: float
    updates: float
    graded: bool
    rows: int
    calls: int
    chunks: int
    paths: float


def rehearse(settings: TrainSettings, iterations: int = DRAWN) -> Work:
    """What an iteration of a training takes.

    Args:
        settings: with a number for `micro_batch`.
        iterations: how many are rehearsed.
    """
    method: Method = settings.method.build()
    last = settings.training.iterations - 1
    numbers = sorted({round(n) for n in np.linspace(0, last, min(iterations, last + 1))})
    seen = [_iterate(method, settings, number) for number in numbers]
    return Work(
        forwards=fmean(work.forwards for work in seen),
        replays=fmean(work.replays for work in seen),
        images=fmean(work.images for work in seen),
        scored=fmean(work.scored for work in seen),
        updates=fmean(work.updates for work in seen),
        graded=any(work.graded for work in seen),
        rows=max(work.rows for work in seen),
        calls=max(work.calls for work in seen),
        chunks=max(work.chunks for work in seen),
        paths=max(work.paths for work in seen),
    )


def share_of(settings: TrainSettings) -> int:
    """Images of one process between two updates: no micro-batch is larger."""
    method: Method = settings.method.build()
    return max(1, method.images_per_update(settings.training.batch) // settings.compute.devices)


def at_any_size(settings: TrainSettings) -> Callable[[int], Work]:
    """What an iteration takes in micro-batches of any size, from rehearsals at two sizes.

    The first and the last iteration are rehearsed: the others hold no more at once.
    """
    share = share_of(settings)
    half = max(1, share // 2)
    whole, parts = (rehearse(in_parts(settings, size), iterations=2) for size in (share, half))
    slope = (whole.paths - parts.paths) / max(share - half, 1)

    def at(size: int) -> Work:
        return replace(
            whole,
            rows=min(whole.rows, size),
            calls=whole.calls * math.ceil(share / size),
            chunks=whole.chunks * math.ceil(share / size),
            paths=whole.paths - slope * (share - size),
        )

    return at


def in_parts(settings: TrainSettings, size: int | Literal["auto"]) -> TrainSettings:
    """The training in micro-batches of another size."""
    return replace(settings, training=replace(settings.training, micro_batch=size))


def _iterate(method: Method, settings: TrainSettings, iteration: int) -> Work:
    problem = _Rehearsal(settings)
    updates: list[Progress] = []
    calls: list[int] = []
    with Meter(problem.network.parameters()) as meter:
        for progress in method.updates(problem, iteration):
            updates.append(progress)
            calls.append(problem.network.replays)
            problem.network.replays = 0
    return Work(
        forwards=sum(update.forwards for update in updates),
        replays=sum(update.replays for update in updates),
        images=sum(update.images for update in updates),
        scored=problem.scored,
        updates=len(updates),
        graded=problem.graded,
        rows=problem.network.rows,
        calls=max(calls),
        chunks=problem.chunks,
        paths=meter.peak / (4 * TOKENS * CHANNELS),
    )


class _Network(nn.Module):
    """v = w x, which notes how it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.replays = self.rows = 0

    def forward(self, x: Latents) -> Latents:
        if torch.is_grad_enabled():
            self.replays += 1
            self.rows = max(self.rows, len(x))
        return self.weight * x


@dataclass(frozen=True, slots=True)
class _Field:
    """The network as a velocity field; prompts make no difference."""

    network: _Network

    def __call__(self, x: Latents, time: Tensor) -> Latents:  # noqa: ARG002 - neither does time
        return self.network(x)

    def __getitem__(self, rows: Tensor | slice) -> _Field:
        return self


@dataclass
class _Rehearsal:
    """The `leapalign.method.Problem` of a rehearsal: one process' share of an iteration."""

    settings: TrainSettings
    network: _Network = field(default_factory=_Network)
    scored: int = 0
    chunks: int = 0
    graded: bool = False
    _noise: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    @property
    def steps(self) -> int:
        return self.settings.training.steps

    @property
    def batch(self) -> int:
        return self.settings.training.batch

    @property
    def threshold(self) -> float:
        return 1e6  # every sample is below it, and trains

    def grid(self, steps: int) -> Grid:
        return Grid.shifted(steps, 3.0)

    def slots(self, count: int) -> range:
        return range(count // self.settings.compute.devices)

    def prompts(self, iteration: int, slots: Sequence[int]) -> list[str]:  # noqa: ARG002
        return [""] * len(slots)

    def noise(self, iteration: int, slots: Sequence[int], *name: str | int) -> Latents:  # noqa: ARG002
        return torch.randn(len(slots), TOKENS, CHANNELS, generator=self._noise)

    def noise_seed(self, iteration: int, slot: int, *name: str | int) -> int:
        return stream_seed(self.settings.seed, iteration, slot, *name)

    def choices(self, iteration: int, slot: int, name: str) -> np.random.Generator:
        return choices(self.settings.seed, iteration, slot, name)

    def field(self, prompts: Sequence[str]) -> _Field:  # noqa: ARG002
        return _Field(self.network)

    def score(self, x: Latents, prompts: Sequence[str]) -> Tensor:  # noqa: ARG002
        self.scored += len(x)
        self.graded = self.graded or (x.requires_grad and torch.is_grad_enabled())
        self.chunks += 1
        return x.mean(dim=(1, 2))

    @property
    def rewards_beside(self) -> tuple[str, ...]:
        return tuple(self.settings.training.rewards_beside)

    def scores(self, x: Latents, prompts: Sequence[str]) -> Tensor:
        return self.score(x, prompts)[:, None].expand(-1, 1 + len(self.rewards_beside))

    def micro_batches(self, count: int) -> Iterator[slice]:
        size = int(self.settings.training.micro_batch)
        return (slice(start, min(start + size, count)) for start in range(0, count, size))

    def gather(self, values: Tensor) -> Tensor:
        return torch.cat([values] * self.settings.compute.devices)

    def keep_pace(self, passes: int, idle: Callable[[], object]) -> None:
        """All processes are like this one."""

    def sync_gradients(self) -> None:
        """There are no others to tell."""
