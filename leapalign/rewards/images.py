"""Image preparation that the rewards share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

# CLIP's normalisation (Radford et al., 2021), which all rewards here inherit.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def normalize(images: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch 3 h w"]:
    """Images in [0, 1] to CLIP's zero mean and unit deviation."""
    return F.normalize(images, mean=list(MEAN), std=list(STD))


def resize(
    images: Float[Tensor, "batch 3 h w"], height: int, width: int
) -> Float[Tensor, "batch 3 H W"]:
    """Antialiased bicubic resize, unclamped; returns the images themselves if they fit."""
    if images.shape[-2:] == (height, width):
        return images
    return F.resize(
        images, [height, width], interpolation=F.InterpolationMode.BICUBIC, antialias=True
    )


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB, its transparency dropped as all the official codes do.

    Pillow keeps the transparent colour as a note, by which transformers 5 would fill with white.
    """
    converted = image.convert("RGB")
    converted.info.pop("transparency", None)
    return converted


def to_tensor(image: Image.Image) -> Float[Tensor, "3 h w"]:
    """An image of any mode as RGB in [0, 1]."""
    return F.to_dtype(F.pil_to_tensor(to_rgb(image)), torch.float32, scale=True)


def shorten(images: Float[Tensor, "batch 3 h w"], size: int) -> Float[Tensor, "batch 3 H W"]:
    """Resize so that the shortest edge is `size`, clamped: bicubic overshoots, 8-bit images cannot.

    Images that have it already are left as they are.
    """
    height, width = images.shape[-2:]
    shortest = min(height, width)
    if shortest == size:
        return images
    return resize(images, int(size * height / shortest), int(size * width / shortest)).clamp(0, 1)


def by_shape(images: Sequence[Tensor], most: int) -> list[list[int]]:
    """Indices of the images in batches of one shape, each of `most` images at most."""
    groups: dict[torch.Size, list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape, []).append(index)
    return [
        group[start : start + most]
        for group in groups.values()
        for start in range(0, len(group), most)
    ]
