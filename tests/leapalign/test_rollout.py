"""The sampling loop: Euler's path, early stops, and stochastic steps with their density."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from leapalign.grid import Grid
from leapalign.kernels.philox import normal
from leapalign.rollout import Exploration, branches, dpm_solver, extend, rollout
from leapalign.steps import DanceSDE
from tests import tolerances
from tests.fields import AnalyticField
from tests.leapalign import equations

GRID = Grid.shifted(6, 2.0)


def noise(batch: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 4, generator=generator, dtype=torch.float64)


def seeds(batch: int) -> Callable[[int], torch.Tensor]:
    """Of each sample's noise in step i."""
    return lambda i: torch.arange(batch) + 100 * i


def test_states_follow_eulers_path_and_carry_no_graph() -> None:
    field, x = AnalyticField(batch=2), noise(2)
    record = rollout(field, x, GRID)
    path = equations.euler_path(
        lambda x, t: field(x, torch.full((2,), t, dtype=x.dtype)), x, GRID.sigmas
    )
    for state, expected in zip(record.states, path, strict=True):
        torch.testing.assert_close(state, expected, rtol=0.0, atol=tolerances.GOLDEN_STEP)
    assert len(record.velocities) == GRID.steps
    assert record.evaluations == 2 * GRID.steps
    assert not any(tensor.requires_grad for tensor in (*record.states, *record.velocities))


def test_a_sample_costs_nothing_after_its_horizon_and_is_the_same_up_to_it() -> None:
    field, x = AnalyticField(batch=3), noise(3)
    whole = rollout(field, x, GRID)
    part = rollout(field, x, GRID, horizon=[2, 6, 0])
    assert part.evaluations == 3 + 6 + 1
    for sample, stop in enumerate((2, 6, 0)):
        for i in range(stop + 1):
            torch.testing.assert_close(part.states[i][sample], whole.states[i][sample])
        if stop < GRID.steps:
            predicted = part.prediction(stop)[sample]
            torch.testing.assert_close(predicted, whole.prediction(stop)[sample])


def test_only_the_explored_steps_are_stochastic() -> None:
    field, x, rule = AnalyticField(batch=2), noise(2), DanceSDE(0.5)
    record = rollout(field, x, GRID, explore=Exploration(rule, range(2, 4), seeds(2)))
    assert sorted(record.log_probs) == [2, 3]
    plain = rollout(field, x, GRID)
    assert torch.equal(record.states[2], plain.states[2])
    levels = (torch.full((2,), s, dtype=torch.float64) for s in GRID.sigmas[2:4])
    a, b, std = (coefficient[:, None, None] for coefficient in rule.transition(*levels))
    mean = a * record.states[2] + b * record.velocities[2]
    drawn = normal(seeds(2)(2), 12).view_as(x)
    torch.testing.assert_close(record.states[3], mean + std * drawn)
    density = torch.distributions.Normal(mean, std.expand_as(mean)).log_prob(record.states[3])
    expected, bound = density.mean(dim=(1, 2)), tolerances.GOLDEN_STEP
    torch.testing.assert_close(record.log_probs[2], expected, rtol=bound, atol=bound)


def test_branches_of_a_path_are_the_paths_rolled_out_whole() -> None:
    field, x = AnalyticField(batch=3), noise(3)
    explore = Exploration(DanceSDE(0.5), range(2, 4), seeds(4))
    rows = [2, 0, 0, 1]
    whole = rollout(field[rows], x[rows], GRID, explore=explore)
    trunks = [rollout(field[part], x[part], GRID, horizon=1) for part in (slice(2), slice(2, 3))]
    record = extend(branches(trunks, rows), field[rows], explore=explore)
    for found, expected in (
        (record.states, whole.states),
        (record.velocities, whole.velocities),
        (list(record.log_probs.values()), list(whole.log_probs.values())),
    ):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=tolerances.GOLDEN_STEP)
    assert sum(trunk.evaluations for trunk in trunks) == 3 * 2
    assert record.evaluations == 4 * (GRID.steps - 2)
    assert len(trunks[0].velocities) == 2  # the trunks are left as they were


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # in diffusers
def test_dpm_solvers_path_is_that_of_diffusers_scheduler() -> None:
    field, x = AnalyticField(batch=2), noise(2)
    record = rollout(field, x, GRID, solver=dpm_solver)
    scheduler = DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=2
    )
    scheduler.set_timesteps(GRID.steps)
    scheduler.sigmas = torch.tensor(GRID.sigmas, dtype=torch.float64)
    for i, time in enumerate(scheduler.timesteps):
        v = field(x, torch.full((2,), GRID.sigmas[i], dtype=torch.float64)).detach()
        x = scheduler.step(v, time, x).prev_sample.double()
        torch.testing.assert_close(record.states[i + 1], x, rtol=0.0, atol=tolerances.DPM_SOLVER)
    plain = rollout(field, noise(2), GRID)
    assert (plain.states[-1] - x).abs().max() > 100 * tolerances.DPM_SOLVER


def test_the_solver_makes_the_steps_that_are_not_explored() -> None:
    field, x = AnalyticField(batch=2), noise(2)
    explore = Exploration(DanceSDE(0.5), range(1, 3), seeds(2))
    record = rollout(field, x, GRID, explore=explore, solver=dpm_solver)
    for i in (0, 3, 4, 5):
        assert torch.equal(record.states[i + 1], dpm_solver(record, i))


def test_the_model_is_told_the_grids_times() -> None:
    told = []

    class Listening(AnalyticField):
        def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            told.append(time[0].item())
            return super().forward(x, time)

    grid = GRID.quantised(10)
    rollout(Listening(batch=1), noise(1), grid)
    assert told == list(grid.times[:-1])
    assert told != list(grid.sigmas[:-1])
