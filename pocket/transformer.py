"""The pocket flow transformer: a stock FluxTransformer2DModel, trained by rectified flow."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from leapalign.grid import Grid
from leapalign.rollout import rollout
from pocket.text import WIDTH as TEXT_WIDTH
from pocket.vae import encode, triangular
from pocket.world import CELLS, TAGS, prompts_by_tag, render, sample_scene

WIDTH, HEADS = 128, 4
SHIFT = 1.65
GUIDANCE = 3.5
STEPS = 8000
BATCH = 64
FRESH = 8
FIRST = 4096
PEAK_RATE = 1.5e-3
EMA = 0.999
TAG_WEIGHTS = {
    "single_object": 1.0,
    "two_object": 2.0,
    "counting": 2.5,
    "colors": 2.0,
    "position": 5.0,
    "color_attr": 4.0,
}
"""How often pretraining shows each task: the slow ones more."""

log = logging.getLogger(__name__)
Tokens = Float[Tensor, "batch tokens channels"]


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


def pack(latents: Float[Tensor, "b c h w"]) -> Tokens:
    """Latents as FLUX's tokens: each holds a 2x2 patch."""
    b, c, h, w = latents.shape
    x = latents.view(b, c, h // 2, 2, w // 2, 2)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpack(tokens: Tokens) -> Float[Tensor, "b c h w"]:
    """The inverse of `pack` for square latents."""
    b, n, c = tokens.shape
    side = round(n**0.5)
    x = tokens.view(b, side, side, c // 4, 2, 2)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, 2 * side, 2 * side)


class Texts:
    """Every prompt of the world, encoded once: rows of `states` [n, 16, d] and `pooled` [n, d]."""

    def __init__(self, states: Tensor, pooled: Tensor) -> None:
        self.states, self.pooled = states, pooled
        self.metadata = [line for tag in TAGS for line in prompts_by_tag()[tag]]
        self.rows = {
            tag: [i for i, line in enumerate(self.metadata) if line["tag"] == tag] for tag in TAGS
        }

    def draw(self, rng: np.random.Generator, size: int) -> list[int]:
        """Rows of random prompts, tags weighted by `TAG_WEIGHTS`."""
        weights = np.array([TAG_WEIGHTS[tag] for tag in TAGS])
        tags = rng.choice(len(TAGS), size, p=weights / weights.sum())
        return [int(rng.choice(self.rows[TAGS[tag]])) for tag in tags]


def velocity(
    model: FluxTransformer2DModel, x: Tokens, sigma: Tensor, texts: Texts, rows: list[int]
) -> Tokens:
    """v = dx/dsigma at noise level `sigma` [batch] for the prompts `rows`."""
    place = torch.arange(CELLS * CELLS)
    img_ids = torch.stack([torch.zeros_like(place), place // CELLS, place % CELLS], 1).to(x)
    return model(
        hidden_states=x,
        encoder_hidden_states=texts.states[rows],
        pooled_projections=texts.pooled[rows],
        timestep=sigma,
        guidance=torch.full_like(sigma, GUIDANCE),
        img_ids=img_ids,
        txt_ids=torch.zeros(texts.states.shape[1], 3),
        return_dict=False,
    )[0]


class Pool:
    """A growing store of encoded scenes: a few fresh ones every step, batches from all so far."""

    def __init__(self, vae: AutoencoderKL, texts: Texts, rng: np.random.Generator) -> None:
        self.vae, self.texts, self.rng = vae, texts, rng
        self.rows: list[int] = []
        self.latents: list[Tensor] = []

    @torch.no_grad()
    def grow(self, size: int) -> None:
        """Render and encode `size` new scenes."""
        rows = self.texts.draw(self.rng, size)
        images = [render(sample_scene(self.texts.metadata[i], self.rng)) for i in rows]
        with torch.autocast("cpu", torch.bfloat16):
            tokens = pack(encode(self.vae, images)).float()
        self.rows += rows
        self.latents += list(tokens)

    def batch(self, size: int) -> tuple[Tokens, list[int]]:
        """Random clean latents and the rows of their prompts."""
        picks = self.rng.integers(len(self.rows), size=size)
        return torch.stack([self.latents[i] for i in picks]), [self.rows[i] for i in picks]


def flow_loss(model: FluxTransformer2DModel, pool: Pool, texts: Texts) -> Tensor:
    """Rectified flow matching, logit-normal noise levels (arXiv 2403.03206), shifted as sampling."""
    x, rows = pool.batch(BATCH)
    noise = torch.randn_like(x)
    sigma = torch.sigmoid(torch.randn(BATCH) + np.log(SHIFT))
    level = sigma[:, None, None]
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        v = velocity(model, (1 - level) * x + level * noise, sigma, texts, rows)
    return (v.float() - (noise - x)).square().mean()


def train_transformer(
    vae: AutoencoderKL,
    texts: Texts,
    seed: int,
    steps: int = STEPS,
    checkpoint: Callable[[int, FluxTransformer2DModel], None] | None = None,
) -> FluxTransformer2DModel:
    """Train, and return the exponential moving average; `checkpoint` sees it every 250 steps."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    pool = Pool(vae, texts, rng)
    for _ in range(FIRST // BATCH):
        pool.grow(BATCH)
    model = make_transformer().train()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, PEAK_RATE, betas=(0.9, 0.99), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: triangular(i, steps, 300))
    losses, start = [], time.monotonic()
    for step in range(1, steps + 1):
        pool.grow(FRESH)
        loss = flow_loss(model, pool, texts)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        blend = 1 - min(EMA, step / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), blend)
        losses.append(loss.item())
        if step % 250 == 0 or step == steps:
            rate = BATCH * step / (time.monotonic() - start)
            log.info("flow %d loss %.4f, %.0f samples/s", step, np.mean(losses[-250:]), rate)
            if checkpoint:
                checkpoint(step, average)
    return average


def sample(
    model: FluxTransformer2DModel, texts: Texts, rows: list[int], steps: int, noise: Tokens
) -> Tokens:
    """Sampled latents for the prompts `rows`, by Euler steps."""
    grid = Grid.shifted(steps, SHIFT)

    class Field:
        def __call__(self, x: Tokens, time: Tensor) -> Tokens:
            with torch.autocast("cpu", torch.bfloat16):
                return velocity(model, x, time, texts, rows).float()

        def __getitem__(self, _: object) -> Field:
            raise NotImplementedError

    return rollout(Field(), noise, grid).states[-1]


def save(model: FluxTransformer2DModel, folder: Path) -> None:
    """Write the weights in bfloat16, as FLUX is released."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
