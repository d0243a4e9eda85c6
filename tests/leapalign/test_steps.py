"""The stochastic steps against arithmetic done by hand, and their density against torch's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from leapalign.steps import DanceSDE, FlowSDE, StochasticStep, euler
from tests import tolerances


def scalar(value: float) -> Tensor:
    return torch.full((1, 1, 1), value, dtype=torch.float64)


def stepped(
    rule: StochasticStep, x: Tensor, v: Tensor, sigma: float, sigma_next: float
) -> tuple[Tensor, Tensor]:
    """A transition's mean and standard deviation."""
    levels = (torch.tensor([s], dtype=torch.float64) for s in (sigma, sigma_next))
    a, b, std = rule.transition(*levels)
    return a * x + b * v, std


X, V = scalar(1.0), scalar(0.5)


def test_euler_step() -> None:
    # 1 + (0.25 - 0.5) · 0.5
    assert euler(X, V, scalar(0.5), scalar(0.25)).item() == 0.875


def test_dance_step_has_the_values_worked_out_by_hand() -> None:
    # x̂_0 = 1 - 0.5 · 0.5 = 0.75; score = -(1 - 0.5 · 0.75) / 0.25 = -2.5; dσ = -0.25;
    # mean = 1 - 0.25 · 0.5 - ½ · 0.16 · (-2.5) · (-0.25) = 1 - 0.125 - 0.05; std = 0.4 · 0.5.
    mean, std = stepped(DanceSDE(0.4), X, V, 0.5, 0.25)
    assert mean.item() == pytest.approx(0.825, abs=tolerances.GOLDEN_STEP)
    assert std.item() == pytest.approx(0.2, abs=tolerances.GOLDEN_STEP)


def test_flow_step_has_the_values_worked_out_by_hand() -> None:
    # σ_t = 0.6 · √(0.5 / 0.5) = 0.6; σ_t² / 2σ = 0.36; dσ = -0.25;
    # mean = 1 · (1 - 0.36 · 0.25) + 0.5 · (1 + 0.36 · 0.5) · (-0.25) = 0.91 - 0.1475;
    # std = 0.6 · √0.25.
    mean, std = stepped(FlowSDE(0.6, first=0.9), X, V, 0.5, 0.25)
    assert mean.item() == pytest.approx(0.7625, abs=tolerances.GOLDEN_STEP)
    assert std.item() == pytest.approx(0.3, abs=tolerances.GOLDEN_STEP)


def test_flow_step_at_pure_noise_takes_the_next_sigma_in_the_denominator() -> None:
    # σ_t² = 0.04 · 1 / (1 - 0.8) = 0.2; σ_t² / 2σ = 0.1; dσ = -0.2;
    # mean = 1 · (1 - 0.1 · 0.2) + 0.5 · (1 + 0.1 · 0) · (-0.2) = 0.98 - 0.1; std = √(0.2 · 0.2).
    mean, std = stepped(FlowSDE(0.2, first=0.8), X, V, 1.0, 0.8)
    assert mean.item() == pytest.approx(0.88, abs=tolerances.GOLDEN_STEP)
    assert std.item() == pytest.approx(0.2, abs=tolerances.GOLDEN_STEP)


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.floats(0.01, 1.0), st.integers(0, 99))
def test_both_rules_are_dance_grpos_formula_where_their_diffusions_agree(
    sigma: float, share: float, eta: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, v = torch.randn(2, 1, 3, 4, generator=generator, dtype=torch.float64)
    dsigma, diffusion = sigma * share - sigma, eta * (sigma / (1.0 - sigma)) ** 0.5
    score = -(x - (1.0 - sigma) * (x - sigma * v)) / sigma**2
    mean = x + dsigma * v - 0.5 * diffusion**2 * score * dsigma
    std = torch.tensor([diffusion * (-dsigma) ** 0.5], dtype=torch.float64)
    for rule in (DanceSDE(diffusion), FlowSDE(eta, first=0.99)):
        for found, expected in zip(
            stepped(rule, x, v, sigma, sigma * share), (mean, std), strict=True
        ):
            bound = tolerances.GOLDEN_STEP
            torch.testing.assert_close(found, expected, rtol=bound, atol=bound)
