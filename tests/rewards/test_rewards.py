"""The rewards load their weights, are differentiable, and refuse what they cannot score."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from leapalign.errors import UserError
from leapalign.rewards import REWARDS, load_reward
from tests.parity.compare import write_weights

WEIGHTS = Path(__file__).parents[2] / "pocket" / "weights"
POCKET = [name for name in REWARDS if (WEIGHTS / name).is_dir()]
DIFFERENTIABLE = [name for name in REWARDS if not name.startswith("unifiedreward")]
PROMPTS = ["a photo of a red star", "a photo of two circles", "a photo of a cross above a ring"]


@pytest.fixture(scope="module", params=DIFFERENTIABLE)
def reward(request, tmp_path_factory):
    """The pocket reward, or one with the parity tests' random weights where there is none."""
    name = request.param
    folder = WEIGHTS / name if name in POCKET else tmp_path_factory.mktemp(name)
    if name not in POCKET:
        write_weights(name, folder)
    return load_reward(name, folder)


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
    size = getattr(reward, "size", 64)
    pil = [to_pil_image(image) for image in images(size)]
    torch.testing.assert_close(
        reward.score_pil(pil, PROMPTS), reward.score(images(size), PROMPTS), rtol=0, atol=1e-4
    )


def test_scores_do_not_depend_on_the_batch(reward):
    together = reward.score(images(), PROMPTS)
    alone = torch.cat([reward.score(images()[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_image_files_of_several_shapes_and_modes_keep_their_order(reward):
    files = [Image.new(mode, size) for mode, size in [("RGB", (96, 80)), ("L", (64, 64))]]
    files = [*files, Image.new("RGB", (96, 80), "red")]
    together = reward.score_pil(files, PROMPTS)
    alone = [reward.score_pil([file], [text]) for file, text in zip(files, PROMPTS, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-4)


def test_images_of_another_size_are_resized(reward):
    assert reward.score(images(96), PROMPTS).isfinite().all()


def test_it_says_its_quantity_and_its_range(reward):
    assert "about" in reward.quantity
    low, high = reward.range
    assert low < high


def test_images_that_are_not_finite_are_refused_by_their_prompt(reward):
    pixels = images()
    pixels[1] = torch.nan
    with pytest.raises(UserError, match=rf"{reward.name} gave nan for prompt '{PROMPTS[1]}'"):
        reward.score(pixels, PROMPTS)


def test_a_score_out_of_range_is_refused(reward, monkeypatch):
    beyond = reward.range[1] + 1
    monkeypatch.setattr(type(reward), "rate", lambda *_: torch.tensor([0.0, beyond, 0.0]))
    with pytest.raises(UserError, match=rf"gave {beyond}.*outside"):
        reward.score(images(), PROMPTS)


def test_a_score_without_gradient_is_refused(reward, monkeypatch):
    monkeypatch.setattr(type(reward), "rate", lambda *_: torch.zeros(3))
    with pytest.raises(UserError, match="no gradient"):
        reward.score(images().requires_grad_(True), PROMPTS)


@pytest.mark.parametrize("token", ["<|Reward|>", "<|image_pad|>"])
def test_hpsv3_refuses_prompts_with_its_own_tokens(token):
    with pytest.raises(UserError, match="take it out"):
        load_reward("hpsv3", WEIGHTS / "hpsv3").score(images(), [f"a {token}", *PROMPTS[1:]])


def test_an_unknown_reward_names_the_known_ones():
    with pytest.raises(UserError, match="did you mean `hpsv3`"):
        load_reward("hpsv4", WEIGHTS)
    with pytest.raises(UserError, match=", ".join(sorted(REWARDS))):
        load_reward("nothing like it", WEIGHTS)


@pytest.mark.parametrize("name", REWARDS)
def test_missing_weights_are_named(name, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        load_reward(name, tmp_path / "nowhere")


@pytest.mark.parametrize("missing", ["med_config.json", "vocab.txt", "ImageReward.pt"])
def test_a_file_that_imagereward_lacks_is_named(missing, tmp_path):
    write_weights("imagereward", tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=missing):
        load_reward("imagereward", tmp_path)


@pytest.mark.parametrize("name", POCKET)
def test_a_damaged_file_is_named_with_its_hash(name, tmp_path):
    folder = shutil.copytree(WEIGHTS / name, tmp_path / name)
    (weights,) = folder.glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UserError, match=rf"{weights.name}: damaged, sha256 is [0-9a-f]{{64}}"):
        load_reward(name, folder)


@pytest.mark.parametrize("name", POCKET)
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
