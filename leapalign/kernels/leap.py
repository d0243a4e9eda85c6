"""A leap and how far it lands from the recorded path (LeapAlign, Eq. 4, 5 and 13).

x̂ = x + weight · v and distance = mean |target - x̂|, per sample, in one pass.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from leapalign.kernels.dispatch import cdiv, direct, fused, jit, tl, traced

Latents = Float[Tensor, "batch tokens channels"]
PerSample = Float[Tensor, " batch"]

BLOCK = 2048


def land(x: Latents, v: Latents, weight: PerSample, target: Latents) -> tuple[Latents, PerSample]:
    """Leap from x along v and measure the mean absolute distance to the target.

    Args:
        x: the state that the leap starts from.
        v: its velocity.
        weight: the leap's length in σ; the kernels have no gradient to it.
        target: the recorded state at the leap's end.

    Returns:
        x̂, rounded once to the type of x; and the distances of the unrounded x̂, in float32.
    """
    if fused(x, v, target, constants=(weight,)):
        return (torch.ops.leapalign.leap if traced() else _direct)(x, v, weight, target)
    return reference(x, v, weight, target)


def reference(x: Tensor, v: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The same in PyTorch."""
    wide = torch.promote_types(x.dtype, torch.float32)
    landed = x.to(wide) + weight[:, None, None].to(wide) * v.to(wide)
    return landed.to(x.dtype), (target.to(wide) - landed).abs().mean(dim=(1, 2))


@jit
def _forward(x, v, weight, target, landed, distance, size, BLOCK: tl.constexpr):
    b = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    start = tl.load(x + b * size + at, mask=inside, other=0.0).to(tl.float32)
    velocity = tl.load(v + b * size + at, mask=inside, other=0.0).to(tl.float32)
    reached = tl.load(target + b * size + at, mask=inside, other=0.0).to(tl.float32)
    end = start + tl.load(weight + b).to(tl.float32) * velocity
    tl.store(landed + b * size + at, end, mask=inside)
    total = tl.sum(tl.where(inside, tl.abs(reached - end), 0.0))
    tl.store(distance + b * tl.num_programs(0) + tl.program_id(0), total / size)


@jit
def _backward(g, g_distance, x, v, weight, target, dx, dv, dtarget, size, BLOCK: tl.constexpr):
    b = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    start = tl.load(x + b * size + at, mask=inside, other=0.0).to(tl.float32)
    velocity = tl.load(v + b * size + at, mask=inside, other=0.0).to(tl.float32)
    reached = tl.load(target + b * size + at, mask=inside, other=0.0).to(tl.float32)
    length = tl.load(weight + b).to(tl.float32)
    gap = reached - (start + length * velocity)
    away = (gap > 0.0).to(tl.float32) - (gap < 0.0).to(tl.float32)
    closer = away * (tl.load(g_distance + b) / size)
    dend = tl.load(g + b * size + at, mask=inside, other=0.0).to(tl.float32) - closer
    tl.store(dx + b * size + at, dend, mask=inside)
    tl.store(dv + b * size + at, length * dend, mask=inside)
    tl.store(dtarget + b * size + at, closer, mask=inside)


def _launch(x: Tensor, v: Tensor, weight: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The kernel over all samples; each program sums its share of the distance."""
    x, v, weight, target = (t.contiguous() for t in (x, v, weight, target))
    batch, size = len(x), x[0].numel()
    landed = torch.empty_like(x)
    distance = x.new_empty(batch, cdiv(size, BLOCK), dtype=torch.float32)
    _forward[cdiv(size, BLOCK), batch](x, v, weight, target, landed, distance, size, BLOCK)
    return landed, distance.sum(1)


_op = torch.library.custom_op("leapalign::leap", _launch, mutates_args=())


@_op.register_fake
def _op_shapes(
    x: Tensor,
    v: Tensor,
    weight: Tensor,
    target: Tensor,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[:1], dtype=torch.float32)


def _launch_backward(
    g: Tensor, g_distance: Tensor, x: Tensor, v: Tensor, weight: Tensor, target: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients to x, v and target."""
    g, g_distance, x, v, weight, target = (
        t.contiguous() for t in (g, g_distance, x, v, weight, target)
    )
    batch, size = len(x), x[0].numel()
    gradients = torch.empty_like(x), torch.empty_like(v), torch.empty_like(target)
    _backward[cdiv(size, BLOCK), batch](
        g, g_distance, x, v, weight, target, *gradients, size, BLOCK
    )
    return gradients


_backward_op = torch.library.custom_op(
    "leapalign::leap_backward", _launch_backward, mutates_args=()
)


@_backward_op.register_fake
def _backward_shapes(
    g: Tensor,
    g_distance: Tensor,
    x: Tensor,
    v: Tensor,
    weight: Tensor,
    target: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), v.new_empty(v.shape), target.new_empty(target.shape)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(backward, ctx, g, g_distance):
    x, v, weight, target = ctx.saved_tensors
    dx, dv, dtarget = backward(g, g_distance, x, v, weight, target)
    return dx, dv, None, dtarget


_op.register_autograd(partial(_differentiate, _backward_op), setup_context=_save)
_direct = direct(_launch, _save, partial(_differentiate, _launch_backward), differentiable=2)
