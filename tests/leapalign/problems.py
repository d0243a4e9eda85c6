"""Problems in miniature: the same protocol as training, small enough to check against theory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from leapalign.grid import Grid
from leapalign.kernels.philox import normal
from leapalign.method import Method, Progress
from leapalign.rollout import Velocity
from leapalign.streams import choices, stream, stream_seed
from tests.fields import AnalyticField

if TYPE_CHECKING:
    from leapalign.backbones.flux import Flux

PROMPTS = ["a red circle", "two blue squares", "a green star left of a pink heart"]


class MiniProblem(ABC):
    """A `leapalign.method.Problem` whose reward is the nearness to a random image.

    Args:
        steps: T.
        batch: images per iteration.
        micro_batch: images per pass; all of them if not given.
        seed: root of every stream.
    """

    def __init__(
        self, *, steps: int = 6, batch: int = 4, micro_batch: int | None = None, seed: int = 0
    ) -> None:
        self.steps, self.batch, self.seed = steps, batch, seed
        self.micro_batch = micro_batch or batch
        self.threshold = 0.0
        self.synchronised = self.announced = 0

    network: nn.Module

    @abstractmethod
    def field(self, prompts: Sequence[str]) -> Velocity: ...

    @abstractmethod
    def noise(self, iteration: int, slots: Sequence[int], *name: str | int) -> Tensor: ...

    def grid(self, steps: int) -> Grid:
        return Grid.shifted(steps, 2.0)

    def slots(self, count: int) -> range:
        return range(count)

    def prompts(self, iteration: int, slots: Sequence[int]) -> list[str]:
        return [PROMPTS[(iteration + slot) % len(PROMPTS)] for slot in slots]

    def noise_seed(self, iteration: int, slot: int, *name: str | int) -> int:
        return stream_seed(self.seed, iteration, slot, *name)

    def step_noise(self, iteration: int, slot: int, step: int, group: int) -> Tensor:
        """The noise of a stochastic step, one row for each of a group's members."""
        names = [(slot, "step", step, member) for member in range(group)]
        seeds = torch.tensor([self.noise_seed(iteration, *name) for name in names])
        like = self.noise(iteration, [slot], "initial")
        return normal(seeds, like.numel()).view(group, *like.shape[1:])

    def choices(self, iteration: int, slot: int, name: str) -> np.random.Generator:
        return choices(self.seed, iteration, slot, name)

    def score(self, x: Tensor, prompts: Sequence[str]) -> Tensor:
        shape = x.shape[1:]
        wanted = [torch.randn(shape, generator=stream(0, text), dtype=x.dtype) for text in prompts]
        return -(x - torch.stack(wanted)).square().mean(dim=(1, 2))

    rewards_beside: tuple[str, ...] = ()

    def scores(self, x: Tensor, prompts: Sequence[str]) -> Tensor:
        with torch.no_grad():
            return self.score(x, prompts).unsqueeze(-1)

    def micro_batches(self, count: int) -> Iterator[slice]:
        size = self.micro_batch
        return (slice(start, min(start + size, count)) for start in range(0, count, size))

    def gather(self, values: Tensor) -> Tensor:
        return values

    def keep_pace(self, passes: int, idle: Callable[[], object]) -> None:  # noqa: ARG002
        self.announced = passes

    def sync_gradients(self) -> None:
        self.synchronised += 1


class AnalyticProblem(MiniProblem):
    """Over the analytic field, in float64."""

    def __init__(self, **budget: int) -> None:
        super().__init__(**budget)
        self.network = AnalyticField(len(PROMPTS))

    def field(self, prompts: Sequence[str]) -> Velocity:
        return self.network[torch.tensor([PROMPTS.index(text) for text in prompts])]

    def noise(self, iteration: int, slots: Sequence[int], *name: str | int) -> Tensor:
        streams = [stream(self.seed, iteration, slot, *name) for slot in slots]
        rows = [torch.randn(3, 4, generator=source, dtype=torch.float64) for source in streams]
        return torch.stack(rows)


class FluxProblem(MiniProblem):
    """Over a FLUX transformer, in its own precision."""

    def __init__(self, flux: Flux, **budget: int) -> None:
        super().__init__(**budget)
        self.flux, self.network = flux, flux.transformer

    def field(self, prompts: Sequence[str]) -> Velocity:
        return self.flux.field(prompts, guidance=3.5)

    def grid(self, steps: int) -> Grid:
        return self.flux.grid(steps)

    def noise(self, iteration: int, slots: Sequence[int], *name: str | int) -> Tensor:
        return self.flux.latents([stream(self.seed, iteration, slot, *name) for slot in slots])


def gradient(network: nn.Module, run: Callable[[], object]) -> Tensor:
    """The gradient that `run` accumulates on the network's weights, as one vector."""
    network.zero_grad(set_to_none=True)
    run()
    parts = [
        (torch.zeros_like(weight) if weight.grad is None else weight.grad).flatten()
        for weight in network.parameters()
    ]
    network.zero_grad(set_to_none=True)
    return torch.cat(parts)


def iteration_of(
    method: Method, problem: MiniProblem, iteration: int = 0
) -> tuple[Tensor, list[Progress]]:
    """The gradient one iteration accumulates, all updates together, and what it reports."""
    reports: list[Progress] = []
    total = gradient(problem.network, lambda: reports.extend(method.updates(problem, iteration)))
    return total, reports


def relative_error(value: Tensor, reference: Tensor) -> float:
    """‖value - reference‖ / ‖reference‖."""
    return float((value - reference).norm() / reference.norm())
