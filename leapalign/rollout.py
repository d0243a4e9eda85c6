"""The only sampling loop: record a path of states and velocities without gradient."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from leapalign.grid import Grid
from leapalign.steps import Latents, StochasticStep, dpm_solver_2m, euler, log_prob


@runtime_checkable
class Velocity(Protocol):
    """A velocity field v(x, time) bound to a batch's prompts; `field[rows]` is some samples'."""

    def __call__(self, x: Latents, time: Float[Tensor, " batch"]) -> Latents:
        """The velocity dx/dσ [batch, tokens, channels] at one time per sample."""
        ...

    def __getitem__(self, rows: Tensor | slice) -> Velocity:
        """The field of these samples only."""
        ...


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

    def times(self, index: Tensor | int) -> Float[Tensor, " batch"]:
        """The model's time for one index per sample."""
        return at(self.grid.times, index, self.states[0])

    def prediction(self, i: int) -> Latents:
        """One-step prediction of the image from index i (Eq. 3): x̂_{0|i} = x[i] - σ[i] v[i]."""
        return self.states[i] - self.grid.sigmas[i] * self.velocities[i]


Solver = Callable[[Rollout, int], Latents]
"""A deterministic step: x[i+1] of a path that is recorded up to v[i]."""


def euler_solver(record: Rollout, i: int) -> Latents:
    """Euler's step."""
    x = record.states[i]
    return euler(x, record.velocities[i], *levels(record.grid, i, x))


def dpm_solver(record: Rollout, i: int) -> Latents:
    """DPM-Solver++(2M); the first step and the one to σ = 0 are of first order, thus Euler's."""
    if i in (0, record.grid.end - 1):
        return euler_solver(record, i)
    x = record.states[i]
    sigma_before, sigma = levels(record.grid, i - 1, x)
    _, sigma_next = levels(record.grid, i, x)
    sigmas = (sigma_before, sigma, sigma_next)
    return dpm_solver_2m(x, record.velocities[i], record.prediction(i - 1), sigmas)


def at(values: tuple[float, ...], index: Tensor | int, like: Latents) -> Float[Tensor, " batch"]:
    """values[index] per sample, in the dtype and on the device of `like`."""
    batch = like.shape[0]
    index = torch.as_tensor(index).expand(batch)
    return torch.tensor(values, dtype=like.dtype)[index].to(like.device)


@dataclass(frozen=True, slots=True)
class Exploration:
    """Where a rollout is stochastic.

    Args:
        rule: the transition's mean and standard deviation.
        steps: the indices that follow it; all others follow the rollout's solver.
        noise: standard normal noise [batch, tokens, channels] for step i.
    """

    rule: StochasticStep
    steps: Collection[int]
    noise: Callable[[int], Latents]


def rollout(
    velocity: Velocity,
    x: Latents,
    grid: Grid,
    *,
    horizon: Int[Tensor, " batch"] | int | None = None,
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


def passes(grid: Grid, horizon: Int[Tensor, " batch"] | int) -> int:
    """How many evaluations of the velocity a path to these states has, longest sample first."""
    return min(int(torch.as_tensor(horizon).max()) + 1, grid.steps)


def idle(velocity: Velocity, x: Latents, grid: Grid, *, gradient: bool = False) -> None:
    """A pass that changes nothing: of one sample, and with `gradient` back again from zero."""
    with torch.set_grad_enabled(gradient):
        v = velocity[:1](x[:1], at(grid.times, 0, x[:1]))
    if gradient:
        v.backward(torch.zeros_like(v))


@torch.no_grad()
def extend(
    record: Rollout,
    velocity: Velocity,
    *,
    horizon: Int[Tensor, " batch"] | int | None = None,
    explore: Exploration | None = None,
    solver: Solver = euler_solver,
) -> Rollout:
    """Go on with a recorded path from its last state, in place; arguments as in `rollout`."""
    grid, x = record.grid, record.states[-1]
    last = torch.as_tensor(grid.end if horizon is None else horizon).expand(x.shape[0])
    for i in range(len(record.velocities), passes(grid, last)):
        running = last >= i
        v = _velocity_of(velocity, x, record.times(i), running)
        record.velocities.append(v)
        record.evaluations += int(running.sum())
        if explore is not None and i in explore.steps:
            mean, std = explore.rule.transition(x, v, *levels(grid, i, x))
            x = mean + std * explore.noise(i)
            record.log_probs[i] = log_prob(x, mean, std)
        else:
            x = solver(record, i)
        record.states.append(x)
    return record


def branches(records: Sequence[Rollout], rows: Sequence[int]) -> Rollout:
    """Copies of recorded Euler paths, to be continued each on its own.

    Args:
        records: paths of equal length.
        rows: the sample each branch leaves from, counted through all records.

    Returns:
        The branches; what their common part cost counts in `records` alone.
    """
    states, velocities = (
        [torch.cat(same_index)[list(rows)] for same_index in zip(*paths, strict=True)]
        for paths in ([r.states for r in records], [r.velocities for r in records])
    )
    return Rollout(records[0].grid, states, velocities)


def _velocity_of(velocity: Velocity, x: Latents, time: Tensor, running: Tensor) -> Latents:
    """The velocity of the running samples, zero for the others."""
    if bool(running.all()):
        return velocity(x, time)
    v = torch.zeros_like(x)
    v[running] = velocity[running](x[running], time[running])
    return v


def levels(grid: Grid, index: Tensor | int, like: Latents) -> tuple[Tensor, Tensor]:
    """σ[i] and σ[i+1], each [batch, 1, 1], for one index per sample."""
    sigma = at(grid.sigmas, index, like)
    sigma_next = at(grid.sigmas[1:], index, like)
    return sigma[:, None, None], sigma_next[:, None, None]
