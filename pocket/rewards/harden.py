"""What gradient ascent on a reward does to images: the losers that the reward must learn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pocket.rewards.data import Examples
from pocket.rewards.facts import prompt_table
from pocket.detector import detect
from pocket.rewards.pool import label
from pocket.rewards.train import norm

STEPS = 8
BATCH = 64


def ascended(
    score: Callable[[Tensor, list[str]], Tensor],
    examples: Examples,
    rng: np.random.Generator,
) -> Examples:
    """The examples' images after gradient ascent on their own prompts, labelled anew.

    Args:
        score: A reward's differentiable score.
        examples: Where to start.
        rng: Decides how far each image goes (L2, images in [0, 1]).
    """
    images = np.concatenate([
        climb(score, examples.take(slice(start, start + BATCH)), rng)
        for start in range(0, len(examples), BATCH)
    ])
    return label(images, examples.prompt, [detect(image) for image in images])


def climb(
    score: Callable[[Tensor, list[str]], Tensor], examples: Examples, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Normalised gradient steps, of a random total length for each image."""
    texts = [prompt_table().texts[row] for row in examples.prompt]
    pixels = examples.pixels()
    length = torch.from_numpy(rng.uniform(1, 8, (len(examples), 1, 1, 1))).float()
    for _ in range(STEPS):
        pixels.requires_grad_(True)
        (slope,) = torch.autograd.grad(score(pixels, texts).sum(), pixels)
        pixels = (pixels.detach() + length / STEPS * slope / norm(slope)).clamp(0, 1)
    return (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
