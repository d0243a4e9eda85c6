"""Images as the generator's decoder makes them: round trips, noised, mixed and half-way latents."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pocket.detector import detect
from pocket.rewards.data import Examples, renders
from pocket.rewards.pool import label, spoil

BATCH = 64


@torch.no_grad()
def encode(vae: AutoencoderKL, images: NDArray[np.uint8]) -> Float[Tensor, "batch c h w"]:
    """Mean latents of images in 0..255."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return vae.encode(pixels).latent_dist.mean


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Float[Tensor, "batch c h w"]) -> NDArray[np.uint8]:
    """Images in 0..255."""
    pixels = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    return (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()


def disturb(latents: Float[Tensor, "batch c h w"], rng: np.random.Generator) -> Tensor:
    """Noise, mixtures with other images (whole or by cell), or nothing, one kind for each image."""
    count = len(latents)
    kind = torch.from_numpy(rng.integers(4, size=count))[:, None, None, None]
    scale = latents.std()
    level = torch.from_numpy(rng.uniform(0.2, 1.5, (count, 1, 1, 1))).float()
    noise = torch.from_numpy(rng.standard_normal(latents.shape)).float()
    other = latents[torch.from_numpy(rng.permutation(count))]
    share = torch.from_numpy(rng.uniform(0.1, 0.5, (count, 1, 1, 1))).float()
    cells = torch.from_numpy(rng.random((count, 1, 4, 4)) < 0.3).float()
    cells = torch.nn.functional.interpolate(cells, size=latents.shape[-2:], mode="nearest")
    mixed = latents + share * (other - latents)
    patched = latents + cells * 2 * share * (other - latents)
    disturbed = torch.where(kind == 1, latents + level * scale * noise, latents)
    disturbed = torch.where(kind == 2, mixed, disturbed)
    return torch.where(kind == 3, patched, disturbed)


def spoilt_renders(vae: AutoencoderKL, count: int, rng: np.random.Generator) -> Examples:
    """Decoded and disturbed renders, half of them spoilt once more, labelled by the detector."""
    clean = renders(count, rng)
    decoded = np.concatenate(
        [
            decode(vae, disturb(encode(vae, clean.images[start : start + BATCH]), rng))
            for start in range(0, count, BATCH)
        ]
    )
    twice = [spoil(pair[rng.integers(2)], rng) for pair in zip(clean.images, decoded, strict=True)]
    images = np.concatenate([decoded, np.stack(twice[: count // 2])])
    rows = np.concatenate([clean.prompt, clean.prompt[: count // 2]])
    return label(images, rows, [detect(image) for image in images])
