"""Sampler steps: Euler, DPM-Solver++, and the stochastic rules.

Deterministic steps see x and v of shape [batch, tokens, channels] and σ, σ_next of shape
[batch, 1, 1], stochastic rules σ and σ_next of shape [batch]; dσ = σ_next - σ < 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from leapalign.kernels.sde import Transition

Latents = Float[Tensor, "batch tokens channels"]
Level = Float[Tensor, "batch 1 1"]
PerSample = Float[Tensor, " batch"]


def euler(x: Latents, v: Latents, sigma: Level, sigma_next: Level) -> Latents:
    """One Euler step of the probability-flow ODE: x + dσ v."""
    return x + (sigma_next - sigma) * v


def dpm_solver_2m(
    x: Latents, v: Latents, image_before: Latents, sigmas: tuple[Level, Level, Level]
) -> Latents:
    """One step of DPM-Solver++(2M) (arXiv 2211.01095, Alg. 2; midpoint) in a rectified flow.

    With α = 1 - σ, λ = log(α / σ), h = λ_next - λ and h_before = λ - λ_before:
    x + dσ v + (1 - σ_next / σ) · h / (2 h_before) · (x̂_0 - x̂_0,before), where x̂_0 = x - σ v.
    Its first order is Euler's step.

    Args:
        x: the state.
        v: its velocity.
        image_before: x̂_0,before, the image predicted one step earlier.
        sigmas: σ_before, σ and σ_next, falling and above 0.
    """
    _, sigma, sigma_next = sigmas
    lambdas = [torch.log((1.0 - level) / level) for level in sigmas]
    ratio = (lambdas[2] - lambdas[1]) / (lambdas[1] - lambdas[0])
    correction = (1.0 - sigma_next / sigma) * 0.5 * ratio * (x - sigma * v - image_before)
    return euler(x, v, sigma, sigma_next) + correction


@runtime_checkable
class StochasticStep(Protocol):
    """A Gaussian transition p(x_next | x), the policy of a policy-gradient method."""

    def transition(self, sigma: PerSample, sigma_next: PerSample) -> Transition:
        """The mean's coefficients of x and v, and the standard deviation; for σ > 0."""
        ...


def reverse_sde(diffusion: PerSample, sigma: PerSample, sigma_next: PerSample) -> Transition:
    """One step of the SDE with a rectified flow's marginals (arXiv 2505.05470, Eq. 9).

    With diffusion g: mean = x (1 + g² dσ / 2σ) + v (1 + g² (1-σ) / 2σ) dσ; std = g √(-dσ).
    """
    dsigma = sigma_next - sigma
    drift = diffusion**2 / (2.0 * sigma)
    return Transition(
        1.0 + drift * dsigma,
        (1.0 + drift * (1.0 - sigma)) * dsigma,
        diffusion * torch.sqrt(-dsigma),
    )


@dataclass(frozen=True, slots=True)
class DanceSDE:
    """DanceGRPO's step (arXiv 2505.07818): constant diffusion η, drift corrected by the score.

    mean = x + dσ v - ½ η² score dσ with score = -(x - (1-σ) x̂_0) / σ² and x̂_0 = x - σ v, which is
    `reverse_sde`'s; std = η √(-dσ).
    """

    eta: float

    def transition(self, sigma: PerSample, sigma_next: PerSample) -> Transition:
        """See the class; defined for σ > 0."""
        return reverse_sde(torch.full_like(sigma, self.eta), sigma, sigma_next)


@dataclass(frozen=True, slots=True)
class FlowSDE:
    """Flow-GRPO's step (arXiv 2505.05470, Eq. 9), also MixGRPO's: diffusion η √(σ / (1-σ)).

    Args:
        eta: noise level η.
        first: σ[1] of the grid; it stands in for σ = 1 in the diffusion's denominator, which is
            singular there.
    """

    eta: float
    first: float

    def transition(self, sigma: PerSample, sigma_next: PerSample) -> Transition:
        """See the class; defined for σ > 0."""
        bounded = torch.where(sigma >= 1.0, torch.full_like(sigma, self.first), sigma)
        diffusion = self.eta * torch.sqrt(sigma / (1.0 - bounded))
        return reverse_sde(diffusion, sigma, sigma_next)
