"""The methods as their papers write them: one sample, one graph, differentiated by autograd.

Nothing here comes from the code under test. Indices count from noise (0) to the image (-1);
`times[i]` is the paper's t at index i, and a path holds the rollout's constant states.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Field = Callable[[Tensor, float], Tensor]


@torch.no_grad()
def euler_path(v: Field, x: Tensor, times: Sequence[float]) -> list[Tensor]:
    """x_1 … x_0 by Euler steps."""
    path = [x]
    for t, s in itertools.pairwise(times):
        path.append(path[-1] - (t - s) * v(path[-1], t))
    return path


@dataclass
class Leapt:
    """x_0 by connectors, the last leap's prediction of it, and each connector's distance."""

    image: Tensor
    prediction: Tensor
    distances: list[Tensor]


def leap_align(
    v: Field,
    path: Sequence[Tensor],
    times: Sequence[float],
    departures: Sequence[int],
    alpha: float,
    *,
    nested_only: bool = False,
) -> Leapt:
    """Leaps from each departure to the next, the last to the image (Eq. 4-9; 14 if nested only)."""
    x = model_input = path[departures[0]]
    distances = []
    for k, j in itertools.pairwise([*departures, len(path) - 1]):
        predicted = x - (times[k] - times[j]) * v(model_input, times[k])
        distances.append((path[j] - predicted).abs().mean().detach())
        connected = predicted + (path[j] - predicted).detach()
        model_input = alpha * connected + (1 - alpha) * connected.detach()
        x = connected.detach() if nested_only else connected
    return Leapt(connected, predicted, distances)


def similarity_weight(d_j: Sequence[Tensor], d_0: Sequence[Tensor], tau: float) -> Tensor | float:
    """Eq. 13, w = 1 / (max(d_j, τ) + max(d_0, τ)), over the distances given; 1 for none."""
    total = sum(max(float(d), tau) for d in (*d_j, *d_0))
    return 1 / total if total else 1.0


def drtune(
    v: Field, x: Tensor, times: Sequence[float], stop: int, training: Collection[int]
) -> Tensor:
    """DRTune's rows of Algorithm 1: the whole loop to the stop, then the prediction of x_0."""
    for i in range(stop + 1):
        velocity = v(x.detach(), times[i])
        if i not in training:
            velocity = velocity.detach()
        x = x - (times[i] - (times[i + 1] if i < stop else 0.0)) * velocity
    return x


def refl(v: Field, path: Sequence[Tensor], times: Sequence[float], stop: int) -> Tensor:
    """ReFL: the prediction of x_0 from the early stop, gradient through that step alone."""
    return path[stop] - times[stop] * v(path[stop], times[stop])


def draft_lv(
    v: Field, path: Sequence[Tensor], times: Sequence[float], noises: Sequence[Tensor]
) -> Iterator[Tensor]:
    """DRaFT-LV: the last step's image, then each re-noised and denoised copy of it."""
    sigma = times[-2]
    image = path[-2] - sigma * v(path[-2], sigma)
    yield image
    for noise in noises:
        copy = (1 - sigma) * image.detach() + sigma * noise
        yield copy - sigma * v(copy, sigma)


def whole_path(v: Field, x: Tensor, times: Sequence[float]) -> Tensor:
    """The sampler itself, in one graph."""
    for t, s in itertools.pairwise(times):
        x = x - (t - s) * v(x, t)
    return x


def flowbp(
    v: Field,
    path: Sequence[Tensor],
    times: Sequence[float],
    legs: Sequence[tuple[int, int, Mapping[int, float], Mapping[int, float]]],
    alpha: float = 0.0,
) -> Leapt:
    """FlowBP's surrogates: cached velocities, integrated by weight, some of them with gradient.

    Args:
        v: the field.
        path: the rollout's states.
        times: their times.
        legs: start, stop, the weight of each cached velocity, and the factor on the gradient of
            each active one.
        alpha: the share of gradient that crosses into a leg's start.
    """
    x = model_input = path[legs[0][0]]
    distances = []
    for start, stop, weights, factors in legs:
        predicted = x
        for i, weight in weights.items():
            velocity = v(model_input if i == start else path[i], times[i])
            cached = velocity.detach()
            predicted = predicted + weight * (cached + factors.get(i, 0.0) * (velocity - cached))
        distances.append((path[stop] - predicted).abs().mean().detach())
        x = predicted + (path[stop] - predicted).detach()
        model_input = alpha * x + (1 - alpha) * x.detach()
    return Leapt(x, predicted, distances)


def euler_weights(times: Sequence[float], start: int, stop: int) -> dict[int, float]:
    """Each step's own length."""
    return {i: times[i + 1] - times[i] for i in range(start, stop)}


def lagrange_weights(
    times: Sequence[float], nodes: Sequence[int], start: int, stop: int
) -> dict[int, float]:
    """The weights that integrate 1, t, t², … exactly from one time to the other."""
    t = torch.tensor([times[i] for i in nodes], dtype=torch.float64)
    powers = torch.arange(len(nodes), dtype=torch.float64)[:, None]
    integrals = (times[stop] ** (powers + 1) - times[start] ** (powers + 1)) / (powers + 1)
    return dict(zip(nodes, torch.linalg.solve(t**powers, integrals)[:, 0].tolist(), strict=True))


def rescale_factor(weights: Mapping[int, float], active: Collection[int], strength: float) -> float:
    """FlowBP's 1 + ρ (Σ|w| / Σ_active |w| - 1)."""
    whole, part = sum(map(abs, weights.values())), sum(abs(weights[i]) for i in active)
    return 1 + strength * (whole / part - 1)
