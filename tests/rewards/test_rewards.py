"""The rewards load the pocket weights, are differentiable, and name what is wrong with weights."""

import shutil
from pathlib import Path

import pytest
import torch
from torchvision.transforms.functional import to_pil_image

from leapalign.errors import UserError
from leapalign.rewards import REWARDS, load_reward

WEIGHTS = Path(__file__).parents[2] / "pocket" / "weights"
PROMPTS = ["a photo of a red star", "a photo of two circles", "a photo of a cross above a ring"]


@pytest.fixture(scope="module", params=REWARDS)
def reward(request):
    return load_reward(request.param, WEIGHTS / request.param)


def images(size=64):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, 3, size, size), generator=generator).float() / 255


def test_score_is_differentiable_in_the_images(reward):
    pixels = images().requires_grad_(True)
    scores = reward.score(pixels, PROMPTS)
    scores.sum().backward()
    assert scores.shape == (3,)
    assert scores.dtype == torch.float32
    assert pixels.grad.flatten(1).norm(dim=1).gt(0).all()


def test_image_files_score_as_tensors_where_nothing_is_resized(reward):
    pil = [to_pil_image(image) for image in images()]
    torch.testing.assert_close(
        reward.score_pil(pil, PROMPTS), reward.score(images(), PROMPTS), rtol=0, atol=1e-4
    )


def test_scores_do_not_depend_on_the_batch(reward):
    together = reward.score(images(), PROMPTS)
    alone = torch.cat([reward.score(images()[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_images_of_another_size_are_resized(reward):
    assert reward.score(images(96), PROMPTS).isfinite().all()


def test_an_unknown_reward_names_the_known_ones():
    with pytest.raises(UserError, match="hpsv2, pickscore, hpsv3"):
        load_reward("hpsv4", WEIGHTS)


@pytest.mark.parametrize("name", REWARDS)
def test_missing_weights_are_named(name, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_reward(name, tmp_path / "nowhere")


@pytest.mark.parametrize("name", REWARDS)
def test_a_damaged_file_is_named_with_its_hash(name, tmp_path):
    folder = shutil.copytree(WEIGHTS / name, tmp_path / name)
    (weights,) = folder.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=rf"{weights.name}: damaged, sha256 is [0-9a-f]{{64}}"):
        load_reward(name, folder)


@pytest.mark.parametrize("name", REWARDS)
def test_weights_that_are_not_finite_are_refused(name, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(WEIGHTS / name, tmp_path / name)
    (folder / "SHA256SUMS").unlink()
    (weights,) = folder.glob("*.safetensors")
    state = load_file(weights)
    first = next(key for key, tensor in state.items() if tensor.is_floating_point())
    state[first] = torch.full_like(state[first], float("nan"))
    save_file(state, weights)
    with pytest.raises(UserError, match=r"not finite \(sha256"):
        load_reward(name, folder)
