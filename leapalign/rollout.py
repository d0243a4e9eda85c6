"""The only sampling loop: record a path of states and velocities without gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from leapalign.grid import Grid
from leapalign.kernels.sde import Transition, sde_step
from leapalign.steps import Latents, Level, PerSample, StochasticStep, dpm_solver_2m, euler
from leapalign.transfer import queued


@runtime_checkable
class Velocity(Protocol):
    """A velocity field v(x, time) bound to a batch's prompts; `field[rows]` is some samples'."""

    def __call__(self, x: Latents, time: Float[Tensor, " batch"]) -> Latents:
        """The velocity dx/dσ [batch, tokens, channels] at one time per sample."""
        ...

    def __getitem__(self, rows: Tensor | slice) -> Velocity:
        """The field of these samples only."""
        ...


class Clock(NamedTuple):
    """A grid on a device, where every step finds its noise levels without a copy to wait for."""

    sigmas: Float[Tensor, " indices"]
    times: Float[Tensor, " indices"]


@functools.lru_cache(maxsize=64)
@torch.inference_mode(mode=False)  # a graph may save these tensors, whoever asks for them first
def clock(grid: Grid, dtype: torch.dtype, device: torch.device) -> Clock:
    """The grid's levels and times, made once for each of the two."""
    return Clock(
        *(queued(torch.tensor(values, dtype=dtype), device) for values in (grid.sigmas, grid.times))
    )


@dataclass(slots=True)
class Rollout:
    """A recorded path: states x[0..n], velocities v[0..n], n up to N, all detached.

    Args:
        grid: the time grid.
        states: x[i] for every recorded index, each [batch, tokens, channels].
        velocities: v[i] for every evaluated index; zero for samples that had stopped before.
        log_probs: for stochastic steps, the log-density of the transition taken, [batch].
        evaluations: forward passes made, summed over the samples.
    """

    grid: Grid
    states: list[Latents]
    velocities: list[Latents]
    log_probs: dict[int, Float[Tensor, " batch"]] = field(default_factory=dict)
    evaluations: int = 0

    @property
    def clock(self) -> Clock:
        """The grid in the type and on the device of the states."""
        return clock(self.grid, self.states[0].dtype, self.states[0].device)

    def times(self, index: Tensor | int) -> PerSample:
        """The model's time at one index for all samples, or one per row, on the states' device."""
        return _rows(self.clock.times, index, len(self.states[0]))

    def levels(self, index: Tensor | int) -> tuple[PerSample, PerSample]:
        """σ[i] and σ[i+1], likewise."""
        sigmas, batch = self.clock.sigmas, len(self.states[0])
        return _rows(sigmas, index, batch), _rows(sigmas[1:], index, batch)

    def prediction(self, i: int) -> Latents:
        """One-step prediction of the image from index i (Eq. 3): x̂_{0|i} = x[i] - σ[i] v[i]."""
        return self.states[i] - self.grid.sigmas[i] * self.velocities[i]


def _rows(values: Tensor, index: Tensor | int, batch: int) -> PerSample:
    at = values[index]
    return at if at.dim() else at.expand(batch)


Solver = Callable[[Rollout, int], Latents]
"""A deterministic step: x[i+1] of a path that is recorded up to v[i]."""


def euler_solver(record: Rollout, i: int) -> Latents:
    """Euler's step."""
    return euler(record.states[i], record.velocities[i], *map(level, record.levels(i)))


def dpm_solver(record: Rollout, i: int) -> Latents:
    """DPM-Solver++(2M); the first step and the one to σ = 0 are of first order, thus Euler's."""
    if i in (0, record.grid.end - 1):
        return euler_solver(record, i)
    sigma_before, sigma = map(level, record.levels(i - 1))
    sigma_next = level(record.levels(i)[1])
    sigmas = (sigma_before, sigma, sigma_next)
    return dpm_solver_2m(record.states[i], record.velocities[i], record.prediction(i - 1), sigmas)


def level(sigma: PerSample) -> Level:
    """One noise level a sample, as it multiplies latents."""
    return sigma[:, None, None]


@dataclass(frozen=True, slots=True)
class Exploration:
    """Where a rollout is stochastic.

    Args:
        rule: the transition's mean and standard deviation.
        steps: the indices that follow it; all others follow the rollout's solver.
        seeds: of each sample's noise in step i, on the host.
    """

    rule: StochasticStep
    steps: Collection[int]
    seeds: Callable[[int], Int[Tensor, " batch"]]


def rollout(
    velocity: Velocity,
    x: Latents,
    grid: Grid,
    *,
    horizon: Sequence[int] | int | None = None,
    explore: Exploration | None = None,
    solver: Solver = euler_solver,
) -> Rollout:
    """Sample from noise x[0] along `grid`: `solver`'s steps, stochastic ones where `explore` says.

    Args:
        velocity: the field.
        x: initial noise [batch, tokens, channels].
        grid: time grid.
        horizon: the last state wanted, per sample; by default the image, N. A sample with horizon
            n < N is recorded as x[0..n] and v[0..n], enough for a prediction from x[n], and costs
            nothing after that. With one horizon for all, x[n+1] is there as well; -1 takes no step.
        explore: the stochastic steps.
        solver: all the other steps.

    Returns:
        The recorded path.
    """
    start = Rollout(grid, [x], [])
    return extend(start, velocity, horizon=horizon, explore=explore, solver=solver)


def passes(grid: Grid, horizon: Sequence[int] | int) -> int:
    """How many evaluations of the velocity a path to these states has, longest sample first."""
    last = horizon if isinstance(horizon, int) else max(horizon)
    return min(last + 1, grid.steps)


def idle(velocity: Velocity, x: Latents, grid: Grid, *, gradient: bool = False) -> None:
    """A pass that changes nothing: of one sample, and with `gradient` back again from zero."""
    with torch.set_grad_enabled(gradient):
        v = velocity[:1](x[:1], Rollout(grid, [x[:1]], []).times(0))
    if gradient:
        v.backward(torch.zeros_like(v))


@torch.no_grad()
def extend(
    record: Rollout,
    velocity: Velocity,
    *,
    horizon: Sequence[int] | int | None = None,
    explore: Exploration | None = None,
    solver: Solver = euler_solver,
) -> Rollout:
    """Go on with a recorded path from its last state, in place; arguments as in `rollout`."""
    grid, x = record.grid, record.states[-1]
    horizon = grid.end if horizon is None else horizon
    last = [horizon] * len(x) if isinstance(horizon, int) else horizon
    steps = range(len(record.velocities), passes(grid, last))
    # All that the steps need of the host is under way before the first of them begins.
    running = {i: _running(last, i, x.device) for i in steps}
    noisy = {i: _noisy(record, explore, i) for i in steps if explore and i in explore.steps}
    for i in steps:
        rows = running[i]
        v = _velocity_of(velocity, x, record.times(i), rows)
        record.velocities.append(v)
        record.evaluations += len(x) if rows is None else len(rows)
        if i in noisy:
            x, record.log_probs[i] = sde_step(x, v, *noisy[i])
        else:
            x = solver(record, i)
        record.states.append(x)
    return record


def _running(last: Sequence[int], i: int, device: torch.device) -> Tensor | None:
    """The samples that take step i; None is all of them."""
    rows = [b for b, stop in enumerate(last) if stop >= i]
    return None if len(rows) == len(last) else queued(torch.tensor(rows), device)


def _noisy(
    record: Rollout, explore: Exploration, i: int
) -> tuple[Transition, Int[Tensor, " batch"]]:
    """A stochastic step's transition, and the seeds of its noise."""
    seeds = queued(explore.seeds(i), record.states[0].device)
    return explore.rule.transition(*record.levels(i)), seeds


def branches(records: Sequence[Rollout], rows: Sequence[int]) -> Rollout:
    """Copies of recorded Euler paths, to be continued each on its own.

    Args:
        records: paths of equal length.
        rows: the sample each branch leaves from, counted through all records.

    Returns:
        The branches; what their common part cost counts in `records` alone.
    """
    chosen = queued(torch.tensor(rows), records[0].states[0].device)
    states, velocities = (
        [torch.cat(same_index)[chosen] for same_index in zip(*paths, strict=True)]
        for paths in ([r.states for r in records], [r.velocities for r in records])
    )
    return Rollout(records[0].grid, states, velocities)


def _velocity_of(
    velocity: Velocity, x: Latents, time: PerSample, running: Tensor | None
) -> Latents:
    """The velocity of the running samples, zero for the others."""
    if running is None:
        return velocity(x, time)
    v = torch.zeros_like(x)
    v[running] = velocity[running](x[running], time[running])
    return v
