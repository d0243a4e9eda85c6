"""HPSv3 as a training reward: its gradient through resize and patches, in parts, in bfloat16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from leapalign.rewards import load_reward
from leapalign.rewards.hpsv3 import HPSv3
from tests import tolerances

WEIGHTS = Path(__file__).parents[2] / "pocket" / "weights" / "hpsv3"
# Of different lengths, so that those of a batch are padded and one alone is not.
PROMPTS = ["two circles", "a photo of a red star", "a cross above a ring, left of a blue square"]


@pytest.fixture
def reward() -> HPSv3:
    return load_reward("hpsv3", WEIGHTS)


def images(dtype: torch.dtype = torch.float32) -> Tensor:
    """Images that have to be resized."""
    return torch.rand(3, 3, 80, 80, generator=torch.Generator().manual_seed(0)).to(dtype)


def gradient(reward: HPSv3, pixels: Tensor, prompts: list[str]) -> tuple[Tensor, Tensor]:
    """The scores and the gradient of their sum."""
    pixels = pixels.clone().requires_grad_()
    scores = reward.rate(reward.transform(pixels), prompts)
    return scores.detach(), torch.autograd.grad(scores.sum(), pixels)[0]


def test_a_batchs_gradient_is_that_of_its_images_alone(reward: HPSv3) -> None:
    _, together = gradient(reward, images(), PROMPTS)
    alone = [gradient(reward, images()[i : i + 1], [prompt])[1] for i, prompt in enumerate(PROMPTS)]
    error = (torch.cat(alone) - together).norm() / together.norm()
    assert error < tolerances.BATCH_SPLIT


def test_the_gradient_is_the_slope_of_the_score(reward: HPSv3) -> None:
    reward.rater.model.double()  # the head stays float32, as in training
    pixels = images(torch.float64)
    way = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(1)).double()
    _, found = gradient(reward, pixels, PROMPTS)
    step = 1e-3 * way
    with torch.no_grad():
        ahead, behind = (
            reward.rate(reward.transform(x), PROMPTS) for x in (pixels + step, pixels - step)
        )
    slope = (ahead - behind).double() / 2e-3
    error = (slope - (found * way).sum(dim=(1, 2, 3))).norm() / slope.norm()
    assert error < tolerances.HPSV3_SLOPE


def test_in_bfloat16_score_and_gradient_stay_float32_and_point_the_same_way(reward: HPSv3) -> None:
    exact, direction = gradient(reward, images(), PROMPTS)
    reward.rater.model.bfloat16()
    scores, found = gradient(reward, images(), PROMPTS)
    assert scores.dtype == found.dtype == torch.float32
    assert (scores - exact).abs().max() < tolerances.HPSV3_BFLOAT16_SCORE
    cosine = cosine_similarity(found.flatten(1), direction.flatten(1))
    assert cosine.min() > 1 - tolerances.HPSV3_BFLOAT16_COSINE
