"""The backward sweep equals autograd through the papers' equations, for every kind of Plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.func import functional_call

from baselines.draft_lv import DRaFTLV
from baselines.drtune import DRTune
from baselines.flowbp_bridge import FlowBPBridge
from baselines.flowbp_lagrange import FlowBPLagrange
from baselines.flowbp_sparse import FlowBPSparse
from baselines.full_backprop import FullBackprop
from baselines.refl import ReFL
from leapalign.direct import DirectGradient
from leapalign.grid import Grid
from leapalign.leap import LeapAlign
from leapalign.plan import Plan, jump
from leapalign.rollout import rollout
from leapalign.surrogate import sweep
from tests import tolerances
from tests.fields import AnalyticField
from tests.leapalign import equations
from tests.leapalign.problems import (
    AnalyticProblem,
    FluxProblem,
    MiniProblem,
    gradient,
    iteration_of,
    relative_error,
)

if TYPE_CHECKING:
    from leapalign.backbones.flux import Flux

METHODS = {
    "leapalign": LeapAlign(),
    "no nested gradient": LeapAlign(nesting=0.0),
    "whole nested gradient": LeapAlign(nesting=1.0),
    "one leap": LeapAlign(leaps=1),
    "three leaps": LeapAlign(leaps=3, nesting=0.7),
    "nested gradient only": LeapAlign(nesting=0.6, nested_only=True),
    "three leaps, nested only": LeapAlign(leaps=3, nesting=0.6, nested_only=True),
    "reward on the prediction": LeapAlign(reward_on="prediction"),
    "prediction weighed by d_j": LeapAlign(reward_on="prediction", weighting="joint"),
    "weighed by d_j": LeapAlign(weighting="joint"),
    "weighed by d_0": LeapAlign(weighting="image"),
    "unweighed": LeapAlign(weighting="none"),
    "floored weights": LeapAlign(tau=0.6),
    "fixed distance": LeapAlign(distance=0.5),
    "late steps": LeapAlign(range_high=0.7),
    "drtune": DRTune(active=2, last=4),
    "drtune, three steps": DRTune(active=3, last=5),
    "refl": ReFL(last=4),
    "draft": DRaFTLV(copies=0),
    "draft-lv": DRaFTLV(copies=2),
    "sparse": FlowBPSparse(),
    "sparse, gradients as they are": FlowBPSparse(active=2, rescale=0.0),
    "sparse, every step": FlowBPSparse(active=6),
    "bridge": FlowBPBridge(),
    "bridge, whole nested gradient": FlowBPBridge(active=2, rescale=0.3, nesting=1.0),
    "lagrange": FlowBPLagrange(),
    "lagrange, floored weights": FlowBPLagrange(tau=0.01, nesting=0.7),
    "lagrange, every velocity": FlowBPLagrange(nodes=6, active=6, later_gain=1.0, rescale=0.0),
    "lagrange, two nodes": FlowBPLagrange(nodes=2, active=1, rescale=1.0),
    "full backpropagation": FullBackprop(),
    "full backpropagation, discounted": FullBackprop(nesting=0.5),
}


def reference_terms(
    method: DirectGradient, problem: MiniProblem, slot: int
) -> Iterator[tuple[Tensor, Tensor | float]]:
    """The images one sample's rewards are taken on, with their weights, in one graph."""
    grid, prompts = problem.grid(problem.steps), problem.prompts(0, [slot])
    plan = method.plan(grid, problem.choices(0, slot, "plan"))
    field, times = problem.field(prompts), grid.sigmas

    def v(x: Tensor, t: float) -> Tensor:
        return field(x, torch.full((1,), t, dtype=x.dtype))

    start = problem.noise(0, [slot], "initial")
    path = equations.euler_path(v, start, times)
    if isinstance(method, LeapAlign):
        departures = [leap.start for leap in plan.leaps]
        leapt = equations.leap_align(
            v, path, times, departures, method.nesting, nested_only=method.nested_only
        )
        d_j = leapt.distances[:-1] if method.weighting in ("both", "joint") else []
        d_0 = leapt.distances[-1:] if method.weighting in ("both", "image") else []
        weight = equations.similarity_weight(d_j, d_0, method.tau)
        yield leapt.image if method.reward_on == "endpoint" else leapt.prediction, weight
    elif isinstance(method, DRTune):
        stop, training = max(plan.leaps[0].weight), set(plan.leaps[0].gain)
        yield equations.drtune(v, start, times, stop, training), 1.0
    elif isinstance(method, FlowBPSparse | FlowBPLagrange | FullBackprop):
        yield flowbp_term(method, plan, v, path, times)
    elif isinstance(method, ReFL):
        yield equations.refl(v, path, times, plan.leaps[0].start), 1.0
    else:
        noises = [problem.noise(0, [slot], "copy", n + 1) for n in range(plan.copies)]
        for image in equations.draft_lv(v, path, times, noises):
            yield image, 1.0


def flowbp_term(
    method: FlowBPSparse | FlowBPLagrange | FullBackprop,
    plan: Plan,
    v: equations.Field,
    path: list[Tensor],
    times: Sequence[float],
) -> tuple[Tensor, Tensor | float]:
    """FlowBP's surrogate with the steps that the plan drew, or the whole path in one graph."""
    if isinstance(method, FullBackprop) and method.nesting == 1.0:
        return equations.whole_path(v, path[0], times), 1.0
    drawn = [(leap.start, leap.stop, leap.active) for leap in plan.leaps]
    if isinstance(method, FullBackprop):
        legs = [(i, i + 1, equations.euler_weights(times, i, i + 1), {i: 1.0}) for i, _, _ in drawn]
        return equations.flowbp(v, path, times, legs, method.nesting).image, 1.0
    if isinstance(method, FlowBPSparse):
        whole = equations.euler_weights(times, 0, len(path) - 1)
        active = [i for _, _, chosen in drawn for i in chosen]
        factor = equations.rescale_factor(whole, active, method.rescale)
        legs = [
            (
                start,
                stop,
                equations.euler_weights(times, start, stop),
                dict.fromkeys(chosen, factor),
            )
            for start, stop, chosen in drawn
        ]
        return equations.flowbp(v, path, times, legs, getattr(method, "nesting", 0.0)).image, 1.0
    legs = []
    for leap in plan.leaps:
        weights = equations.lagrange_weights(times, list(leap.weight), leap.start, leap.stop)
        factor = equations.rescale_factor(weights, leap.active, method.rescale)
        gains = {i: factor * (1.0 if i == leap.start else method.later_gain) for i in leap.active}
        legs.append((leap.start, leap.stop, weights, gains))
    leapt = equations.flowbp(v, path, times, legs, method.nesting)
    d_j, d_0 = leapt.distances
    return leapt.image, equations.similarity_weight([d_j], [d_0], method.tau)


def reference_gradient(method: DirectGradient, problem: MiniProblem) -> Tensor:
    """The gradient of the mean over samples of w max(0, λ - r) (Eq. 11-13), by autograd."""

    def backward() -> None:
        for slot in range(problem.batch):
            for image, weight in reference_terms(method, problem, slot):
                reward = problem.score(image, problem.prompts(0, [slot]))
                loss = weight * torch.relu(problem.threshold - reward).sum()
                (loss / problem.batch).backward()

    return gradient(problem.network, backward)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_sweep_equals_autograd_on_an_analytic_field(method: DirectGradient) -> None:
    problem = AnalyticProblem(batch=9)
    swept, _ = iteration_of(method, problem)
    assert (
        relative_error(swept, reference_gradient(method, problem))
        < tolerances.SWEEP_EQUALS_AUTOGRAD
    )


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_sweep_equals_autograd_on_a_flux_transformer(method: DirectGradient, flux64: Flux) -> None:
    problem = FluxProblem(flux64, batch=3)
    swept, _ = iteration_of(method, problem)
    assert (
        relative_error(swept, reference_gradient(method, problem))
        < tolerances.SWEEP_EQUALS_AUTOGRAD
    )


def test_samples_above_the_threshold_carry_no_gradient() -> None:
    problem, method = AnalyticProblem(batch=9), LeapAlign()
    _, [report] = iteration_of(method, problem)
    problem.threshold = sorted(report.rewards)[4]
    swept, _ = iteration_of(method, problem)
    assert (
        relative_error(swept, reference_gradient(method, problem))
        < tolerances.SWEEP_EQUALS_AUTOGRAD
    )
    problem.threshold = min(report.rewards)
    swept, [report] = iteration_of(method, problem)
    assert report.loss == 0.0
    assert not swept.any()


def test_one_batch_may_mix_methods_of_equally_many_leaps() -> None:
    problem = AnalyticProblem(batch=4)
    grid = problem.grid(problem.steps)
    rng = problem.choices
    mixed = [
        DRTune(active=3, last=5).plan(grid, rng(0, 0, "plan")),
        ReFL(last=4).plan(grid, rng(0, 1, "plan")),
        Plan((jump(grid, 1, grid.end),)),
        DRTune(active=2, last=1).plan(grid, rng(0, 3, "plan")),
    ]
    noise = problem.noise(0, range(4), "initial")
    cotangent = problem.noise(0, range(4), "cotangent")
    velocity = problem.field(problem.prompts(0, range(4)))
    record = rollout(velocity, noise, grid)
    together = gradient(problem.network, lambda: sweep(velocity, record, mixed, cotangent))

    def apart() -> None:
        for b, plan in enumerate(mixed):
            alone = velocity[torch.tensor([b])]
            row = slice(b, b + 1)
            sweep(alone, rollout(alone, noise[row], grid), [plan], cotangent[row])

    error = relative_error(together, gradient(problem.network, apart))
    assert error < tolerances.SWEEP_EQUALS_AUTOGRAD


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_sweep_equals_equation_10_with_explicit_jacobians(alpha: float) -> None:
    field, grid = AnalyticField(batch=1, channels=2), Grid.shifted(5, 3.0)
    k_index, j_index = 1, 3
    noise = torch.tensor([[[0.7, -1.2]]], dtype=torch.float64)
    cotangent = torch.tensor([[[0.4, 0.9]]], dtype=torch.float64)
    record = rollout(field, noise, grid)
    plan = Plan((jump(grid, k_index, j_index), jump(grid, j_index, grid.end)), nesting=alpha)
    swept = gradient(field, lambda: sweep(field, record, [plan], cotangent))

    names = [name for name, _ in field.named_parameters()]
    weights = tuple(value.detach() for value in field.parameters())

    def velocity_at(index: int) -> Callable[..., Tensor]:
        time = torch.tensor([grid.sigmas[index]], dtype=torch.float64)
        return lambda x, *theta: functional_call(
            field, dict(zip(names, theta, strict=True)), (x, time)
        ).flatten()

    def by_theta(index: int) -> Tensor:
        x = record.states[index]
        parts = jacobian(lambda *theta: velocity_at(index)(x, *theta), weights)
        return torch.cat([part.flatten(1) for part in parts], dim=1)

    k, j = grid.sigmas[k_index], grid.sigmas[j_index]
    dv_k, dv_j = by_theta(k_index), by_theta(j_index)
    dv_dx = jacobian(lambda x: velocity_at(j_index)(x, *weights), record.states[j_index]).flatten(1)
    dx_0 = -j * dv_j - (k - j) * dv_k + alpha * j * (k - j) * dv_dx @ dv_k
    error = relative_error(swept, cotangent.flatten() @ dx_0)
    assert error < tolerances.SWEEP_EQUALS_AUTOGRAD


def test_gradients_are_reduced_once_before_the_last_replay() -> None:
    for method in METHODS.values():
        problem = AnalyticProblem(batch=5, micro_batch=2)
        iteration_of(method, problem)
        assert problem.synchronised == 1


def test_evaluations_are_counted_in_forward_equivalents() -> None:
    _, [leap] = iteration_of(LeapAlign(), AnalyticProblem(batch=3))
    assert (leap.forwards, leap.replays, leap.images) == (3 * 6, 3 * 2, 3)
    assert leap.evaluations == 3 * 6 + 3 * 3 * 2
    _, [draft] = iteration_of(DRaFTLV(copies=2), AnalyticProblem(batch=3))
    assert (draft.forwards, draft.replays, draft.images) == (3 * (6 + 2), 3 * 3, 3)
    _, [refl] = iteration_of(ReFL(last=1), AnalyticProblem(batch=3))
    assert (refl.forwards, refl.replays) == (3 * 6, 3)


def test_a_stopped_rollout_has_no_distance_at_the_image() -> None:
    _, [report] = iteration_of(ReFL(last=3), AnalyticProblem(batch=3))
    assert all(distance != distance for distance in report.image_distances)
    assert report.joint_distances == []
