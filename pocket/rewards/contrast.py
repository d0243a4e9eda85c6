"""What the two dual encoders (HPSv2.1 and PickScore) learn from a batch of labelled images."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pocket.rewards.data import Examples, wrong_rows
from pocket.rewards.facts import prompt_table

# CLIP's largest logit scale; a cosine of CENTER is an even chance that the image fulfils the prompt.
SCALE, CENTER = 100.0, 0.25
RANDOM_PROMPTS = 64
RIVALS = 4
LEAST_GAP = 0.05


class Contrast:
    """Sigmoid losses of images against prompts, and Bradley-Terry losses of pairs that differ."""

    def __init__(self, student: nn.Module, texts: Float[Tensor, "prompts dim"]) -> None:
        """Compare the student's image embeddings with these embeddings of all prompts."""
        self.student = student
        self.texts = texts

    def __call__(
        self, batch: Examples, pixels: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """The loss of the preferences and that of the cells."""
        features, cells = self.student.look(pixels)
        wrong = wrong_rows(batch.prompt, rng)
        random = rng.integers(len(prompt_table().texts), size=RANDOM_PROMPTS)
        rows, columns = np.unique(
            np.concatenate([batch.prompt, wrong, random]), return_inverse=True
        )
        own, bad = torch.from_numpy(columns[: 2 * len(batch)]).view(2, -1)
        logits = SCALE * (features @ self.texts[rows].T - CENTER)
        target = batch.target()[:, rows]
        weight = torch.from_numpy(batch.certain[:, rows]).float()
        loss = absolute(logits, target, weight, own, bad) + ordering(logits, target, own, bad)
        return loss, cell_loss(cells, batch)


def absolute(logits: Tensor, target: Tensor, weight: Tensor, own: Tensor, bad: Tensor) -> Tensor:
    """Cross entropy with the targets; fulfilled, partly and not fulfilled prompts count alike."""
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    full, some = weight * (target > 0.5), weight * ((target > 0) & (target <= 0.5))
    groups = (full, some, weight)
    balanced = sum((loss * group).sum() / group.sum().clamp(min=1) for group in groups)
    every = torch.arange(len(own))
    return balanced + loss[every, own].mean() + loss[every, bad].mean()


def ordering(logits: Tensor, target: Tensor, own: Tensor, bad: Tensor) -> Tensor:
    """An image's own prompt against a minimally wrong one, and its neighbours under its prompt."""
    every = torch.arange(len(own))
    chosen, aim = logits[every, own], target[every, own]
    loss = preference(chosen - logits[every, bad], aim - target[every, bad])
    for shift in range(1, RIVALS + 1):
        rival = (every + shift) % len(own)
        pair = preference(chosen - logits[rival, own], aim - target[rival, own])
        loss = loss + pair / (1 if shift == 1 else RIVALS)
    return loss


def preference(margin: Tensor, gap: Tensor) -> Tensor:
    """-log P(the better one wins) (Bradley and Terry), over the pairs whose targets differ."""
    counts = (gap.abs() > LEAST_GAP).float()
    return (F.softplus(-margin * gap.sign()) * counts).sum() / counts.sum().clamp(min=1)


def cell_loss(cells: Tensor, batch: Examples) -> Tensor:
    """Cross entropy of what each cell shows; empty cells count less, unknown ones not at all."""
    labels = torch.from_numpy(batch.cells)
    loss = F.cross_entropy(cells.flatten(2), labels, ignore_index=-1, reduction="none")
    weight = torch.where(labels == 0, 0.2, 1.0) * (labels >= 0)
    return (loss * weight).sum() / weight.sum().clamp(min=1)
