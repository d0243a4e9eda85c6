"""The methods as their papers write them: one sample, one graph, differentiated by autograd.

Nothing here comes from the code under test. Indices count from noise (0) to the image (-1);
`times[i]` is the paper's t at index i, and a path holds the rollout's constant states.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
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
