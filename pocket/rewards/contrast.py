"""What the two dual encoders (HPSv2.1 and PickScore) learn from a batch of labelled images."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from pocket.rewards.data import Examples, wrong_rows
from pocket.rewards.facts import prompt_table
from pocket.rewards.grid import lesson
from pocket.world import TAGS

# CLIP's largest logit scale; at a cosine of CENTER the image fulfils the prompt or not, evenly.
SCALE, CENTER = 100.0, 0.25
# Numbers and relations are the hardest to see.
ATTENTION = {"counting": 3.0, "position": 3.0}
RIVALS = 4
LEAST_GAP = 0.02


class Contrast:
    """Sigmoid losses of images against prompts, and Bradley-Terry losses of pairs that differ."""

    def __init__(self, student: nn.Module, texts: Float[Tensor, "prompts dim"]) -> None:
        """Compare the student's image embeddings with these embeddings of all prompts."""
        self.student = student
        self.texts = texts
        tag = torch.from_numpy(prompt_table().tag)
        attention = torch.tensor([ATTENTION.get(name, 1.0) for name in TAGS])
        self.attention = (attention / torch.bincount(tag))[tag]

    def __call__(
        self, batch: Examples, pixels: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """The loss of the preferences and that of the grid."""
        features, answers = self.student.look(pixels)
        logits = SCALE * (features @ self.texts.T - CENTER)
        target = batch.target()
        weight = torch.from_numpy(batch.certain) * self.attention
        own = torch.from_numpy(batch.prompt)
        bad = torch.from_numpy(wrong_rows(batch.prompt, rng))
        loss = absolute(logits, target, weight, own, bad) + ordering(logits, target, own, bad)
        return loss, lesson(answers, batch.cells)


def absolute(logits: Tensor, target: Tensor, weight: Tensor, own: Tensor, bad: Tensor) -> Tensor:
    """Cross entropy with the targets; fulfilled, partly and not fulfilled prompts count alike."""
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    full, some = weight * (target > 0.5), weight * ((target > 0) & (target <= 0.5))
    groups = (full, some, weight)
    balanced = sum((loss * group).sum() / group.sum().clamp(min=1e-6) for group in groups)
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
