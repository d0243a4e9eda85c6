"""The pocket autoencoder: a stock AutoencoderKL with FLUX's 16 channels and 8x reduction."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pocket.world import (
    CELLS,
    COLORS,
    RADII,
    SHAPES,
    Icon,
    Scene,
    all_prompts,
    place,
    render,
    sample_metadata,
    sample_scene,
)

CHANNELS = 16
KL_WEIGHT = 6e-3
STEPS = 1600
BATCH = 16
PEAK_RATE = 2e-3
POLISH = 600
POLISH_RATE = 1e-3
LATENT_NOISE = 0.15

log = logging.getLogger(__name__)


def make_vae() -> AutoencoderKL:
    """An untrained pocket autoencoder: 64x64x3 images, 8x8x16 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 24, 48, 64),
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
        shift_factor=0.0,
        use_quant_conv=False,
        use_post_quant_conv=False,
        mid_block_add_attention=False,
    )


def busy_scene(rng: np.random.Generator) -> Scene:
    """Up to ten random icons: more to learn from in an image than a prompt's scene holds."""
    colors = tuple(COLORS)
    cells = rng.permutation(CELLS * CELLS)[: rng.integers(11)]
    return Scene(
        tuple(
            Icon(
                SHAPES[rng.integers(len(SHAPES))],
                colors[rng.integers(len(colors))],
                place((int(cell) % CELLS, int(cell) // CELLS), rng),
                RADII[rng.integers(len(RADII))],
            )
            for cell in cells
        )
    )


def to_tensor(images: list[np.ndarray]) -> Float[Tensor, "b 3 h w"]:
    """uint8 [h, w, 3] images as floats in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def triangular(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then a linear decay to zero, as a factor of the peak learning rate."""
    return min((step + 1) / warmup, (steps - step) / (steps - warmup))


def train_vae(seed: int, steps: int = STEPS) -> AutoencoderKL:
    """Train on busy scenes (squared error + KL), then set the latents' shift and scale."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vae = make_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), PEAK_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: triangular(i, steps, 100))
    for step in range(steps):
        x = to_tensor([render(busy_scene(rng)) for _ in range(BATCH)])
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            restored = vae.decode(posterior.sample()).sample
        error = functional.mse_loss(restored.float(), x)
        divergence = posterior.kl().mean() / math.prod(posterior.mean.shape[1:])
        (error + KL_WEIGHT * divergence).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            log.info("vae %d error %.5f kl %.4f", step, error.item(), divergence.item())
    vae = normalize(vae.eval().requires_grad_(False), rng)
    return polish(vae, rng)


def normalize(vae: AutoencoderKL, rng: np.random.Generator) -> AutoencoderKL:
    """Set shift and scale so that the prompts' latents have mean 0 and variance 1."""
    prompts = all_prompts()
    scenes = [sample_scene(prompts[i], rng) for i in rng.permutation(len(prompts))[:512]]
    with torch.no_grad():
        means = vae.encode(to_tensor([render(scene) for scene in scenes])).latent_dist.mean
    vae.register_to_config(shift_factor=means.mean().item(), scaling_factor=1 / means.std().item())
    return vae


def polish(vae: AutoencoderKL, rng: np.random.Generator, steps: int = POLISH) -> AutoencoderKL:
    """Train the decoder alone, on the prompts' own sparse scenes and slightly wrong latents.

    Group normalisation sees other statistics in a nearly empty image than in a busy one; without
    this the icons' colours drift. The latents stay what they are.
    """
    vae.decoder.requires_grad_(True)
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), POLISH_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: triangular(i, steps, 50))
    for step in range(steps):
        images = [render(sample_scene(sample_metadata(rng), rng)) for _ in range(BATCH)]
        with torch.no_grad():
            latents = encode(vae, images)
        latents = latents + LATENT_NOISE * torch.randn_like(latents)
        latents = latents / vae.config.scaling_factor + vae.config.shift_factor
        with torch.autocast("cpu", torch.bfloat16):
            restored = vae.decode(latents).sample
        error = functional.mse_loss(restored.float(), to_tensor(images))
        error.backward()
        torch.nn.utils.clip_grad_norm_(vae.decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            log.info("decoder %d error %.5f", step, error.item())
    vae.decoder.requires_grad_(False)
    return vae


def encode(vae: AutoencoderKL, images: list[np.ndarray]) -> Float[Tensor, "b 16 h w"]:
    """The normalized latents (the posterior's means) of uint8 images."""
    means = vae.encode(to_tensor(images)).latent_dist.mean
    return (means - vae.config.shift_factor) * vae.config.scaling_factor


def decode(vae: AutoencoderKL, latents: Float[Tensor, "b 16 h w"]) -> np.ndarray:
    """Images, uint8 [b, h, w, 3], of normalized latents."""
    x = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
    return ((x + 1) * 127.5).clamp(0, 255).round().byte().permute(0, 2, 3, 1).numpy()
