"""The stochastic steps against arithmetic done by hand, and their density against torch's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from leapalign.steps import DanceSDE, FlowSDE, euler, log_prob
from tests import tolerances


def scalar(value: float) -> Tensor:
    return torch.full((1, 1, 1), value, dtype=torch.float64)


X, V, HALF, QUARTER = scalar(1.0), scalar(0.5), scalar(0.5), scalar(0.25)


def test_euler_step() -> None:
    # 1 + (0.25 - 0.5) · 0.5
    assert euler(X, V, HALF, QUARTER).item() == 0.875


def test_dance_step_has_the_values_worked_out_by_hand() -> None:
    # x̂_0 = 1 - 0.5 · 0.5 = 0.75; score = -(1 - 0.5 · 0.75) / 0.25 = -2.5; dσ = -0.25;
    # mean = 1 - 0.25 · 0.5 - ½ · 0.16 · (-2.5) · (-0.25) = 1 - 0.125 - 0.05; std = 0.4 · 0.5.
    mean, std = DanceSDE(0.4).transition(X, V, HALF, QUARTER)
    assert mean.item() == pytest.approx(0.825, abs=tolerances.GOLDEN_STEP)
    assert std.item() == pytest.approx(0.2, abs=tolerances.GOLDEN_STEP)


def test_flow_step_has_the_values_worked_out_by_hand() -> None:
    # σ_t = 0.6 · √(0.5 / 0.5) = 0.6; σ_t² / 2σ = 0.36; dσ = -0.25;
    # mean = 1 · (1 - 0.36 · 0.25) + 0.5 · (1 + 0.36 · 0.5) · (-0.25) = 0.91 - 0.1475;
    # std = 0.6 · √0.25.
    mean, std = FlowSDE(0.6, first=0.9).transition(X, V, HALF, QUARTER)
    assert mean.item() == pytest.approx(0.7625, abs=tolerances.GOLDEN_STEP)
    assert std.item() == pytest.approx(0.3, abs=tolerances.GOLDEN_STEP)


def test_flow_step_at_pure_noise_takes_the_next_sigma_in_the_denominator() -> None:
    # σ_t² = 0.04 · 1 / (1 - 0.8) = 0.2; σ_t² / 2σ = 0.1; dσ = -0.2;
    # mean = 1 · (1 - 0.1 · 0.2) + 0.5 · (1 + 0.1 · 0) · (-0.2) = 0.98 - 0.1; std = √(0.2 · 0.2).
    mean, std = FlowSDE(0.2, first=0.8).transition(X, V, scalar(1.0), scalar(0.8))
    assert mean.item() == pytest.approx(0.88, abs=tolerances.GOLDEN_STEP)
    assert std.item() == pytest.approx(0.2, abs=tolerances.GOLDEN_STEP)


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.floats(0.01, 1.0), st.integers(0, 99))
def test_both_rules_are_one_sde_where_their_diffusions_agree(
    sigma: float, share: float, eta: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, v = torch.randn(2, 1, 3, 4, generator=generator, dtype=torch.float64)
    level, level_next = scalar(sigma), scalar(sigma * share)
    equal = eta * (sigma / (1.0 - sigma)) ** 0.5
    dance = DanceSDE(equal).transition(x, v, level, level_next)
    flow = FlowSDE(eta, first=0.99).transition(x, v, level, level_next)
    for one, two in zip(dance, flow, strict=True):
        bound = tolerances.GOLDEN_STEP
        torch.testing.assert_close(one, two, rtol=bound, atol=bound)


def test_log_prob_is_the_mean_of_torch_normal_log_densities() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, noise = torch.randn(2, 5, 7, 3, generator=generator)
    std = torch.tensor([0.02, 0.1, 0.3, 1.0, 2.0])[:, None, None]
    x = mean + std * noise
    normal = torch.distributions.Normal(mean.double(), std.double())
    expected = normal.log_prob(x.double()).mean(dim=(1, 2))
    found = log_prob(x, mean, std)
    assert found.dtype == torch.float32
    bound = tolerances.LOG_PROB
    torch.testing.assert_close(found.double(), expected, rtol=bound, atol=bound)
