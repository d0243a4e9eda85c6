"""The fused stochastic step follows the rules of leapalign.steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from leapalign.kernels import sde
from leapalign.kernels.philox import normal
from leapalign.steps import DanceSDE, FlowSDE, StochasticStep, log_prob
from tests import tolerances

LEVELS = torch.tensor([0.9, 0.5], dtype=torch.float64)[:, None, None]
NEXT = torch.tensor([0.8, 0.45], dtype=torch.float64)[:, None, None]
SEED = torch.tensor([3, 2**40])


def transition(rule: StochasticStep) -> sde.Transition:
    one, zero = torch.ones_like(LEVELS), torch.zeros_like(LEVELS)
    a, std = rule.transition(one, zero, LEVELS, NEXT)
    b, _ = rule.transition(zero, one, LEVELS, NEXT)
    return sde.Transition(a.flatten(), b.flatten(), std.flatten())


def latents(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 2, 5, 7, generator=generator, dtype=dtype)
    return x, v


@pytest.mark.parametrize("rule", [DanceSDE(0.3), FlowSDE(0.7, first=0.95)])
def test_a_step_is_the_rules_and_its_density_log_prob(rule: StochasticStep) -> None:
    x, v = latents(torch.float64)
    mean, std = rule.transition(x, v, LEVELS, NEXT)
    noise = normal(SEED, 35).view_as(x)
    x_next, density = sde.sde_step(x, v, transition(rule), SEED)
    bound = tolerances.GOLDEN_STEP
    torch.testing.assert_close(x_next, mean + std * noise, rtol=bound, atol=bound)
    expected = log_prob(x_next, mean, std)
    torch.testing.assert_close(density.float(), expected, rtol=tolerances.LOG_PROB, atol=0.0)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_replay_repeats_the_recorded_density_bit_for_bit(dtype: torch.dtype) -> None:
    x, v = latents(dtype)
    step = sde.Transition(*(c.float() for c in transition(DanceSDE(0.3))))
    x_next, density = sde.sde_step(x, v, step, SEED)
    assert torch.equal(sde.sde_log_prob(x, v, x_next, step), density)
