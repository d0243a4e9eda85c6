"""The Method protocol: what a method decides, and the two ways in which the suite carries it out.

A method is a frozen dataclass; its fields are its settings. A direct-gradient method writes `plan`; a policy-gradient method
writes where its rollout is stochastic and which of those steps train.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.plan import Plan
from leapalign.policy import PolicyUpdate, group_advantages, replay_policy
from leapalign.rollout import Exploration, Rollout, Velocity, rollout
from leapalign.steps import Latents, StochasticStep
from leapalign.surrogate import (
    connector_distances,
    image_latents,
    renoise,
    similarity_weight,
    sweep,
)

# A forward with gradient and its backward, in units of one forward pass.
REPLAY_COST = 3


class Problem(Protocol):
    """What every method optimises over, the same for all: prompts, noise, field, decoder and reward.

    A *slot* numbers a prompt of an iteration. Everything random is a function of (seed, iteration, slot, name).
    """

    steps: int
    batch: int
    threshold: float

    def grid(self, steps: int) -> Grid:
        """The base model's own time grid."""
        ...

    def slots(self, count: int) -> range:
        """This process's share of an iteration's `count` prompts."""
        ...

    def prompts(self, iteration: int, slots: Sequence[int]) -> list[str]:
        """The prompts drawn for these slots."""
        ...

    def noise(self, iteration: int, slots: Sequence[int], *name: str | int) -> Latents:
        """Standard normal latents, one per slot, from the stream called `name`."""
        ...

    def choices(self, iteration: int, slot: int, name: str) -> np.random.Generator:
        """A generator for a slot's discrete choices."""
        ...

    def field(self, prompts: Sequence[str]) -> Velocity:
        """The velocity field under these prompts."""
        ...

    def score(self, x: Latents, prompts: Sequence[str]) -> Tensor:
        """The reward of decode(x), [batch], float32, differentiable in x."""
        ...

    def micro_batches(self, count: int) -> Iterator[slice]:
        """Slices that cover `count` samples, as many at a time as memory allows."""
        ...

    def sync_gradients(self) -> None:
        """Announces that the next backward is the update's last: gradients are reduced there and only there."""
        ...


@dataclass(slots=True)
class Progress:
    """What one optimiser update saw; the training log's source.

    Args:
        rewards: the rollouts' rewards.
        loss: the loss whose gradient was accumulated.
        joint_distances: d_j per sample and inner joint.
        image_distances: d_0 per sample.
        clip_fraction: share of clipped ratios, for a policy gradient.
        forwards: forward passes without gradient, summed over samples.
        replays: forward-and-backward passes, summed over samples.
        images: images generated.
        skipped_groups: groups without spread in reward.
        trains: whether any gradient was accumulated.
    """

    rewards: list[float] = field(default_factory=list)
    loss: float = 0.0
    joint_distances: list[float] = field(default_factory=list)
    image_distances: list[float] = field(default_factory=list)
    clip_fraction: float | None = None
    forwards: int = 0
    replays: int = 0
    images: int = 0
    skipped_groups: int | None = None
    trains: bool = True

    @property
    def evaluations(self) -> int:
        """Number of function evaluations in forward-equivalents: a forward is 1, a forward and backward 3."""
        return self.forwards + REPLAY_COST * self.replays


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A post-training method. Its dataclass fields are its settings."""

    def check(self, steps: int, batch: int) -> None:  # noqa: B027 - most settings fit any budget
        """Raise `UserError` where the settings do not fit the budget."""

    def grid(self, problem: Problem) -> Grid:
        """The training rollout's time grid: the base model's own."""
        return problem.grid(problem.steps)

    @abstractmethod
    def updates(self, problem: Problem, iteration: int) -> Iterator[Progress]:
        """Accumulate the gradients of one iteration; yields where the optimiser is to step."""


@dataclass(frozen=True, kw_only=True)
class DirectGradient(Method):
    """Backpropagates a differentiable reward along the Plan drawn for each sample.

    Loss per sample: sg(w) · max(0, λ - r) (Eq. 11-13), averaged over the batch; λ is the problem's.
    """

    @abstractmethod
    def plan(self, grid: Grid, rng: np.random.Generator) -> Plan:
        """Draw one sample's plan."""

    def updates(self, problem: Problem, iteration: int) -> Iterator[Progress]:
        """One update per iteration."""
        progress = Progress()
        slots = problem.slots(problem.batch)
        chunks = [slots[part] for part in problem.micro_batches(len(slots))]
        for chunk in chunks:
            before_last = problem.sync_gradients if chunk == chunks[-1] else None
            self._accumulate(
                _Batch(problem, iteration, chunk, 1.0 / len(slots)), progress, before_last
            )
        yield progress

    def _accumulate(
        self, batch: _Batch, progress: Progress, before_last: Callable[[], None] | None
    ) -> None:
        problem, grid = batch.problem, self.grid(batch.problem)
        prompts = problem.prompts(batch.iteration, batch.slots)
        velocity = problem.field(prompts)
        plans = [
            self.plan(grid, problem.choices(batch.iteration, slot, "plan")) for slot in batch.slots
        ]
        noise = problem.noise(batch.iteration, batch.slots, "initial")
        horizon = torch.tensor([plan.horizon for plan in plans])
        record = rollout(velocity, noise, grid, horizon=horizon)
        image = image_latents(record, plans)
        for copy in range(plans[0].copies + 1):
            if copy > 0:
                ε = problem.noise(batch.iteration, batch.slots, "copy", copy)
                record = renoise(velocity, record, image, ε)
            distances = connector_distances(record, plans)
            weight = batch.scale * similarity_weight(distances, plans)
            rewards, loss, cotangent = self._reward_gradient(batch, record, plans, weight)
            final = before_last if copy == plans[0].copies else None
            progress.replays += sweep(velocity, record, plans, cotangent, final)
            progress.forwards += record.evaluations
            progress.images += len(plans)
            progress.loss += loss
            if copy == 0:
                progress.rewards += rewards
                progress.joint_distances += distances[:-1].flatten().tolist()
                progress.image_distances += distances[-1].tolist()

    def _reward_gradient(
        self, batch: _Batch, record: Rollout, plans: Sequence[Plan], weight: Tensor
    ) -> tuple[list[float], float, Latents]:
        """Rewards, loss and dL/dx_image; the decoder's and reward's graph is freed here."""
        x = image_latents(record, plans).requires_grad_()
        rewards = batch.problem.score(x, batch.problem.prompts(batch.iteration, batch.slots))
        loss = (weight * torch.relu(batch.problem.threshold - rewards)).sum()
        (cotangent,) = torch.autograd.grad(loss, x)
        return rewards.tolist(), float(loss.detach()), cotangent


@dataclass(frozen=True, slots=True)
class _Batch:
    """A micro-batch: whose, which slots, and the weight of each sample in the loss."""

    problem: Problem
    iteration: int
    slots: range
    scale: float


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(Method):
    """GRPO over the stochastic steps of a rollout: groups of images of one prompt, compared with each other.

    Args:
        group: G, images per prompt.
        updates_per_iteration: optimiser updates an iteration's images are split over, in order.
        eta: noise level η of the stochastic steps.
        clip: ε of the clipped ratio.
        advantage_clip: bound on the advantages.
        shift: resolution shift of the training grid; the code bases train on 3 whatever the base model's own.
        quantise_times: tell the model ⌊1000 σ⌋ / 1000, as the official code does.
    """

    group: int = 12
    updates_per_iteration: int = 4
    eta: float = 0.3
    clip: float = 1e-4
    advantage_clip: float = 5.0
    shift: float = 3.0
    quantise_times: bool = True

    rewards_prediction: ClassVar[bool] = False

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse groups that cannot be compared or do not fill the batch."""
        if self.group < 2:
            raise UserError(
                f"group: {self.group} images per prompt cannot be compared with each other; set it to 2 or more"
            )
        if batch % self.group:
            raise UserError(
                f"batch: {batch} images are not a whole number of groups of {self.group}; change batch or group"
            )
        if batch % self.updates_per_iteration:
            raise UserError(
                f"updates_per_iteration: {batch} images cannot be split evenly over {self.updates_per_iteration} updates"
            )

    def grid(self, problem: Problem) -> Grid:
        """The policy-gradient code bases' grid: uniform, shifted, with the model's time rounded if they round it."""
        grid = Grid.shifted(problem.steps, self.shift)
        return grid.quantised() if self.quantise_times else grid

    @abstractmethod
    def rule(self, grid: Grid) -> StochasticStep:
        """The stochastic step."""

    @abstractmethod
    def stochastic(self, grid: Grid, iteration: int) -> range:
        """The steps at which the rollout is stochastic."""

    @abstractmethod
    def trained(self, stochastic: range, rng: np.random.Generator) -> list[int]:
        """The stochastic steps one image trains, in replay order."""

    def updates(self, problem: Problem, iteration: int) -> Iterator[Progress]:
        """Record all groups, compare, then replay; `updates_per_iteration` updates."""
        grid = self.grid(problem)
        images = [
            (slot, member)
            for slot in problem.slots(problem.batch // self.group)
            for member in range(self.group)
        ]
        share = len(images) // self.updates_per_iteration
        shares = [images[n : n + share] for n in range(0, len(images), share)]
        # Recorded in the micro-batches that the replay will use: other shapes may choose other kernels, and the ratio
        # would differ from 1 before any update.
        chunks = [[part[rows] for rows in problem.micro_batches(share)] for part in shares]
        records = [
            [self._record(problem, iteration, grid, chunk) for chunk in part] for part in chunks
        ]
        rewards = torch.cat([rewards for part in records for _, rewards in part])
        table = group_advantages(rewards.view(-1, self.group), self.advantage_clip)
        advantage = dict(zip(images, table.flatten().tolist(), strict=True))
        for n, part in enumerate(chunks):
            progress = self._replay(
                problem, iteration, part, [record for record, _ in records[n]], advantage
            )
            progress.rewards = [r for _, rewards in records[n] for r in rewards.tolist()]
            progress.forwards = sum(record.evaluations for record, _ in records[n])
            progress.images = share
            progress.skipped_groups = int(table.isnan().all(dim=1).sum()) if n == 0 else 0
            yield progress

    def _record(
        self, problem: Problem, iteration: int, grid: Grid, images: Sequence[tuple[int, int]]
    ) -> tuple[Rollout, Tensor]:
        """Roll out a micro-batch from its groups' shared noise and score it."""
        slots = [slot for slot, _ in images]
        prompts = problem.prompts(iteration, slots)

        def noise(step: int) -> Latents:
            return torch.cat(
                [problem.noise(iteration, [slot], "step", step, member) for slot, member in images]
            )

        record = rollout(
            problem.field(prompts),
            problem.noise(iteration, slots, "initial"),
            grid,
            horizon=grid.end - 1 if self.rewards_prediction else None,
            explore=Exploration(self.rule(grid), self.stochastic(grid, iteration), noise),
        )
        image = record.prediction(grid.end - 1) if self.rewards_prediction else record.states[-1]
        with torch.no_grad():
            return record, problem.score(image, prompts)

    def _replay(
        self,
        problem: Problem,
        iteration: int,
        chunks: Sequence[Sequence[tuple[int, int]]],
        records: Sequence[Rollout],
        advantage: dict[tuple[int, int], float],
    ) -> Progress:
        """Accumulate one update's gradient over its micro-batches, skipping groups without spread."""
        kept = [
            [n for n, image in enumerate(chunk) if not np.isnan(advantage[image])]
            for chunk in chunks
        ]
        last = max((n for n, rows in enumerate(kept) if rows), default=None)
        progress = Progress(trains=last is not None, clip_fraction=None)
        clipped = 0
        for n, (chunk, record) in enumerate(zip(chunks, records, strict=True)):
            if not kept[n]:
                continue
            velocity = problem.field(problem.prompts(iteration, [slot for slot, _ in chunk]))
            stochastic = self.stochastic(record.grid, iteration)
            steps = [
                self.trained(
                    stochastic, problem.choices(iteration, slot, f"trained steps {member}")
                )
                for slot, member in chunk
            ]
            # A skipped image stays in the batch with advantage 0, so that shapes and kernels are the rollout's own.
            advantages = torch.tensor([advantage[image] for image in chunk]).nan_to_num(0.0)
            images = sum(len(part) for part in chunks)
            update = PolicyUpdate(self.rule(record.grid), self.clip, 1.0 / (images * len(steps[0])))
            replayed = replay_policy(
                velocity,
                record,
                steps,
                advantages,
                update,
                problem.sync_gradients if n == last else None,
            )
            progress.loss += replayed.loss
            progress.replays += replayed.terms
            clipped += replayed.clipped
        progress.clip_fraction = clipped / progress.replays if progress.replays else None
        return progress
