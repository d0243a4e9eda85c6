"""What the pocket HPSv3 learns from a batch: uncertainty-aware ranking (Ma et al., 2025)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from pocket.rewards.contrast import LEAST_GAP, cell_loss
from pocket.rewards.data import Examples, wrong_rows
from pocket.rewards.facts import prompt_table
from pocket.rewards.hpsv3 import HPSv3Student

DRAWS = 64
# A rating's mean aims at FULL for an image that fulfils its prompt; it only anchors the ranking.
FULL, ANCHOR = 10.0, 0.02


class Ranking:
    """Each image with its own prompt, a minimally wrong one and its neighbour's."""

    def __init__(self, student: HPSv3Student) -> None:
        """Rate with `student`."""
        self.student = student

    def __call__(
        self, batch: Examples, pixels: Tensor, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """The loss of the preferences and that of the cells."""
        texts = prompt_table().texts
        wrong = wrong_rows(batch.prompt, rng)
        rival = (np.arange(len(batch)) + 1) % len(batch)
        lists = (batch.prompt, wrong, batch.prompt[rival])
        rated, cells = self.student.rate(pixels, [[texts[row] for row in rows] for rows in lists])
        target, every = batch.target(), torch.arange(len(batch))
        own, bad, lent = (target[every, torch.from_numpy(rows)] for rows in lists)
        loss = uncertain(rated[0], rated[1], own - bad)
        # Under the prompt that image i lends from its neighbour, the neighbour's own rating competes.
        loss = loss + uncertain(rated[0][rival], rated[2], own[rival] - lent)
        means = torch.stack([rating[:, 0] for rating in rated])
        anchor = (means - FULL * torch.stack([own, bad, lent])).square().mean()
        return loss + ANCHOR * anchor, cell_loss(cells, batch)


def uncertain(
    first: Float[Tensor, "pairs 2"], second: Float[Tensor, "pairs 2"], gap: Float[Tensor, " pairs"]
) -> Tensor:
    """-log P(the better one wins), over ratings drawn from N(mean, sigma^2) (HPSv3's loss)."""
    sign = gap.sign()
    mean = (first[:, 0] - second[:, 0]) * sign
    sigma = (first[:, 1].exp().square() + second[:, 1].exp().square()).sqrt()
    draws = mean + sigma * torch.randn(DRAWS, len(gap))
    counts = (gap.abs() > LEAST_GAP).float()
    return (F.softplus(-draws).mean(0) * counts).sum() / counts.sum().clamp(min=1)
