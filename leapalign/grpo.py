"""Policy-gradient methods: GRPO over the stochastic steps of a rollout."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import override

from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.method import Method, Problem, Progress
from leapalign.policy import PolicyUpdate, check_faithful, group_advantages, replay_policy
from leapalign.rollout import (
    Exploration,
    Rollout,
    Solver,
    branches,
    euler_solver,
    extend,
    idle,
    passes,
    rollout,
)
from leapalign.steps import Latents, StochasticStep

# A prompt's slot, and which member of its group.
Image = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Path:
    """One iteration's way from noise to image.

    Args:
        grid: its time grid.
        stochastic: the steps that follow the method's rule; Euler steps lead up to them.
        solver: the steps after them.
    """

    grid: Grid
    stochastic: range
    solver: Solver = euler_solver


@dataclass(frozen=True, slots=True)
class _Shared:
    """The roots' paths up to the first stochastic step; records of several, in the roots' order."""

    roots: Sequence[Image]
    records: Sequence[Rollout]

    @property
    def evaluations(self) -> int:
        """What they cost."""
        return sum(record.evaluations for record in self.records)

    def branches(self, roots: Sequence[Image]) -> Rollout:
        """Copies of these roots' paths, to be continued each on its own."""
        return branches(self.records, [self.roots.index(root) for root in roots])


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A micro-batch's images, its rollout with log-densities, and all its rewards."""

    images: Sequence[Image]
    prompts: list[str]
    record: Rollout
    rewards: Float[Tensor, "batch rewards"]


@dataclass(frozen=True, kw_only=True)
class PolicyGradient(Method):
    """GRPO over a rollout's stochastic steps: images of one prompt, compared with each other.

    Where a group starts from one noise (`shared_noise`), its images share the path up to the first
    stochastic step; that much is computed once per prompt.

    Args:
        group: G, images per prompt.
        updates_per_iteration: optimiser updates an iteration's images are split over, in order.
        eta: noise level η of the stochastic steps.
        clip: ε of the clipped ratio.
        advantage_clip: bound on the advantages.
        shift: resolution shift of the training grid; some code bases train on 3, whatever the base
            model's own. None is the base model's own grid.
        quantise_times: tell the model ⌊1000 σ⌋ / 1000, as the official code does.
    """

    group: int = 12
    updates_per_iteration: int = 4
    eta: float = 0.3
    clip: float = 1e-4
    advantage_clip: float = 5.0
    shift: float | None = 3.0
    quantise_times: bool = True

    repeats_rollout: ClassVar[bool] = True
    rewards_prediction: ClassVar[bool] = False
    shared_noise: ClassVar[bool] = True

    @override
    def check(self, steps: int, batch: int) -> None:
        """Refuse groups that cannot be compared or do not fill the batch."""
        if self.group < 2:
            raise UserError(
                f"group: {self.group} images per prompt cannot be compared with each other; "
                "set it to 2 or more"
            )
        if batch % self.group:
            raise UserError(
                f"batch: {batch} images are not a whole number of groups of {self.group}; "
                "change batch or group"
            )
        if self.updates_per_iteration < 1 or batch % self.updates_per_iteration:
            raise UserError(
                f"updates_per_iteration: {batch} images cannot be split evenly over "
                f"{self.updates_per_iteration} updates; change either"
            )
        if self.eta <= 0.0:
            raise UserError(f"eta: steps of noise level {self.eta} have no density; set it above 0")

    @override
    def images_per_update(self, batch: int) -> int:
        """One of the parts that the batch is split into."""
        return batch // self.updates_per_iteration

    @override
    def grid(self, problem: Problem) -> Grid:
        """The code base's grid, the model's time rounded where theirs is."""
        if self.shift is None:
            return self.told(problem.grid(problem.steps))
        return self.told(Grid.shifted(problem.steps, self.shift))

    def told(self, grid: Grid) -> Grid:
        """The grid with the times that the model is told."""
        return grid.quantised() if self.quantise_times else grid

    @abstractmethod
    def rule(self, grid: Grid) -> StochasticStep:
        """The stochastic step."""

    @abstractmethod
    def path(self, grid: Grid, iteration: int, rng: np.random.Generator) -> Path:
        """Where an iteration's rollouts are stochastic, and how they go on afterwards."""

    def trained(
        self,
        stochastic: range,
        rng: np.random.Generator,  # noqa: ARG002 - a method may draw them
    ) -> list[int]:
        """The stochastic steps one image trains, in replay order: all of them."""
        return list(stochastic)

    def advantages(
        self, rewards: Float[Tensor, "prompts group rewards"]
    ) -> Float[Tensor, "prompts group"]:
        """Each image's advantage over its group; a row of NaN is a group that teaches nothing."""
        return group_advantages(rewards[..., 0], self.advantage_clip)

    @override
    def prompts_per_iteration(self, batch: int) -> int:
        """One for each group of images."""
        return batch // self.group

    @override
    def updates(self, problem: Problem, iteration: int) -> Iterator[Progress]:
        """Record all groups, compare, then replay; `updates_per_iteration` updates.

        Raises:
            UserError: the replay does not repeat the rollout, though no weight has changed.
        """
        slots = range(problem.batch // self.group)
        images = [(slot, member) for slot in slots for member in range(self.group)]
        share = self.images_per_update(problem.batch)
        shares = [images[start : start + share] for start in range(0, len(images), share)]
        # Processes share each update's images, so that it has the same ones for any number of them.
        own = [[part[i] for i in problem.slots(share)] for part in shares]
        shared = self._shared(problem, iteration, [image for part in own for image in part])
        # Recorded in the micro-batches that the replay will use: other shapes may choose other
        # kernels, and the ratio would differ from 1 before any update.
        parts = [
            [
                self._record(problem, iteration, part[rows], shared)
                for rows in problem.micro_batches(len(part))
            ]
            for part in own
        ]
        rewards = [problem.gather(torch.cat([chunk.rewards for chunk in part])) for part in parts]
        table = self.advantages(torch.cat(rewards).unflatten(0, (-1, self.group)))
        advantage = dict(zip(images, table.flatten().tolist(), strict=True))
        skipped = int(table.isnan().all(dim=1).sum())
        updated = False
        for n, part in enumerate(parts):
            first, *beside = torch.cat([chunk.rewards for chunk in part]).T.tolist()
            progress = Progress(
                rewards=first,
                rewards_beside=dict(zip(problem.rewards_beside, beside, strict=True)),
                forwards=sum(chunk.record.evaluations for chunk in part),
                images=sum(len(chunk.images) for chunk in part),
                skipped_groups=0,
            )
            if n == 0:
                progress.forwards += shared.evaluations
                progress.skipped_groups = skipped
            deviation = self._replay(problem, iteration, part, advantage, progress)
            if not updated:
                check_faithful(deviation, iteration)
            updated = updated or progress.trains
            yield progress

    def _path(self, problem: Problem, iteration: int) -> Path:
        """The iteration's path, the same for all prompts and processes."""
        rng = problem.choices(iteration, 0, "path")
        return self.path(self.grid(problem), iteration, rng)

    def _root(self, image: Image) -> Image:
        """The image from whose noise this one starts: its group's first, or itself."""
        slot, member = image
        return (slot, 0 if self.shared_noise else member)

    def _shared(self, problem: Problem, iteration: int, images: Sequence[Image]) -> _Shared:
        """The paths of these images' roots from their noise to the first stochastic step."""
        path, roots = self._path(problem, iteration), list(dict.fromkeys(map(self._root, images)))
        parts = [roots[part] for part in problem.micro_batches(len(roots))]
        starts = [
            (
                problem.field(problem.prompts(iteration, [slot for slot, _ in part])),
                torch.cat([_initial_noise(problem, iteration, image) for image in part]),
            )
            for part in parts
        ]
        horizon = path.stochastic.start - 1
        # A process may hold the beginning of one more group than another.
        made = len(parts) * passes(path.grid, horizon)
        problem.keep_pace(made, lambda: idle(*starts[0], path.grid))
        return _Shared(roots, [rollout(*start, path.grid, horizon=horizon) for start in starts])

    def _record(
        self, problem: Problem, iteration: int, images: Sequence[Image], shared: _Shared
    ) -> _Recorded:
        """Roll out a micro-batch from where its images part from their groups, and score it."""
        path = self._path(problem, iteration)
        prompts = problem.prompts(iteration, [slot for slot, _ in images])

        def seeds(step: int) -> Int[Tensor, " batch"]:
            of_each = [
                problem.noise_seed(iteration, slot, "step", step, member) for slot, member in images
            ]
            return torch.tensor(of_each)

        record = extend(
            shared.branches([self._root(image) for image in images]),
            problem.field(prompts),
            horizon=path.grid.end - 1 if self.rewards_prediction else None,
            explore=Exploration(self.rule(path.grid), path.stochastic, seeds),
            solver=path.solver,
        )
        last = path.grid.end - 1
        image = record.prediction(last) if self.rewards_prediction else record.states[-1]
        return _Recorded(images, prompts, record, problem.scores(image, prompts))

    def _replay(
        self,
        problem: Problem,
        iteration: int,
        part: Sequence[_Recorded],
        advantage: Mapping[Image, float],
        progress: Progress,
    ) -> float:
        """Accumulate an update's gradient over its micro-batches, but for groups without spread.

        Returns:
            The largest |ρ - 1|.
        """
        images = sum(len(chunk.images) for chunk in part)
        teaches = torch.tensor(
            [any(np.isfinite(advantage[image]) for image in chunk.images) for chunk in part],
            device=part[0].rewards.device,
        )
        # A micro-batch that another process replays is replayed here too, if with no weight: the
        # processes keep pace.
        anywhere = problem.gather(teaches).view(-1, len(part)).any(dim=0)
        kept = [chunk for chunk, keep in zip(part, anywhere.tolist(), strict=True) if keep]
        progress.trains = bool(kept)
        clipped, deviation = 0, 0.0
        for chunk in kept:
            grid = chunk.record.grid
            steps = [self._trained(problem, iteration, image) for image in chunk.images]
            # A skipped image stays in the batch with advantage 0, so that shapes and kernels are
            # the rollout's own.
            advantages = chunk.rewards.new_tensor([advantage[image] for image in chunk.images])
            replayed = replay_policy(
                problem.field(chunk.prompts),
                chunk.record,
                steps,
                advantages.nan_to_num(0.0),
                PolicyUpdate(self.rule(grid), self.clip, 1.0 / (images * len(steps[0]))),
                problem.sync_gradients if chunk is kept[-1] else None,
            )
            progress.loss += replayed.loss
            progress.replays += replayed.terms
            clipped += replayed.clipped
            deviation = max(deviation, replayed.deviation)
        progress.clip_fraction = clipped / progress.replays if kept else None
        return deviation

    def _trained(self, problem: Problem, iteration: int, image: Image) -> list[int]:
        """The steps this image trains."""
        slot, member = image
        rng = problem.choices(iteration, slot, f"trained steps {member}")
        return self.trained(self._path(problem, iteration).stochastic, rng)


def _initial_noise(problem: Problem, iteration: int, image: Image) -> Latents:
    """Where an image starts; a group's first image where all other methods' do."""
    slot, member = image
    return problem.noise(iteration, [slot], "initial", *([member] if member else []))
