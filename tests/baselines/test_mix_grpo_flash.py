"""MixGRPO-Flash (arXiv 2507.21802): fewer DPM-Solver++ steps after the window."""

from __future__ import annotations

import pytest

from baselines.mix_grpo_flash import MixGRPOFlash
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.rollout import dpm_solver
from leapalign.streams import choices
from tests.leapalign.problems import AnalyticProblem, iteration_of

GRID = Grid.shifted(25, 3.0)


@pytest.mark.parametrize(
    ("iteration", "window", "steps"),
    [(0, range(4), 4 + 8), (20, range(1, 5), 5 + 8), (399, range(19, 23), 23 + 1)],
)
def test_a_share_of_the_steps_after_the_window_remains(
    iteration: int, window: range, steps: int
) -> None:
    path = MixGRPOFlash().path(GRID, iteration, choices(0, "path"))
    assert path.stochastic == window
    assert path.grid.steps == steps
    assert path.grid.sigmas[: window.stop + 1] == GRID.sigmas[: window.stop + 1]
    assert path.grid.times == path.grid.quantised().times
    assert path.solver is dpm_solver


def test_a_window_at_the_image_leaves_nothing_to_thin() -> None:
    path = MixGRPOFlash().path(GRID, 21 * 20, choices(0, "path"))
    assert path.stochastic == range(21, 25)
    assert path.grid == GRID


def test_a_frozen_window_stays_at_the_noise() -> None:
    method = MixGRPOFlash(stride=0, kept=0.2)
    for iteration in (0, 20, 21, 1000):
        path = method.path(GRID, iteration, choices(0, "path"))
        assert path.stochastic == range(4)
        assert path.grid.steps == 4 + 4


def test_only_the_steps_that_remain_are_paid_for() -> None:
    method = MixGRPOFlash(group=4, updates_per_iteration=2, window=3, stride=0, kept=0.5)
    _, reports = iteration_of(method, AnalyticProblem(batch=8, steps=9))
    assert sum(report.forwards for report in reports) == 8 * (3 + 3)
    assert sum(report.replays for report in reports) == 8 * 3


@pytest.mark.parametrize("kept", [0.0, 1.5])
def test_a_share_outside_zero_and_one_is_refused(kept: float) -> None:
    with pytest.raises(UserError, match=r"kept: must lie in \(0, 1\]"):
        MixGRPOFlash(kept=kept).check(25, 12)
