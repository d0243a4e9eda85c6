"""Direct-gradient methods: a differentiable reward, backpropagated along a Plan per sample."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from leapalign.grid import Grid
from leapalign.method import Method, Problem, Progress
from leapalign.plan import Plan
from leapalign.rollout import Rollout, idle, passes, rollout
from leapalign.steps import Latents
from leapalign.surrogate import (
    connector_distances,
    image_latents,
    renoise,
    schedule,
    similarity_weight,
    sweep,
)


@dataclass(frozen=True, slots=True)
class _Batch:
    """A micro-batch: its samples, and the weight of each of them in the loss."""

    problem: Problem
    iteration: int
    slots: range
    prompts: list[str]
    scale: float


@dataclass(frozen=True, kw_only=True)
class DirectGradient(Method):
    """Backpropagates a differentiable reward along the Plan drawn for each sample.

    Loss per sample: sg(w) · max(0, λ - r) (Eq. 11-13), averaged over the batch; λ is the problem's.
    """

    @abstractmethod
    def plan(self, grid: Grid, rng: np.random.Generator) -> Plan:
        """Draw one sample's plan."""

    @override
    def updates(self, problem: Problem, iteration: int) -> Iterator[Progress]:
        """One update per iteration."""
        progress = Progress()
        slots = problem.slots(problem.batch)
        chunks = [slots[part] for part in problem.micro_batches(len(slots))]
        for chunk in chunks:
            prompts = problem.prompts(iteration, chunk)
            # The mean over this process' samples; processes' gradients are averaged.
            batch = _Batch(problem, iteration, chunk, prompts, 1.0 / len(slots))
            before_last = problem.sync_gradients if chunk == chunks[-1] else None
            self._accumulate(batch, progress, before_last)
        yield progress

    def _accumulate(
        self, batch: _Batch, progress: Progress, before_last: Callable[[], None] | None
    ) -> None:
        """Record a micro-batch, then replay it, and each of its re-noised copies, with gradient."""
        problem, grid = batch.problem, self.grid(batch.problem)
        velocity = problem.field(batch.prompts)
        plans = [
            self.plan(grid, problem.choices(batch.iteration, slot, "plan")) for slot in batch.slots
        ]
        noise = problem.noise(batch.iteration, batch.slots, "initial")
        horizon = [plan.horizon for plan in plans]
        problem.keep_pace(passes(grid, horizon), lambda: idle(velocity, noise, grid))
        record = rollout(velocity, noise, grid, horizon=horizon)
        image = image_latents(record, plans)
        replays, copies = len(schedule(plans)), plans[0].copies
        for copy in range(copies + 1):
            if copy > 0:
                noise = problem.noise(batch.iteration, batch.slots, "copy", copy)
                record = renoise(velocity, record, image, noise)
            distances = connector_distances(record, plans)
            weight = batch.scale * similarity_weight(distances, plans)
            rewards, loss, cotangent = _reward_gradient(batch, record, plans, weight)
            final = before_last if copy == copies else None
            problem.keep_pace(replays, lambda: idle(velocity, image, grid, gradient=True))
            progress.replays += sweep(velocity, record, plans, cotangent, final)
            progress.forwards += record.evaluations
            progress.loss += loss
            if copy == 0:
                progress.images += len(plans)
                progress.rewards += rewards
                progress.joint_distances += distances[:-1].flatten().tolist()
                progress.image_distances += distances[-1].tolist()


def _reward_gradient(
    batch: _Batch, record: Rollout, plans: Sequence[Plan], weight: Tensor
) -> tuple[list[float], float, Latents]:
    """Rewards, loss and dL/dx_image; the decoder's and reward's graph is freed here."""
    x = image_latents(record, plans).requires_grad_()
    rewards = batch.problem.score(x, batch.prompts)
    loss = (weight * torch.relu(batch.problem.threshold - rewards)).sum()
    (cotangent,) = torch.autograd.grad(loss, x)
    return rewards.tolist(), float(loss.detach()), cotangent
