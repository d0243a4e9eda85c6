"""MixGRPO (arXiv 2507.21802): a window of stochastic steps that slides from noise to image."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from baselines.mix_grpo import MixGRPO
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.streams import choices
from tests.leapalign.problems import AnalyticProblem, iteration_of


def scheduled(steps: int, window: int, stride: int, every: int) -> Iterator[list[int]]:
    """The window as a scheduler that is stepped once an iteration keeps it."""
    start = waited = 0
    while True:
        yield list(range(start, start + window))
        waited += 1
        if waited == every:
            start, waited = start + stride, 0
            if start + window > steps:
                start = 0


@pytest.mark.parametrize(
    ("steps", "window", "stride", "every"),
    [(25, 4, 1, 25), (25, 4, 3, 7), (6, 6, 1, 2), (10, 4, 4, 1)],
)
def test_the_window_over_a_thousand_iterations(
    steps: int, window: int, stride: int, every: int
) -> None:
    method = MixGRPO(window=window, stride=stride, iterations_per_position=every)
    grid = Grid.shifted(steps, 3.0)
    expected = scheduled(steps, window, stride, every)
    for iteration, wanted in zip(range(1000), expected, strict=False):
        stochastic = method.stochastic(grid, iteration)
        assert list(stochastic) == wanted
        assert method.trained(stochastic, choices(0, iteration, 0, "steps")) == wanted
        assert len(wanted) == window
        assert wanted[-1] < steps


def test_one_term_for_each_image_and_step_of_the_window() -> None:
    method = MixGRPO(group=4, updates_per_iteration=2, window=3)
    _, reports = iteration_of(method, AnalyticProblem(batch=8, steps=6))
    assert [report.replays for report in reports] == [4 * 3, 4 * 3]
    assert [report.images for report in reports] == [4, 4]
    assert sum(report.forwards for report in reports) == 8 * 6


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (MixGRPO(window=0), "window: must lie between 1 and the 6"),
        (MixGRPO(window=7), "window: must lie between 1 and the 6"),
        (MixGRPO(stride=0), "stride"),
        (MixGRPO(iterations_per_position=0), "iterations_per_position"),
        (MixGRPO(group=1), "group: 1"),
    ],
)
def test_settings_that_cannot_train_are_refused(method: MixGRPO, message: str) -> None:
    with pytest.raises(UserError, match=message):
        method.check(6, 12)
