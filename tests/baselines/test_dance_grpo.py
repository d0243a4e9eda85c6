"""DanceGRPO (arXiv 2505.07818) trains a random share of the transitions but never the last."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare

from baselines.dance_grpo import DanceGRPO
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.streams import choices
from tests import tolerances
from tests.leapalign.problems import AnalyticProblem, iteration_of


@pytest.mark.parametrize(("steps", "trained"), [(16, 9), (12, 6), (2, 1)])
def test_each_image_trains_its_own_permutations_first_steps(steps: int, trained: int) -> None:
    method, grid = DanceGRPO(), Grid.shifted(steps, 3.0)
    stochastic = method.path(grid, 0, choices(0, "path")).stochastic
    assert list(stochastic) == list(range(steps - 1))
    drawn = [method.trained(stochastic, choices(0, 0, image, "steps")) for image in range(2000)]
    assert all(len(set(chosen)) == len(chosen) == trained for chosen in drawn)
    first = Counter(chosen[0] for chosen in drawn)
    if steps > 2:
        p_value = chisquare([first[i] for i in stochastic]).pvalue
        assert p_value > tolerances.UNIFORM_P_VALUE
        assert any(chosen != sorted(chosen) for chosen in drawn)


def test_the_reward_is_taken_on_the_last_steps_prediction() -> None:
    scored = []

    class Listening(AnalyticProblem):
        def score(self, x: torch.Tensor, prompts: list[str]) -> torch.Tensor:
            scored.append(x)
            return super().score(x, prompts)

    problem = Listening(batch=4, steps=6)
    method = DanceGRPO(group=4, updates_per_iteration=1)
    _, [report] = iteration_of(method, problem)
    assert report.forwards == 4 * 6
    [image] = scored
    field, grid = problem.field(problem.prompts(0, [0] * 4)), method.grid(problem)
    # All images of a group start from one noise; replay the recorded noise by hand.
    x = problem.noise(0, [0] * 4, "initial")
    for i in range(6):
        time = torch.full((4,), grid.times[i], dtype=torch.float64)
        v = field(x, time).detach()
        if i == 5:
            torch.testing.assert_close(image, x - grid.sigmas[5] * v)
            break
        sigma, dsigma = grid.sigmas[i], grid.delta(i)
        score = -(x - (1 - sigma) * (x - sigma * v)) / sigma**2
        noise = problem.step_noise(0, 0, i, group=4)
        x = x + dsigma * v - 0.5 * 0.3**2 * score * dsigma + 0.3 * (-dsigma) ** 0.5 * noise


@pytest.mark.parametrize(
    ("method", "steps", "batch", "message"),
    [
        (DanceGRPO(group=1), 16, 12, r"group: 1 images .*set it to 2 or more"),
        (DanceGRPO(group=5), 16, 12, r"batch: 12 images .*groups of 5; change batch or group"),
        (DanceGRPO(updates_per_iteration=5), 16, 12, r"updates_per_iteration: 12 .*over 5"),
        (DanceGRPO(updates_per_iteration=0), 16, 12, r"updates_per_iteration: 12 .*over 0"),
        (DanceGRPO(fraction=0.0), 16, 12, r"fraction: .*\(0, 1\], got 0\.0"),
        (DanceGRPO(eta=0.0), 16, 12, r"eta: .*above 0"),
        (DanceGRPO(), 1, 12, r"steps: 1 leaves no transition"),
    ],
)
def test_settings_that_cannot_train_are_refused(
    method: DanceGRPO, steps: int, batch: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        method.check(steps, batch)
