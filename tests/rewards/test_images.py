"""Image preparation keeps to the official transforms, and the float path to the 8-bit one."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from leapalign.rewards import hpsv2, pickscore
from leapalign.rewards.images import MEAN, STD, normalize, to_tensor


def picture(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_hpsv2_leaves_a_fitting_longest_side_unpadded():
    image = to_tensor(picture(width=200, height=224))[None]
    prepared = hpsv2.prepare(image, 224)
    assert prepared.shape == (1, 3, 224, 200)
    assert torch.equal(prepared, normalize(image))


def test_hpsv2_pads_before_normalising_with_the_odd_pixel_right_and_below():
    white = torch.ones(1, 3, 448, 446)
    prepared = hpsv2.prepare(white, 224)
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    assert prepared.shape == (1, 3, 224, 224)
    assert torch.allclose(prepared[0, :, 0, -1], black)
    assert not torch.allclose(prepared[0, :, 0, 0], black)


def test_hpsv2_rounds_the_short_side_and_does_not_clamp():
    image = torch.from_numpy(np.indices((3, 300, 448)).sum(0) % 2).float()[None]
    assert hpsv2.prepare(image, 224).shape == (1, 3, 224, 224)


@pytest.mark.parametrize(("width", "height"), [(224, 224), (225, 224), (224, 301), (227, 224)])
def test_pickscore_crops_with_a_floored_offset_as_the_processor(width, height):
    image = picture(width, height)
    official = CLIPImageProcessorPil()(images=image, return_tensors="pt")["pixel_values"]
    assert torch.allclose(pickscore.prepare(to_tensor(image)[None], 224), official, atol=1e-5)


def test_pickscore_clamps_what_bicubic_overshoots():
    image = torch.zeros(1, 3, 512, 512)
    image[..., 250:, :] = 1
    prepared = pickscore.prepare(image, 224)
    bounds = normalize(torch.tensor([0.0, 1.0]).expand(1, 3, 1, 2))
    assert prepared.amin() >= bounds.amin()
    assert prepared.amax() <= bounds.amax() + 1e-6
