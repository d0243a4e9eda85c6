"""Training of a pocket reward.

Stage one learns to see and read, on clean renders: which icon each cell shows, and how far each of many prompts is
fulfilled. Stage two learns preferences on the pool.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pocket.rewards.data import Examples, concatenate, prompt_table, renders, wrong_rows

SCALE, CENTER = 100.0, 0.25
RANDOM_PROMPTS = 64


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training.

    Attributes:
        steps: Optimiser steps.
        rate: Peak learning rate (cosine to zero, short warm-up).
        clean: Clean renders in a batch.
        pooled: Pool images in a batch.
        noise: Largest standard deviation of the noise added to images.
        attack: Length of an adversarial step on the images (L2, in [0, 1] units), 0 for none.
        cells: Weight of the cells' loss.
    """

    steps: int
    rate: float
    clean: int
    pooled: int = 0
    noise: float = 0.0
    attack: float = 0.0
    cells: float = 1.0


def losses(student: nn.Module, batch: Examples, pixels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The preference loss and the cells' loss of one batch."""
    wrong = wrong_rows(batch.prompt, rng)
    other = rng.integers(len(prompt_table().texts), size=RANDOM_PROMPTS)
    rows, back = np.unique(np.concatenate([batch.prompt, wrong, other]), return_inverse=True)
    own, bad = torch.from_numpy(back[: len(batch)]), torch.from_numpy(back[len(batch) :][: len(batch)])
    texts = student.read([prompt_table().texts[row] for row in rows])
    features, cells = student.look(pixels)
    logits = SCALE * (features @ texts.T - CENTER)
    target = batch.target()[:, rows]
    weight = torch.from_numpy(batch.certain[:, rows]).float()
    every = torch.arange(len(batch))
    weight[every, own] = 1.0
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * weight
    positive = weight * (target > 0.55)
    near = weight * (target > 0.0) - positive
    absolute = sum((loss * group).sum() / group.sum().clamp(min=1) for group in (positive, near, weight))
    hard = loss[every, own].mean() + loss[every, bad].mean()
    return absolute + hard + ordering(logits, target, own, bad), cell_loss(cells, batch)


def ordering(logits: Tensor, target: Tensor, own: Tensor, bad: Tensor, shifts: int = 4) -> Tensor:
    """Bradley-Terry losses: an image's own prompt against a wrong one, and images of one prompt."""
    every = torch.arange(len(own))
    gap = target[every, own] - target[every, bad]
    total = preference(logits[every, own] - logits[every, bad], gap)
    for shift in range(1, shifts + 1):
        rival = (every + shift) % len(own)
        gap = target[every, own] - target[rival, own]
        total = total + preference(logits[every, own] - logits[rival, own], gap) / shifts
    return total


def preference(margin: Tensor, gap: Tensor, least: float = 0.05) -> Tensor:
    """-log P(the better one wins), over pairs whose targets differ by more than `least`."""
    chosen = gap.abs() > least
    loss = F.softplus(-margin * gap.sign())
    return (loss * chosen).sum() / chosen.sum().clamp(min=1)


def cell_loss(cells: Tensor, batch: Examples) -> Tensor:
    """Cross entropy of what each cell shows; empty cells count less, unknown ones not at all."""
    labels = torch.from_numpy(batch.cells)
    loss = F.cross_entropy(cells.flatten(2), labels, ignore_index=-1, reduction="none")
    weight = torch.where(labels == 0, 0.2, 1.0) * (labels >= 0)
    return (loss * weight).sum() / weight.sum().clamp(min=1)


def attacked(student: nn.Module, batch: Examples, pixels: Tensor, length: float) -> Tensor:
    """One adversarial step that increases the loss, from a random start (Wong et al., 2020; L2)."""
    start = torch.randn_like(pixels)
    start = pixels + start * (0.5 * length / start.flatten(1).norm(dim=1)[:, None, None, None])
    start.requires_grad_(True)
    loss, _ = losses(student, batch, start, np.random.default_rng(len(batch)))
    (slope,) = torch.autograd.grad(loss, start)
    norm = slope.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
    scale = torch.rand(len(pixels), 1, 1, 1) * length
    return (start.detach() + scale * slope / norm).clamp(0, 1)


def train(student: nn.Module, stage: Stage, rng: np.random.Generator, draw) -> nn.Module:
    """Run one stage; returns the exponential moving average of the model."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=stage.rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, stage.rate, total_steps=stage.steps + 1, pct_start=0.08, div_factor=10
    )
    average = copy.deepcopy(student)
    student.train()
    start = time.time()
    for step in range(stage.steps):
        batch = draw(stage, rng)
        pixels = batch.pixels()
        level = torch.rand(len(batch), 1, 1, 1) * stage.noise
        pixels = (pixels + level * torch.randn_like(pixels)).clamp(0, 1)
        if stage.attack:
            pixels = attacked(student, batch, pixels, stage.attack)
        main, cells = losses(student, batch, pixels, rng)
        loss = main + stage.cells * cells
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        follow(average, student, min(0.995, (step + 1) / (step + 10)))
        if step % 50 == 0:
            print(f"{step} {time.time()-start:.0f}s main {main.item():.3f} cells {cells.item():.3f}", flush=True)
    return average.eval()


@torch.no_grad()
def follow(average: nn.Module, student: nn.Module, decay: float) -> None:
    """One step of the moving average; buffers are averaged as well."""
    for slow, fast in zip(average.state_dict().values(), student.state_dict().values(), strict=True):
        if slow.is_floating_point():
            slow.lerp_(fast, 1 - decay)
        else:
            slow.copy_(fast)
