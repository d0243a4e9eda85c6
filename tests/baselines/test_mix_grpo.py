"""MixGRPO (arXiv 2507.21802): a window of stochastic steps that slides from noise to image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import leapalign.grpo
from baselines.mix_grpo import MixGRPO
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.rollout import Rollout, Velocity, extend, rollout
from leapalign.streams import choices
from tests import tolerances
from tests.leapalign.problems import AnalyticProblem, iteration_of, relative_error


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
        stochastic = method.path(grid, iteration, choices(0, iteration, "path")).stochastic
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


@pytest.mark.parametrize("start", [0, 1, 3])
def test_a_group_pays_once_for_its_path_before_the_window(start: int) -> None:
    method = MixGRPO(group=4, updates_per_iteration=2, window=3, iterations_per_position=1)
    problem = AnalyticProblem(batch=8, steps=6, micro_batch=3)
    _, reports = iteration_of(method, problem, iteration=start)
    evaluated = 2 * start + 8 * (6 - start)
    assert sum(report.forwards for report in reports) == evaluated
    assert sum(report.replays for report in reports) == 8 * 3


def test_sharing_the_path_before_the_window_changes_no_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method = MixGRPO(group=4, updates_per_iteration=2, window=3, iterations_per_position=1)
    problem = AnalyticProblem(batch=8, steps=6, micro_batch=3)
    pairs: list[tuple[Rollout, Rollout]] = []

    def beside_the_unshared(shared: Rollout, velocity: Velocity, **options: Any) -> Rollout:
        alone = rollout(velocity, shared.states[0], shared.grid, **options)
        pairs.append((extend(shared, velocity, **options), alone))
        return shared

    monkeypatch.setattr(leapalign.grpo, "extend", beside_the_unshared)
    iteration_of(method, problem, iteration=2)
    noise = torch.cat([shared.states[0] for shared, _ in pairs])
    assert torch.equal(noise, problem.noise(2, [0] * 4 + [1] * 4, "initial"))
    for shared, alone in pairs:
        for found, expected in zip(shared.states, alone.states, strict=True):
            assert relative_error(found, expected) < tolerances.BATCH_SPLIT_EXACT
        assert sorted(shared.log_probs) == sorted(alone.log_probs) == [2, 3, 4]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (MixGRPO(window=0), "window: must lie between 1 and the 6"),
        (MixGRPO(window=7), "window: must lie between 1 and the 6"),
        (MixGRPO(stride=-1), "stride: must be 0 or more, got -1"),
        (MixGRPO(iterations_per_position=0), "iterations_per_position"),
        (MixGRPO(group=1), "group: 1"),
    ],
)
def test_settings_that_cannot_train_are_refused(method: MixGRPO, message: str) -> None:
    with pytest.raises(UserError, match=message):
        method.check(6, 12)
