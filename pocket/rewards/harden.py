"""What gradient ascent on a reward does to images: the losers that the reward must learn."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from pocket.detector import detect
from pocket.rewards.data import Examples, interleave
from pocket.rewards.loop import norm
from pocket.rewards.pool import label

STEPS = 8
LENGTHS = (1.0, 8.0)
BATCH = 64


def ascended(
    student: nn.Module,
    texts: Float[Tensor, "prompts dim"],
    examples: Examples,
    rng: np.random.Generator,
) -> Examples:
    """The examples, each followed by its image after gradient ascent on its own prompt.

    Args:
        student: A dual encoder.
        texts: Its embeddings of all prompts.
        examples: Where to start.
        rng: Decides how far each image goes (L2, images in [0, 1]).
    """
    climbed = np.concatenate(
        [
            climb(student, texts, examples.take(slice(start, start + BATCH)), rng)
            for start in range(0, len(examples), BATCH)
        ]
    )
    return interleave(
        examples, label(climbed, examples.prompt, [detect(image) for image in climbed])
    )


def climb(
    student: nn.Module,
    texts: Float[Tensor, "prompts dim"],
    examples: Examples,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Normalised gradient steps, of a random total length for each image."""
    own = texts[torch.from_numpy(examples.prompt)]
    length = torch.from_numpy(rng.uniform(*LENGTHS, (len(examples), 1, 1, 1))).float()
    pixels = examples.pixels()
    for _ in range(STEPS):
        pixels.requires_grad_(True)
        score = (student.look(pixels)[0] * own).sum()
        (slope,) = torch.autograd.grad(score, pixels)
        pixels = (pixels.detach() + length / STEPS * slope / norm(slope)).clamp(0, 1)
    return (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
