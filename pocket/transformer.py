"""The pocket flow transformer: a stock FluxTransformer2DModel, trained by rectified flow."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel, ModelMixin
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from leapalign.backbones.encodings import EncodedPrompts
from leapalign.backbones.flux import FluxVelocity
from leapalign.steps import Latents
from pocket.text import WIDTH as TEXT_WIDTH
from pocket.vae import encode, triangular
from pocket.world import CELLS, TAGS, all_prompts, render, sample_scene

WIDTH, HEADS = 128, 4
SHIFT = 1.65
GUIDANCE = 3.5
BATCH = 64
FRESH = 8
FIRST = 4096
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of pretraining; each goes on from the averaged weights of the one before.

    Attributes:
        steps: optimiser steps.
        schedule: steps of the learning rate's schedule; a phase stops before its end, for a base
            that can still be taught is wanted.
        rate: peak learning rate.
        ema: decay of the averaged weights.
        noise: mean and standard deviation of the noise level's logit.
        tags: how often each task is shown.
    """

    steps: int
    schedule: int
    rate: float
    ema: float
    noise: tuple[float, float]
    tags: Mapping[str, float]


PHASES = (
    Phase(
        steps=5000,
        schedule=8000,
        rate=1.5e-3,
        ema=0.999,
        noise=(math.log(SHIFT), 1.0),
        tags={
            "single_object": 1.0,
            "two_object": 2.0,
            "counting": 2.5,
            "colors": 2.0,
            "position": 5.0,
            "color_attr": 4.0,
        },
    ),
    # Objects are learned by now, where they belong is not: that is decided at high noise.
    Phase(
        steps=1500,
        schedule=3500,
        rate=1.2e-3,
        ema=0.998,
        noise=(math.log(SHIFT) + 0.7, 1.1),
        tags={
            "single_object": 0.7,
            "two_object": 1.5,
            "counting": 2.0,
            "colors": 1.5,
            "position": 9.0,
            "color_attr": 5.0,
        },
    ),
)

log = logging.getLogger(__name__)


def make_transformer() -> FluxTransformer2DModel:
    """An untrained pocket transformer (2.4 M parameters), adaLN-Zero initialised."""
    model = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    modulations = [m.linear for m in model.modules() if type(m).__name__.startswith("AdaLayerNorm")]
    for linear in [*modulations, model.proj_out]:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return model


class Texts:
    """Every prompt of the world with its encoding; a prompt is known by its row."""

    def __init__(self, encoded: EncodedPrompts) -> None:
        self.encoded = encoded
        self.metadata = all_prompts()
        tags = np.array([line["tag"] for line in self.metadata])
        self.rows = {tag: np.flatnonzero(tags == tag) for tag in TAGS}

    def draw(
        self, rng: np.random.Generator, size: int, tag_weights: Mapping[str, float]
    ) -> list[int]:
        """Rows of random prompts, their tags drawn by `tag_weights`."""
        weights = np.array([tag_weights[tag] for tag in TAGS])
        tags = rng.choice(len(TAGS), size, p=weights / weights.sum())
        return [int(rng.choice(self.rows[TAGS[tag]])) for tag in tags]


def field(model: FluxTransformer2DModel, prompts: EncodedPrompts) -> FluxVelocity:
    """The model's velocity field under `prompts`, one image token per cell."""
    side = torch.arange(CELLS, dtype=torch.float32)
    image_ids = torch.cartesian_prod(torch.zeros(1), side, side)
    return FluxVelocity(
        model, prompts, GUIDANCE, image_ids, torch.zeros(prompts.tokens.shape[1], 3)
    )


class Pool:
    """A growing store of encoded scenes: a few fresh ones every step, batches from all so far."""

    def __init__(
        self,
        vae: AutoencoderKL,
        texts: Texts,
        rng: np.random.Generator,
        tag_weights: Mapping[str, float],
    ) -> None:
        self.vae, self.texts, self.rng, self.tag_weights = vae, texts, rng, tag_weights
        self.rows: list[int] = []
        self.latents: list[Tensor] = []
        for _ in range(FIRST // BATCH):
            self.grow(BATCH)

    @torch.no_grad()
    def grow(self, size: int) -> None:
        """Render and encode `size` new scenes."""
        rows = self.texts.draw(self.rng, size, self.tag_weights)
        images = [render(sample_scene(self.texts.metadata[i], self.rng)) for i in rows]
        with torch.autocast("cpu", torch.bfloat16):
            latents = encode(self.vae, images).float()
        tokens = FluxPipeline._pack_latents(latents, *latents.shape)
        self.rows += rows
        self.latents += list(tokens)

    def batch(self, size: int) -> tuple[Latents, list[int]]:
        """Random clean latents and the rows of their prompts."""
        picks = self.rng.integers(len(self.rows), size=size)
        return torch.stack([self.latents[i] for i in picks]), [self.rows[i] for i in picks]


def flow_loss(
    model: FluxTransformer2DModel, pool: Pool, texts: Texts, level: tuple[float, float]
) -> Tensor:
    """Rectified flow matching at logit-normal noise levels (arXiv 2403.03206)."""
    x, rows = pool.batch(BATCH)
    noise = torch.randn_like(x)
    sigma, noisy = diffuse(x, noise, level)
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        v = field(model, texts.encoded[torch.tensor(rows)])(noisy, sigma)
    return (v.float() - (noise - x)).square().mean()


def diffuse(x: Latents, noise: Latents, level: tuple[float, float]) -> tuple[Tensor, Latents]:
    """Noise levels σ [batch] whose logit has this mean and deviation, and the latents at them."""
    mean, deviation = level
    sigma = torch.sigmoid(mean + deviation * torch.randn(len(x)))
    share = sigma[:, None, None]
    return sigma, (1 - share) * x + share * noise


def make_optimizer(
    model: nn.Module, phase: Phase
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW without decay of biases, and its schedule."""
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, phase.rate, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: triangular(i, phase.schedule, 300)
    )
    return optimizer, schedule


def train_transformer(
    vae: AutoencoderKL, texts: Texts, seed: int, phases: Sequence[Phase] = PHASES
) -> FluxTransformer2DModel:
    """Train through all phases; returns the exponential moving average of the weights."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = make_transformer()
    for phase in phases:
        model = train_phase(model, Pool(vae, texts, rng, phase.tags), texts, phase)
    return model


def train_phase(
    start: FluxTransformer2DModel, pool: Pool, texts: Texts, phase: Phase
) -> FluxTransformer2DModel:
    """Go on from `start`; returns the phase's averaged weights."""
    return optimize(start, phase, lambda model: flow_loss(model, pool, texts, phase.noise), pool)


def optimize(start: Model, phase: Phase, loss_of: Callable[[Model], Tensor], pool: Pool) -> Model:
    """A phase's optimiser steps on `loss_of`, the pool growing; returns the averaged weights."""
    model = copy.deepcopy(start).train().requires_grad_(True)
    average = copy.deepcopy(start).eval().requires_grad_(False)
    optimizer, schedule = make_optimizer(model, phase)
    losses, clock = [], time.monotonic()
    for step in range(1, phase.steps + 1):
        pool.grow(FRESH)
        loss = loss_of(model)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        blend = 1 - min(phase.ema, step / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), blend)
        losses.append(loss.item())
        if step % 250 == 0 or step == phase.steps:
            seconds = (time.monotonic() - clock) / step
            log.info("flow %d loss %.4f, %.2f s a step", step, np.mean(losses[-250:]), seconds)
    return average


def save(model: ModelMixin, folder: Path) -> None:
    """Write the weights in bfloat16, as the real ones are released."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
