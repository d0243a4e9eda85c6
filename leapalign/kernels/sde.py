"""Stochastic sampler steps and their log-density (arXiv 2505.05470, Sec. 4.1).

Both rules of `leapalign.steps` have a mean that is linear in state and velocity, with coefficients
that depend on the sample's noise level alone: mean = a x + b v; x_next = mean + std · ε;
log p = mean over the elements of -(x_next - mean)² / (2 std²) - log std - ½ log 2π.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from leapalign.kernels.dispatch import cdiv, direct, fused, jit, tl, traced
from leapalign.kernels.philox import draw, normal

Latents = Float[Tensor, "batch tokens channels"]
PerSample = Float[Tensor, " batch"]

BLOCK = 2048
HALF_LOG_TAU = 0.5 * math.log(2.0 * math.pi)


class Transition(NamedTuple):
    """A Gaussian step's mean a x + b v and standard deviation; no kernel has gradient to them."""

    a: Float[Tensor, " batch"]
    b: Float[Tensor, " batch"]
    std: Float[Tensor, " batch"]


def sde_step(
    x: Latents, v: Latents, step: Transition, seed: Int[Tensor, " batch"]
) -> tuple[Latents, PerSample]:
    """Draw the next state and its log-density in one pass; the noise never meets memory.

    Args:
        x: states.
        v: velocities.
        step: mean and deviation.
        seed: int64; a sample's noise depends on its seed alone (`leapalign.kernels.philox`).

    Returns:
        The next state in the type of x, and in float32 the log-density of it as rounded, so that a
        replay with the same velocities repeats it. Gradient goes to x and v through the mean;
        the log-density of a state drawn by its noise does not depend on them.
    """
    if fused(x, v, constants=(*step, seed)):
        return (torch.ops.leapalign.sde_step if traced() else _step_direct)(x, v, *step, seed)
    return step_reference(x, v, step, seed)


def step_reference(x: Tensor, v: Tensor, step: Transition, seed: Tensor) -> tuple[Tensor, Tensor]:
    """The same in PyTorch."""
    wide = torch.promote_types(x.dtype, torch.float32)
    noise = normal(seed, x[0].numel()).view(x.shape).to(wide)
    mean = _mean(x, v, step, wide)
    x_next = (mean + step.std[:, None, None].to(wide) * noise).to(x.dtype)
    return x_next, log_prob_reference(x.detach(), v.detach(), x_next.detach(), step)


def sde_log_prob(x: Latents, v: Latents, x_next: Latents, step: Transition) -> PerSample:
    """The log-density in float32 of a recorded next state, with gradient to all three."""
    if fused(x, v, x_next, constants=tuple(step)):
        run = torch.ops.leapalign.sde_log_prob if traced() else _log_prob_direct
        return run(x, v, x_next, *step)
    return log_prob_reference(x, v, x_next, step)


def log_prob_reference(x: Tensor, v: Tensor, x_next: Tensor, step: Transition) -> Tensor:
    """The same in PyTorch."""
    wide = torch.promote_types(x.dtype, torch.float32)
    std = step.std.to(wide)
    z = (x_next.to(wide) - _mean(x, v, step, wide)) / std[:, None, None]
    return -0.5 * z.square().mean(dim=(1, 2)) - torch.log(std) - HALF_LOG_TAU


def _mean(x: Tensor, v: Tensor, step: Transition, dtype: torch.dtype) -> Tensor:
    a, b = (coefficient[:, None, None].to(dtype) for coefficient in step[:2])
    return a * x.to(dtype) + b * v.to(dtype)


@jit
def _step(x, v, a, b, std, seed, x_next, total, size, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * BLOCK
    at = first + tl.arange(0, BLOCK)
    inside = at < size
    state = tl.load(x + row * size + at, mask=inside, other=0.0).to(tl.float32)
    velocity = tl.load(v + row * size + at, mask=inside, other=0.0).to(tl.float32)
    spread = tl.load(std + row).to(tl.float32)
    mean = tl.load(a + row).to(tl.float32) * state + tl.load(b + row).to(tl.float32) * velocity
    noise = draw(tl.load(seed + row), first, BLOCK)
    rounded = (mean + spread * noise).to(x_next.dtype.element_ty)
    tl.store(x_next + row * size + at, rounded, mask=inside)
    z = tl.where(inside, (rounded.to(tl.float32) - mean) / spread, 0.0)
    tl.store(total + row * tl.num_programs(0) + tl.program_id(0), tl.sum(z * z))


@jit
def _squares(x, v, x_next, a, b, std, total, size, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    state = tl.load(x + row * size + at, mask=inside, other=0.0).to(tl.float32)
    velocity = tl.load(v + row * size + at, mask=inside, other=0.0).to(tl.float32)
    reached = tl.load(x_next + row * size + at, mask=inside, other=0.0).to(tl.float32)
    spread = tl.load(std + row).to(tl.float32)
    mean = tl.load(a + row).to(tl.float32) * state + tl.load(b + row).to(tl.float32) * velocity
    z = tl.where(inside, (reached - mean) / spread, 0.0)
    tl.store(total + row * tl.num_programs(0) + tl.program_id(0), tl.sum(z * z))


@jit
def _backward(g, x, v, x_next, a, b, std, factor, out, size, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    state = tl.load(x + row * size + at, mask=inside, other=0.0).to(tl.float32)
    velocity = tl.load(v + row * size + at, mask=inside, other=0.0).to(tl.float32)
    reached = tl.load(x_next + row * size + at, mask=inside, other=0.0).to(tl.float32)
    spread = tl.load(std + row).to(tl.float32)
    mean = tl.load(a + row).to(tl.float32) * state + tl.load(b + row).to(tl.float32) * velocity
    dmean = (reached - mean) / (spread * spread) * (tl.load(g + row) / size)
    tl.store(out + row * size + at, tl.load(factor + row).to(tl.float32) * dmean, mask=inside)


def _log_density(squares: Tensor, std: Tensor, size: int) -> Tensor:
    return -0.5 * squares.sum(1) / size - torch.log(std.float()) - HALF_LOG_TAU


def _launch_step(
    x: Tensor, v: Tensor, a: Tensor, b: Tensor, std: Tensor, seed: Tensor
) -> tuple[Tensor, Tensor]:
    """The kernel over all samples; each program sums its share of the density."""
    x, v, a, b, std, seed = (t.contiguous() for t in (x, v, a, b, std, seed))
    batch, size = len(x), x[0].numel()
    x_next = torch.empty_like(x)
    squares = x.new_empty(batch, cdiv(size, BLOCK), dtype=torch.float32)
    _step[cdiv(size, BLOCK), batch](x, v, a, b, std, seed, x_next, squares, size, BLOCK)
    return x_next, _log_density(squares, std, size)


_step_op = torch.library.custom_op("leapalign::sde_step", _launch_step, mutates_args=())


@_step_op.register_fake
def _step_shapes(
    x: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    std: Tensor,
    seed: Tensor,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:1], dtype=torch.float32)


def _save_step(ctx, inputs, output) -> None:
    x, v, a, b, _, _ = inputs
    ctx.dtypes = x.dtype, v.dtype
    ctx.save_for_backward(a, b)


def _differentiate_step(ctx, g, _g_density):
    dx, dv = (
        (factor[:, None, None] * g).to(dtype)
        for factor, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
    )
    return dx, dv, None, None, None, None


_step_op.register_autograd(_differentiate_step, setup_context=_save_step)
_step_direct = direct(_launch_step, _save_step, _differentiate_step)


def _launch_log_prob(
    x: Tensor, v: Tensor, x_next: Tensor, a: Tensor, b: Tensor, std: Tensor
) -> Tensor:
    """The kernel over all samples, the same sums as the step's."""
    x, v, x_next, a, b, std = (t.contiguous() for t in (x, v, x_next, a, b, std))
    batch, size = len(x), x[0].numel()
    squares = x.new_empty(batch, cdiv(size, BLOCK), dtype=torch.float32)
    _squares[cdiv(size, BLOCK), batch](x, v, x_next, a, b, std, squares, size, BLOCK)
    return _log_density(squares, std, size)


_log_prob_op = torch.library.custom_op("leapalign::sde_log_prob", _launch_log_prob, mutates_args=())


@_log_prob_op.register_fake
def _log_prob_shape(
    x: Tensor,
    v: Tensor,
    x_next: Tensor,
    a: Tensor,
    b: Tensor,
    std: Tensor,
) -> Tensor:
    return x.new_empty(x.shape[:1], dtype=torch.float32)


def _launch_log_prob_backward(
    g: Tensor,
    x: Tensor,
    v: Tensor,
    x_next: Tensor,
    a: Tensor,
    b: Tensor,
    std: Tensor,
    factor: Tensor,
) -> Tensor:
    """`factor` times the gradient to the mean."""
    g, x, v, x_next, a, b, std, factor = (
        t.contiguous() for t in (g, x, v, x_next, a, b, std, factor)
    )
    size = x[0].numel()
    out = torch.empty_like(x)
    _backward[cdiv(size, BLOCK), len(x)](g, x, v, x_next, a, b, std, factor, out, size, BLOCK)
    return out


_log_prob_backward_op = torch.library.custom_op(
    "leapalign::sde_log_prob_backward", _launch_log_prob_backward, mutates_args=()
)


@_log_prob_backward_op.register_fake
def _log_prob_backward_shape(
    g: Tensor,
    x: Tensor,
    v: Tensor,
    x_next: Tensor,
    a: Tensor,
    b: Tensor,
    std: Tensor,
    factor: Tensor,
) -> Tensor:
    return x.new_empty(x.shape)


def _save_log_prob(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate_log_prob(backward, ctx, g):
    saved = ctx.saved_tensors  # once: checkpointing gives them out a single time
    a, b = saved[3:5]
    gradients = [
        backward(g, *saved, factor) if needed else None
        for needed, factor in zip(
            ctx.needs_input_grad[:3], (a, b, -torch.ones_like(a)), strict=True
        )
    ]
    return *gradients, None, None, None


_log_prob_op.register_autograd(
    partial(_differentiate_log_prob, _log_prob_backward_op), setup_context=_save_log_prob
)
_log_prob_direct = direct(
    _launch_log_prob, _save_log_prob, partial(_differentiate_log_prob, _launch_log_prob_backward)
)
