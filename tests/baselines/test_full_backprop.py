"""Full-trajectory backpropagation trains every step and costs a replay for each."""

from __future__ import annotations

import pytest

from baselines.full_backprop import FullBackprop
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.streams import choices
from tests.leapalign.problems import AnalyticProblem, iteration_of


def test_every_step_is_a_leap_with_its_whole_gradient() -> None:
    grid = Grid.shifted(7, 3.0)
    plan = FullBackprop().plan(grid, choices(0, "plan"))
    assert [(leap.start, leap.stop, leap.gain) for leap in plan.leaps] == [
        (i, i + 1, {i: 1.0}) for i in range(7)
    ]
    assert plan.nesting == 1.0
    assert plan.replays == 7


def test_it_costs_a_rollout_and_a_replay_of_every_step() -> None:
    _, [report] = iteration_of(FullBackprop(), AnalyticProblem(batch=3, steps=6))
    assert report.evaluations == 3 * (6 + 3 * 6)


@pytest.mark.parametrize("nesting", [-0.1, 1.1])
def test_a_share_outside_zero_and_one_is_refused(nesting: float) -> None:
    with pytest.raises(UserError, match=r"nesting: must lie in \[0, 1\]"):
        FullBackprop(nesting=nesting).check(25, 1)
