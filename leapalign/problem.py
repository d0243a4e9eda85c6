"""What every method optimises over in training: base model, reward, prompts, random streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leapalign.backbones.backbone import Backbone
from leapalign.data import Sampler
from leapalign.grid import Grid
from leapalign.parallel import Processes
from leapalign.rewards import Reward
from leapalign.rollout import Velocity
from leapalign.samplewise import in_parts
from leapalign.settings import Training, plain_name
from leapalign.sharding import Sharding
from leapalign.steps import Latents
from leapalign.streams import choices, stream, stream_seed


@dataclass
class TrainingProblem:
    """The `leapalign.method.Problem` of a training run.

    Args:
        backbone: the base model, its transformer sharded if there are several processes.
        reward: the differentiable reward.
        sampler: the training prompts.
        budget: the settings all methods share.
        seed: root of every random stream.
        processes: who shares the work.
        sharding: when gradients are reduced.
        image_batch: images decoded and scored at once; by default all of a micro-batch.
        beside: further rewards, for methods that are defined for several.
    """

    backbone: Backbone
    reward: Reward
    sampler: Sampler
    budget: Training
    seed: int
    processes: Processes
    sharding: Sharding
    image_batch: int | None = None
    beside: Sequence[Reward] = ()

    @property
    def steps(self) -> int:
        """T, the rollout's steps."""
        return self.budget.steps

    @property
    def batch(self) -> int:
        """Images per iteration, over all devices."""
        return self.budget.batch

    @property
    def threshold(self) -> float:
        """λ (Eq. 11), in the reward's unit."""
        return self.budget.reward.threshold

    @property
    def passes(self) -> int:
        """Transformer passes that one evaluation of the velocity takes."""
        return self.backbone.passes(self.budget.guidance)

    @property
    def rewards_beside(self) -> tuple[str, ...]:
        """The names of the further rewards."""
        return tuple(map(plain_name, self.budget.rewards_beside))

    def grid(self, steps: int) -> Grid:
        """The base model's own time grid."""
        return self.backbone.grid(steps)

    def slots(self, count: int) -> range:
        """This process' share of an update's `count` images.

        Raises:
            UserError: they cannot be shared out evenly.
        """
        return self.processes.share(count)

    def prompts(self, iteration: int, slots: Sequence[int]) -> list[str]:
        """The prompts drawn for these slots."""
        return [self.sampler.draw(iteration, slot).text for slot in slots]

    def noise(self, iteration: int, slots: Sequence[int], *name: str | int) -> Latents:
        """Standard normal packed latents, one per slot."""
        return self.backbone.latents([stream(self.seed, iteration, slot, *name) for slot in slots])

    def noise_seed(self, iteration: int, slot: int, *name: str | int) -> int:
        """The seed of noise that is drawn where it is used (`leapalign.kernels.philox`)."""
        return stream_seed(self.seed, iteration, slot, *name)

    def choices(self, iteration: int, slot: int, name: str) -> np.random.Generator:
        """A generator for a slot's discrete choices."""
        return choices(self.seed, iteration, slot, name)

    def field(self, prompts: Sequence[str]) -> Velocity:
        """The velocity field under these prompts."""
        return self.backbone.field(prompts, self.budget.guidance)

    def score(self, x: Latents, prompts: Sequence[str]) -> Float[Tensor, " batch"]:
        """The reward of the decoded images in its unit, in float32, differentiable in x.

        Decoder and reward limit the batch at 720 pixels, not the transformer, so that they may take
        `image_batch` images at once, forward and backward.

        Raises:
            UserError: a score is not finite, or not in the reward's range.
        """
        if self.image_batch is None:
            return self._score(x, prompts)
        return in_parts(lambda rows, part: self._score(rows, prompts[part]), x, self.image_batch)

    def _score(self, x: Latents, prompts: Sequence[str]) -> Float[Tensor, " batch"]:
        return self.reward.score(self.backbone.decode(x).float(), prompts) / self.reward.unit

    @torch.no_grad()
    def scores(self, x: Latents, prompts: Sequence[str]) -> Float[Tensor, "batch rewards"]:
        """All rewards of the decoded images, each in its unit, that of `score` first.

        Raises:
            UserError: a score is not finite, or not in its reward's range.
        """
        size = self.image_batch or len(x)
        return in_parts(lambda rows, part: self._scores(rows, prompts[part]), x, size)

    def _scores(self, x: Latents, prompts: Sequence[str]) -> Float[Tensor, "batch rewards"]:
        images, rewards = self.backbone.decode(x).float(), (self.reward, *self.beside)
        each = [reward.score(images, prompts) / reward.unit for reward in rewards]
        return torch.stack(each, dim=-1)

    def micro_batches(self, count: int) -> Iterator[slice]:
        """Slices of at most `budget.micro_batch` that cover `count` samples."""
        size = int(self.budget.micro_batch)  # `auto` has become a number
        return (slice(start, min(start + size, count)) for start in range(0, count, size))

    def gather(self, values: Tensor) -> Tensor:
        """The values of all processes, joined along the first dimension in their order."""
        return self.processes.gather(values)

    def keep_pace(self, passes: int, idle: Callable[[], object]) -> None:
        """Make idle passes until only as many are to come as in any other process.

        All processes gather a block's weights at once, so that all must pass through the blocks
        equally often, whatever their samples' plans.
        """
        for _ in range(max(self.processes.collect(passes)) - passes):
            idle()

    def sync_gradients(self) -> None:
        """Let the next backward reduce the gradients over the processes, if there are several."""
        self.sharding.reduce_next()
