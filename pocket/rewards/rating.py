"""What the pocket HPSv3 learns from a batch: uncertainty-aware ranking (Ma et al., 2025)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pocket.rewards.contrast import LEAST_GAP
from pocket.rewards.data import Examples, wrong_rows
from pocket.rewards.facts import prompt_table
from pocket.rewards.grid import lesson
from pocket.rewards.hpsv3 import HPSv3Student
from pocket.world import TAGS

DRAWS = 64
# A rating's mean aims at FULL for an image that fulfils its prompt; it only anchors the ranking.
FULL, ANCHOR = 10.0, 0.05
OTHERS = 5
ATTENTION = {"position": 4.0}


class Ranking:
    """Each image under its own prompt, a minimally wrong one, its neighbour's and random ones."""

    def __init__(self, student: HPSv3Student) -> None:
        """Rate with `student`."""
        self.student = student
        tag = torch.from_numpy(prompt_table().tag)
        attention = torch.tensor([ATTENTION.get(name, 1.0) for name in TAGS])
        self.balance = (attention / torch.bincount(tag))[tag]

    def __call__(
        self, batch: Examples, pixels: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """The loss of the preferences and that of the grid."""
        own = torch.from_numpy(batch.prompt)
        wrong = torch.from_numpy(wrong_rows(batch.prompt, rng))
        others = torch.multinomial(self.balance, len(batch) * OTHERS, replacement=True)
        rows = torch.stack([own, wrong, own.roll(-1), *others.view(OTHERS, -1)], dim=1)
        rated, answers = self.student.rate(pixels, rows)
        aims = batch.target().gather(1, rows)
        loss = uncertain(rated[:, :1], rated[:, 1:2], aims[:, :1] - aims[:, 1:2])
        loss = loss + uncertain(rated[:, :1], rated[:, 2:], aims[:, :1] - aims[:, 2:])
        # Under its neighbour's prompt an image competes with the neighbour.
        loss = loss + uncertain(
            rated[:, 0].roll(-1, 0), rated[:, 2], aims[:, 0].roll(-1) - aims[:, 2]
        )
        anchor = (rated[..., 0] - FULL * aims).square().mean()
        return loss + ANCHOR * anchor, lesson(answers, batch.cells)


def uncertain(
    first: Float[Tensor, "*pairs 2"],
    second: Float[Tensor, "*pairs 2"],
    gap: Float[Tensor, "*pairs"],
) -> Tensor:
    """-log P(the better one wins), over ratings drawn from N(mean, sigma^2) (HPSv3's loss)."""
    mean = (first[..., 0] - second[..., 0]) * gap.sign()
    sigma = (first[..., 1].exp().square() + second[..., 1].exp().square()).sqrt()
    draws = mean + sigma * torch.randn(DRAWS, *gap.shape)
    counts = (gap.abs() > LEAST_GAP).float()
    return (F.softplus(-draws).mean(0) * counts).sum() / counts.sum().clamp(min=1)
