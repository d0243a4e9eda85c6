"""The fused stochastic step follows the rules of leapalign.steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from leapalign.kernels import sde
from leapalign.kernels.philox import normal
from leapalign.steps import DanceSDE, FlowSDE, StochasticStep
from tests import tolerances

LEVELS = torch.tensor([0.9, 0.5], dtype=torch.float64)
NEXT = torch.tensor([0.8, 0.45], dtype=torch.float64)
SEED = torch.tensor([3, 2**40])


def latents(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, v = torch.randn(2, 2, 5, 7, generator=generator, dtype=dtype)
    return x, v


@pytest.mark.parametrize("rule", [DanceSDE(0.3), FlowSDE(0.7, first=0.95)])
def test_a_step_is_the_rules_and_its_density_the_mean_of_torchs(rule: StochasticStep) -> None:
    x, v = latents(torch.float64)
    step = rule.transition(LEVELS, NEXT)
    a, b, std = (coefficient[:, None, None] for coefficient in step)
    mean, noise = a * x + b * v, normal(SEED, 35).view_as(x)
    x_next, density = sde.sde_step(x, v, step, SEED)
    bound = tolerances.GOLDEN_STEP
    torch.testing.assert_close(x_next, mean + std * noise, rtol=bound, atol=bound)
    normals = torch.distributions.Normal(mean, std.expand_as(mean))
    expected = normals.log_prob(x_next).mean(dim=(1, 2))
    torch.testing.assert_close(density, expected, rtol=bound, atol=bound)


def test_a_density_in_float32_is_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    x, v, noise = torch.randn(3, 5, 7, 3, generator=generator)
    std = torch.tensor([0.02, 0.1, 0.3, 1.0, 2.0])
    a, b = torch.full_like(std, 0.9), torch.full_like(std, -0.2)
    x_next = 0.9 * x - 0.2 * v + std[:, None, None] * noise
    found = sde.sde_log_prob(x, v, x_next, sde.Transition(a, b, std))
    wide = [t.double()[:, None, None] for t in (a, b, std)]
    normals = torch.distributions.Normal(wide[0] * x.double() + wide[1] * v.double(), wide[2])
    expected = normals.log_prob(x_next.double()).mean(dim=(1, 2))
    assert found.dtype == torch.float32
    bound = tolerances.LOG_PROB
    torch.testing.assert_close(found.double(), expected, rtol=bound, atol=bound)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_replay_repeats_the_recorded_density_bit_for_bit(dtype: torch.dtype) -> None:
    x, v = latents(dtype)
    step = DanceSDE(0.3).transition(LEVELS.float(), NEXT.float())
    x_next, density = sde.sde_step(x, v, step, SEED)
    assert torch.equal(sde.sde_log_prob(x, v, x_next, step), density)
