"""Group advantages and the clipped ratio, by hand; replayed ratios, before any update."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import leapalign.grpo
from baselines.dance_grpo import DanceGRPO
from baselines.flow_grpo import FlowGRPO
from baselines.flow_grpo_fast import FlowGRPOFast
from baselines.mix_grpo import MixGRPO
from baselines.mix_grpo_flash import MixGRPOFlash
from leapalign.errors import UserError
from leapalign.grpo import PolicyGradient
from leapalign.policy import (
    ReplayedPolicy,
    batch_advantages,
    clipped_loss,
    group_advantages,
    replay_policy,
)
from tests import tolerances
from tests.fields import AnalyticField
from tests.leapalign.problems import (
    PROMPTS,
    AnalyticProblem,
    FluxProblem,
    MiniProblem,
    iteration_of,
    relative_error,
)

if TYPE_CHECKING:
    from leapalign.backbones.flux import Flux

METHODS = [
    DanceGRPO(group=4, updates_per_iteration=2),
    MixGRPO(group=4, updates_per_iteration=2, iterations_per_position=1),
    MixGRPOFlash(group=4, updates_per_iteration=2, window=3, iterations_per_position=1),
    FlowGRPO(group=4, clip=1e-4),
    FlowGRPOFast(group=4, clip=1e-4),
]


def test_advantages_take_the_unbiased_deviation_of_each_group() -> None:
    # Mean 2.5, unbiased variance (2.25 + 0.25 + 0.25 + 2.25) / 3 = 5/3.
    rewards = torch.tensor([[1.0, 2.0, 3.0, 4.0], [40.0, 30.0, 20.0, 10.0]], dtype=torch.float64)
    first = [-1.1618950038622251, -0.3872983346207417, 0.3872983346207417, 1.1618950038622251]
    advantages = group_advantages(rewards, clip=5.0)
    assert advantages[0].tolist() == pytest.approx(first, abs=tolerances.ADVANTAGE)
    assert advantages[1].tolist() == pytest.approx(first[::-1], abs=tolerances.ADVANTAGE)


def test_advantages_are_bounded() -> None:
    rewards = torch.tensor([[0.0] * 99 + [1.0]])
    assert group_advantages(rewards, clip=100.0).max() > 9.0
    assert group_advantages(rewards, clip=5.0).max() == 5.0


def test_batch_advantages_take_group_means_and_the_spread_of_all() -> None:
    # Population variances of 0, 1, 4, 9 and of these beside 5, 7: 12.25 and 89 / 9.
    here = torch.tensor([[0.0, 1.0], [4.0, 9.0]], dtype=torch.float64)
    alone = batch_advantages(here, clip=5.0)
    spread = 12.25**0.5 + 1e-4
    assert alone.flatten().tolist() == pytest.approx(
        [-0.5 / spread, 0.5 / spread, -2.5 / spread, 2.5 / spread], abs=tolerances.ADVANTAGE
    )
    together = batch_advantages(torch.cat([here, here.new_tensor([[5.0, 7.0]])]), clip=5.0)
    spread = (89 / 9) ** 0.5 + 1e-4
    assert together[0, 1].item() == pytest.approx(0.5 / spread, abs=tolerances.ADVANTAGE)
    assert batch_advantages(here, clip=0.5).max() == 0.5
    undecided = torch.tensor([[3.0, 3.0], [4.0, 9.0]], dtype=torch.float64)
    assert batch_advantages(undecided, clip=5.0)[0].isnan().all()


def test_a_group_without_spread_has_no_advantage() -> None:
    advantages = group_advantages(torch.tensor([[0.5, 0.5], [0.1, 0.2]]), clip=5.0)
    assert advantages[0].isnan().all()
    assert advantages[1].isfinite().all()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.3, 2.0, -2.2, 0.0),  # clipped at 1.1: -2 · 1.1
        (0.8, 2.0, -1.6, -2.0),  # the pessimistic side keeps its gradient
        (1.3, -2.0, 2.6, 2.0),
        (0.8, -2.0, 1.8, 0.0),  # clipped at 0.9: 2 · 0.9
    ],
)
def test_clipped_loss(ratio: float, advantage: float, loss: float, slope: float) -> None:
    value = torch.tensor([ratio], dtype=torch.float64, requires_grad=True)
    found = clipped_loss(value, torch.tensor([advantage], dtype=torch.float64), clip=0.1)
    found.sum().backward()
    assert found.item() == pytest.approx(loss)
    assert value.grad.item() == pytest.approx(slope)


def largest_deviation(
    method: PolicyGradient, problem: MiniProblem, monkeypatch: pytest.MonkeyPatch
) -> float:
    """The largest |ratio - 1| met in one iteration without an optimiser step."""
    replays: list[ReplayedPolicy] = []

    def listening(*arguments: object) -> ReplayedPolicy:
        replays.append(replay_policy(*arguments))
        return replays[-1]

    monkeypatch.setattr(leapalign.grpo, "replay_policy", listening)
    _, reports = iteration_of(method, problem, iteration=2)
    assert sum(replay.terms for replay in replays) == sum(report.replays for report in reports) > 0
    assert all(report.clip_fraction == 0.0 for report in reports)
    return max(replay.deviation for replay in replays)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_ratio_is_one_before_any_update(
    method: PolicyGradient, flux: Flux, monkeypatch: pytest.MonkeyPatch
) -> None:
    for problem in (
        AnalyticProblem(batch=8, steps=8, micro_batch=3),
        FluxProblem(flux, batch=8, steps=6, micro_batch=3),
    ):
        deviation = largest_deviation(method, problem, monkeypatch)
        assert deviation < tolerances.RATIO_BEFORE_UPDATE


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_ratios_leave_the_clip_range_after_a_large_update(method: PolicyGradient) -> None:
    problem = AnalyticProblem(batch=4, steps=8)
    weights = list(problem.network.parameters())
    updates = method.updates(problem, 0)
    first = next(updates)
    assert first.clip_fraction == 0.0
    with torch.no_grad():
        for weight in weights:
            weight -= 10.0 * weight.grad
            weight.grad = None
    second = next(updates)
    assert second.clip_fraction > 0.0


class Unfaithful(AnalyticField):
    """Its velocity is another one with gradient than without, as by dropout or another kernel."""

    error = 0.0

    def _velocity(self, *inputs: torch.Tensor) -> torch.Tensor:
        return super()._velocity(*inputs) * (1.0 + self.error * torch.is_grad_enabled())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_replay_that_does_not_repeat_the_rollout_stops_training(method: PolicyGradient) -> None:
    problem = AnalyticProblem(batch=8, steps=8)
    problem.network = Unfaithful(len(PROMPTS))
    iteration_of(method, problem, iteration=5)
    problem.network.error = 1e-3
    with pytest.raises(UserError, match=r"iteration 5: before any update the ratio differs from 1"):
        iteration_of(method, problem, iteration=5)


class OnePromptUndecided(AnalyticProblem):
    """All images of one prompt score the same."""

    undecided = ("a red circle",)

    def score(self, x: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        same = torch.tensor([text in self.undecided for text in prompts])
        return super().score(x, prompts).masked_fill(same, 1 / 3)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_group_without_spread_is_skipped_and_counted(method: PolicyGradient) -> None:
    problem = OnePromptUndecided(batch=8, steps=8)
    total, reports = iteration_of(method, problem)
    assert [report.skipped_groups for report in reports] == [1, 0]
    assert [report.trains for report in reports] == [False, True]
    assert reports[0].replays == 0
    assert total.isfinite().all()
    assert total.any()


def test_skipped_images_leave_no_trace_in_the_gradient_of_their_update() -> None:
    method = DanceGRPO(group=4, updates_per_iteration=1)
    mixed, _ = iteration_of(method, OnePromptUndecided(batch=8, steps=8))
    alone = DanceGRPO(group=4, updates_per_iteration=2)
    apart, reports = iteration_of(alone, OnePromptUndecided(batch=8, steps=8))
    assert reports[0].trains is False
    # The same four images, divided by an update of eight images instead of four.
    assert relative_error(2.0 * mixed, apart) < tolerances.BATCH_SPLIT


def test_nothing_trains_where_no_group_has_spread() -> None:
    class Undecided(OnePromptUndecided):
        undecided = ("a red circle", "two blue squares", "a green star left of a pink heart")

    problem = Undecided(batch=8, steps=8)
    total, reports = iteration_of(METHODS[0], problem)
    assert not total.any()
    assert [report.trains for report in reports] == [False, False]
    assert reports[0].skipped_groups == 2
    assert reports[0].clip_fraction is None
    assert problem.synchronised == 0
