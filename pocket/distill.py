"""The pocket SD3 transformer: a stock SD3Transformer2DModel, distilled from the pocket FLUX.

The student starts from the teacher's weights wherever their modules correspond, then learns its
velocities on noised renders. A share of the prompts is hidden from the student but not from the
teacher: under the empty prompt it learns the mean over all prompts of the teacher's velocities,
which is what classifier-free guidance moves away from.
"""

from __future__ import annotations

import math

import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from leapalign.backbones.encodings import EncodedPrompts
from leapalign.backbones.flux import PATCH
from leapalign.backbones.sd3 import StableDiffusion3Velocity
from pocket.text import WIDTH as TEXT_WIDTH
from pocket.transformer import (
    GUIDANCE,
    HEADS,
    SHIFT,
    WIDTH,
    Phase,
    Pool,
    diffuse,
    field,
    optimize,
)
from pocket.vae import CHANNELS
from pocket.world import CELLS

SIDES = (PATCH * CELLS, PATCH * CELLS)
LAYERS = 4
DUAL_LAYERS = (0, 1)
SINGLES = (1, 2)
"""The teacher's single blocks that become joint ones, after its double blocks."""
BATCH = 32
HIDDEN = 0.12
"""The share of prompts hidden from the student."""
PHASE = Phase(
    steps=2400,
    schedule=2400,
    rate=1.2e-3,
    ema=0.996,
    noise=(math.log(SHIFT) + 0.4, 1.2),
    tags={
        "single_object": 1.0,
        "two_object": 2.0,
        "counting": 2.5,
        "colors": 2.0,
        "position": 4.0,
        "color_attr": 4.0,
    },
)

State = dict[str, Tensor]


def make_student() -> SD3Transformer2DModel:
    """An untrained pocket SD3 transformer: like SD3.5-M, dual attention in its first half."""
    return SD3Transformer2DModel(
        sample_size=SIDES[0],
        patch_size=PATCH,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        num_layers=LAYERS,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        pos_embed_max_size=2 * CELLS,
        dual_attention_layers=DUAL_LAYERS,
        qk_norm="rms_norm",
    )


@torch.no_grad()
def inherit(
    student: SD3Transformer2DModel, teacher: FluxTransformer2DModel, pooled: tuple[Tensor, Tensor]
) -> None:
    """Start the student from the teacher.

    FLUX's double blocks are SD3's joint blocks but for the rotary positions, a single block is
    nearly one that treats texts and images alike. SD3 patches the latents itself, in another order
    of the channels; the embedded guidance becomes a part of the time's bias.

    Args:
        student: the model to start.
        teacher: a pocket FLUX transformer.
        pooled: W and b of the map from the student's pooled embeddings to the teacher's.
    """
    donor, state = teacher.state_dict(), student.state_dict()
    for to, block in enumerate(SINGLES, teacher.config.num_layers):
        donor |= _joint(donor, f"single_transformer_blocks.{block}.", f"transformer_blocks.{to}.")
    donor |= _ends(teacher, pooled)
    # What all absolute positions have in common is no news to the teacher's blocks.
    donor["pos_embed.proj.bias"] -= student.pos_embed.cropped_pos_embed(*SIDES).mean((0, 1))
    for name, value in state.items():
        if name in donor:
            value.copy_(_fitted(donor[name], value))
    last = f"transformer_blocks.{LAYERS - 1}.norm1_context.linear."
    for kind in ("weight", "bias"):  # the last text norm's scale comes before its shift
        shift, scale = donor[last + kind].chunk(6)[:2]
        state[last + kind].copy_(torch.cat([scale, shift]))
    student.load_state_dict(state)


def _joint(donor: State, single: str, joint: str) -> State:
    """A single block as a joint one: the same weights for texts and images."""
    block = {k.removeprefix(single): v for k, v in donor.items() if k.startswith(single)}
    state: State = {}
    for kind in ("weight", "bias"):
        for part, added in (("to_q", "add_q_proj"), ("to_k", "add_k_proj"), ("to_v", "add_v_proj")):
            name = f"attn.{part}.{kind}"
            state[name] = state[f"attn.{added}.{kind}"] = block[name]
        for norm in ("norm1", "norm1_context"):
            state[f"{norm}.linear.{kind}"] = torch.cat([block[f"norm.linear.{kind}"]] * 2)
        for ff in ("ff", "ff_context"):
            state[f"{ff}.net.0.proj.{kind}"] = block[f"proj_mlp.{kind}"]
    for part in ("q", "k"):
        name = f"attn.norm_{part}.weight"
        state[name] = state[f"attn.norm_added_{part}.weight"] = block[name]
    attention, mlp = block["proj_out.weight"].split([WIDTH, 4 * WIDTH], dim=1)
    bias = block["proj_out.bias"]
    for out, ff in (("attn.to_out.0", "ff"), ("attn.to_add_out", "ff_context")):
        state[f"{out}.weight"], state[f"{out}.bias"] = attention, torch.zeros_like(bias)
        state[f"{ff}.net.2.weight"], state[f"{ff}.net.2.bias"] = mlp, bias
    return {joint + name: value for name, value in state.items()}


def _ends(teacher: FluxTransformer2DModel, pooled: tuple[Tensor, Tensor]) -> State:
    """What stands before and after the blocks."""
    embed, patches = teacher.time_text_embed, (CHANNELS, PATCH, PATCH)
    weight, bias = pooled
    text, out = embed.text_embedder.linear_1, teacher.proj_out
    guidance = embed.guidance_embedder(embed.time_proj(torch.tensor([1000 * GUIDANCE])))[0]
    return {
        "pos_embed.proj.weight": teacher.x_embedder.weight.unflatten(1, patches),
        "pos_embed.proj.bias": teacher.x_embedder.bias.clone(),
        "proj_out.weight": out.weight.unflatten(0, patches).permute(1, 2, 0, 3).flatten(0, 2),
        "proj_out.bias": out.bias.unflatten(0, patches).permute(1, 2, 0).flatten(),
        "time_text_embed.timestep_embedder.linear_2.bias": (
            embed.timestep_embedder.linear_2.bias + guidance
        ),
        "time_text_embed.text_embedder.linear_1.weight": text.weight @ weight,
        "time_text_embed.text_embedder.linear_1.bias": text.bias + text.weight @ bias,
    }


def _fitted(value: Tensor, like: Tensor) -> Tensor:
    """Rows cut or filled up with zeros: a dual block's second attention starts shut."""
    fitted = torch.zeros_like(like)
    rows = min(len(value), len(like))
    fitted[:rows] = value[:rows]
    return fitted


def pooled_map(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """W and b with ours @ W.T + b ≈ theirs, by least squares over the world's prompts."""
    rows = torch.cat([ours, torch.ones(len(ours), 1)], dim=1)
    solution = torch.linalg.lstsq(rows, theirs, driver="gelsd").solution
    return solution[:-1].T, solution[-1]


def distill_loss(
    student: SD3Transformer2DModel,
    teacher: FluxTransformer2DModel,
    pool: Pool,
    encoded: EncodedPrompts,
) -> Tensor:
    """The squared difference of student's and teacher's velocities on noised renders.

    Args:
        student: the model that learns.
        teacher: a pocket FLUX transformer.
        pool: renders, and the prompts as the teacher reads them.
        encoded: the same prompts as the student reads them, the empty one last.
    """
    x, picks = pool.batch(BATCH)
    rows = torch.tensor(picks)
    sigma, noisy = diffuse(x, torch.randn_like(x), PHASE.noise)
    shown = torch.where(torch.rand(BATCH) < HIDDEN, len(encoded.tokens) - 1, rows)
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        with torch.no_grad():
            wanted = field(teacher, pool.texts.encoded[rows])(noisy, sigma)
        v = StableDiffusion3Velocity(student, encoded[shown], PATCH)(noisy, sigma)
    return (v.float() - wanted.float()).square().mean()


def distill(
    teacher: FluxTransformer2DModel, pool: Pool, encoded: EncodedPrompts
) -> SD3Transformer2DModel:
    """Make, start and teach a student; returns the averaged weights."""
    student = make_student()
    theirs = pool.texts.encoded.pooled
    inherit(student, teacher, pooled_map(encoded.pooled[: len(theirs)], theirs))
    return optimize(student, PHASE, lambda model: distill_loss(model, teacher, pool, encoded), pool)
