"""Flow-GRPO (arXiv 2505.05470): all transitions but the last; Fast: a few, at a random place."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from baselines.flow_grpo import FlowGRPO
from baselines.flow_grpo_fast import FlowGRPOFast
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.streams import choices
from tests import tolerances
from tests.leapalign.problems import AnalyticProblem, iteration_of, relative_error


class Listening(AnalyticProblem):
    """Keeps the images that are scored."""

    def __init__(self, **budget: int) -> None:
        super().__init__(**budget)
        self.scored: list[torch.Tensor] = []

    def score(self, x: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        self.scored.append(x)
        return super().score(x, prompts)


def test_all_transitions_but_the_last_train_on_the_base_models_grid() -> None:
    method, problem = FlowGRPO(group=4), AnalyticProblem(batch=8, steps=6)
    assert method.grid(problem) == problem.grid(6)
    path = method.path(method.grid(problem), 0, choices(0, "path"))
    assert list(path.stochastic) == [0, 1, 2, 3, 4]
    _, reports = iteration_of(method, problem)
    assert [report.replays for report in reports] == [4 * 5, 4 * 5]
    assert sum(report.forwards for report in reports) == 8 * 6


def test_every_image_has_noise_of_its_own_and_the_steps_are_flow_grpos() -> None:
    problem = Listening(batch=4, steps=4)
    method = FlowGRPO(group=4, updates_per_iteration=1)
    iteration_of(method, problem)
    field, sigmas = problem.field(problem.prompts(0, [0] * 4)), problem.grid(4).sigmas
    first = problem.noise(0, [0], "initial")
    x = torch.cat([first, *(problem.noise(0, [0], "initial", m) for m in (1, 2, 3))])
    assert not torch.equal(x[0], x[1])
    for i in range(4):
        t, dt = sigmas[i], sigmas[i + 1] - sigmas[i]
        v = field(x, torch.full((4,), t, dtype=torch.float64)).detach()
        if i == 3:
            x = x + dt * v
            break
        noise = problem.step_noise(0, 0, i, group=4)
        diffusion = 0.9 * (t / (1 - (sigmas[1] if t == 1 else t))) ** 0.5
        drift = diffusion**2 / (2 * t)
        mean = x * (1 + drift * dt) + v * (1 + drift * (1 - t)) * dt
        x = mean + diffusion * (-dt) ** 0.5 * noise
    [image] = problem.scored
    assert relative_error(image, x) < tolerances.BATCH_SPLIT_EXACT


def test_advantages_are_in_units_of_the_whole_batchs_spread() -> None:
    rewards = torch.tensor([[0.0, 1.0], [100.0, 101.0]], dtype=torch.float64)
    advantages = FlowGRPO(group=2).advantages(rewards[..., None])
    scale = 0.5 / (rewards.std(correction=0).item() + 1e-4)
    assert scale < 0.01
    assert advantages.flatten().tolist() == pytest.approx([-scale, scale, -scale, scale])


def test_fast_branches_at_a_step_of_the_first_half() -> None:
    grid, method = Grid.shifted(6, 3.0), FlowGRPOFast(group=4)
    paths = [method.path(grid, draw, choices(0, draw, "path")) for draw in range(2000)]
    starts = Counter(path.stochastic.start for path in paths)
    assert all(len(path.stochastic) == 2 for path in paths)
    assert set(starts) == {0, 1, 2, 3}
    assert chisquare(list(starts.values())).pvalue > tolerances.UNIFORM_P_VALUE


def test_fast_computes_a_groups_common_path_once() -> None:
    method, problem = FlowGRPOFast(group=4), AnalyticProblem(batch=8, steps=6, micro_batch=3)
    for iteration in range(4):
        rng = problem.choices(iteration, 0, "path")
        start = method.path(method.grid(problem), iteration, rng).stochastic.start
        _, reports = iteration_of(method, problem, iteration=iteration)
        assert sum(report.forwards for report in reports) == 2 * start + 8 * (6 - start)
        assert sum(report.replays for report in reports) == 8 * 2


@pytest.mark.parametrize(
    ("method", "steps", "message"),
    [
        (FlowGRPO(group=4), 1, "steps: 1 leaves no transition to train"),
        (FlowGRPOFast(group=4, window=0), 6, "window: 0 .*between 1 and 2"),
        (FlowGRPOFast(group=4, window=3), 6, "window: 3 .*must end before the last"),
        (FlowGRPOFast(group=1), 6, "group: 1 images"),
    ],
)
def test_settings_that_cannot_train_are_refused(method: FlowGRPO, steps: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        method.check(steps, 12)
