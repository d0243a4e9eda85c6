"""The training loop of the pocket rewards: augmented and attacked batches, averaged weights."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pocket.rewards.data import Examples, Pool, concatenate, renders

log = logging.getLogger(__name__)

EMA = 0.995
LOG_EVERY = 50


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training.

    Attributes:
        steps: Optimiser steps.
        rate: Peak learning rate; a short warm-up, then a cosine to zero.
        clean: Clean renders in a batch.
        pooled: Pool images in a batch.
        noise: Largest standard deviation of the noise added to the images.
        attack: Largest length (L2, images in [0, 1]) of an adversarial step on them; 0 for none.
        grid: Weight of the dense loss of the cells.
        emphasis: A task that half of the clean renders belong to; else all six alike.
    """

    steps: int
    rate: float
    clean: int
    pooled: int = 0
    noise: float = 0.05
    attack: float = 0.0
    grid: float = 1.0
    emphasis: str | None = None

    def draw(self, pool: Pool | None, rng: np.random.Generator) -> Examples:
        """One batch."""
        clean = renders(self.clean, rng, emphasis=self.emphasis)
        return concatenate([clean, pool.draw(self.pooled, rng)]) if pool and self.pooled else clean


class Objective(Protocol):
    """What a batch costs: the loss of the preferences and that of the grid."""

    def __call__(
        self, batch: Examples, pixels: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Compare the images (as augmented) with prompts."""
        ...


def train(
    student: nn.Module,
    objective: Objective,
    stage: Stage,
    pool: Pool | None,
    rng: np.random.Generator,
) -> nn.Module:
    """Run one stage; returns the exponential moving average of the model."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=stage.rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, stage.rate, total_steps=stage.steps + 1, pct_start=0.08, div_factor=10
    )
    average = copy.deepcopy(student)
    start = time.monotonic()
    student.train()
    for step in range(stage.steps):
        batch = stage.draw(pool, rng)
        pixels = noised(batch.pixels(), stage.noise)
        if stage.attack:
            pixels = attacked(pixels, lambda x: objective(batch, x, rng)[0], stage.attack)  # noqa: B023
        preferences, answers = objective(batch, pixels, rng)
        optimizer.zero_grad()
        (preferences + stage.grid * answers).backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        follow(average, student, min(EMA, (step + 1) / (step + 10)))
        if step % LOG_EVERY == 0:
            spent = time.monotonic() - start
            log.info(
                "%5d %4.0f s  %.3f  grid %.3f", step, spent, preferences.item(), answers.item()
            )
    return average.eval()


def noised(pixels: Tensor, largest: float) -> Tensor:
    """Gaussian noise of a random level for each image."""
    level = torch.rand(len(pixels), 1, 1, 1) * largest
    return (pixels + level * torch.randn_like(pixels)).clamp(0, 1)


def attacked(pixels: Tensor, loss: Callable[[Tensor], Tensor], length: float) -> Tensor:
    """One adversarial step from a random start (Wong et al., 2020), here in L2.

    A model trained on such images has gradients that point at what matters in the image.
    """
    start = torch.randn_like(pixels)
    start = (pixels + 0.5 * length * start / norm(start)).requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(start), start)
    step = torch.rand(len(pixels), 1, 1, 1) * length
    return (start.detach() + step * slope / norm(slope)).clamp(0, 1)


def norm(x: Tensor) -> Tensor:
    """The L2 norm of each image, as [n, 1, 1, 1]."""
    return x.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]


@torch.no_grad()
def follow(average: nn.Module, student: nn.Module, decay: float) -> None:
    """One step of the moving average; floating-point buffers are averaged as well."""
    states = zip(average.state_dict().values(), student.state_dict().values(), strict=True)
    for slow, fast in states:
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - decay)
        else:
            slow.copy_(fast)
