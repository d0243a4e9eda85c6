"""Adaptive LayerNorm (arXiv 2212.09748, Sec. 3.2): y = LN(x) · (1 + scale) + shift."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from leapalign.kernels.dispatch import (
    STAGES,
    block,
    cdiv,
    dense,
    direct,
    fused_in_block,
    jit,
    rows,
    share,
    tl,
    traced,
    warps,
)


def modulate(
    x: Float[Tensor, "batch tokens channels"],
    scale: Float[Tensor, "batch channels"],
    shift: Float[Tensor, "batch channels"],
    eps: float = 1e-6,
) -> Float[Tensor, "batch tokens channels"]:
    """Normalise each token over its channels, then scale and shift as its sample says.

    The kernels compute in float32 and round once, to the promoted type of the inputs.
    """
    if fused_in_block(x, scale, shift):
        return (torch.ops.leapalign.modulate if traced() else _direct)(x, scale, shift, eps)[0]
    return reference(x, scale, shift, eps)


def reference(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> Tensor:
    """The same in PyTorch, in the operations and the order of diffusers' blocks."""
    normed = F.layer_norm(x, x.shape[-1:], eps=eps)
    return normed * (1 + scale[:, None]) + shift[:, None]


@jit
def _forward(
    x, scale, shift, y, mean, rstd,
    x_batch, x_token, scale_batch, shift_batch,
    tokens, channels, share, eps,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * share
    last = min(first + share, tokens)
    r, c = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    wide = c < channels
    gain = 1.0 + tl.load(scale + b * scale_batch + c, mask=wide, other=0.0).to(tl.float32)
    bias = tl.load(shift + b * shift_batch + c, mask=wide, other=0.0).to(tl.float32)
    for start in tl.range(first, last, ROWS, num_stages=STAGES):
        t = start + r
        inside = (t < last) & wide
        row = tl.load(x + b * x_batch + t * x_token + c, mask=inside, other=0.0).to(tl.float32)
        mu = tl.sum(row, axis=1, keep_dims=True) / channels
        centred = tl.where(inside, row - mu, 0.0)
        variance = tl.sum(centred * centred, axis=1, keep_dims=True) / channels
        inverse = tl.rsqrt(variance + eps)
        tl.store(y + (b * tokens + t) * channels + c, centred * inverse * gain + bias, mask=inside)
        tl.store(mean + b * tokens + t, mu, mask=t < last)
        tl.store(rstd + b * tokens + t, inverse, mask=t < last)


@jit
def _backward(
    g, x, scale, mean, rstd, dx, dscale, dshift,
    g_batch, g_token, x_batch, x_token, scale_batch,
    tokens, channels, share,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1).to(tl.int64)
    first = tl.program_id(0) * share
    last = min(first + share, tokens)
    r, c = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    wide = c < channels
    gain = 1.0 + tl.load(scale + b * scale_batch + c, mask=wide, other=0.0).to(tl.float32)
    scale_sum = tl.zeros((ROWS, BLOCK), tl.float32)
    shift_sum = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in tl.range(first, last, ROWS, num_stages=STAGES):
        t = start + r
        inside = (t < last) & wide
        mu = tl.load(mean + b * tokens + t, mask=t < last, other=0.0)
        inverse = tl.load(rstd + b * tokens + t, mask=t < last, other=0.0)
        row = tl.load(x + b * x_batch + t * x_token + c, mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(g + b * g_batch + t * g_token + c, mask=inside, other=0.0).to(tl.float32)
        normed = tl.where(inside, (row - mu) * inverse, 0.0)
        shift_sum += dy
        scale_sum += dy * normed
        dnormed = dy * gain
        along_one = tl.sum(dnormed, axis=1, keep_dims=True) / channels
        along_normed = tl.sum(dnormed * normed, axis=1, keep_dims=True) / channels
        drow = (dnormed - along_one - normed * along_normed) * inverse
        tl.store(dx + (b * tokens + t) * channels + c, drow, mask=inside)
    part = (b * tl.num_programs(0) + tl.program_id(0)) * channels
    tl.store(dscale + part + c, tl.sum(scale_sum, axis=0, keep_dims=True), mask=wide)
    tl.store(dshift + part + c, tl.sum(shift_sum, axis=0, keep_dims=True), mask=wide)


def _launch(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The output, and each token's mean and inverse deviation, which the backward needs."""
    y, mean, rstd = _op_shapes(x, scale, shift, eps)
    x, scale, shift = dense(x), dense(scale), dense(shift)
    batch, tokens, channels = x.shape
    part = share(tokens, batch, x.device, programs=16)
    height, size = rows(channels), block(channels)
    _forward[cdiv(tokens, part), batch](
        x, scale, shift, y, mean, rstd,
        *x.stride()[:2], scale.stride(0), shift.stride(0),
        tokens, channels, part, eps,
        height, size, STAGES, num_warps=warps(height * size),
    )  # fmt: skip
    return y, mean, rstd


_op = torch.library.custom_op("leapalign::modulate", _launch, mutates_args=())


@_op.register_fake
def _op_shapes(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(x.dtype, torch.promote_types(scale.dtype, shift.dtype))
    moments = x.new_empty(x.shape[:2], dtype=torch.float32)
    return x.new_empty(x.shape, dtype=dtype), moments, torch.empty_like(moments)


def _launch_backward(
    g: Tensor, x: Tensor, scale: Tensor, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients to x, and in float32 to scale and shift, one after the other."""
    g, x, scale = dense(g), dense(x), dense(scale)
    batch, tokens, channels = x.shape
    part, height, size = share(tokens, batch, x.device), rows(channels), block(channels)
    programs = cdiv(tokens, part)
    dx = x.new_empty(x.shape)
    sums = x.new_empty(2, batch, programs, channels, dtype=torch.float32)
    _backward[programs, batch](
        g, x, scale, mean, rstd, dx, *sums,
        *g.stride()[:2], *x.stride()[:2], scale.stride(0),
        tokens, channels, part,
        height, size, STAGES, num_warps=warps(height * size),
    )  # fmt: skip
    return dx, sums.sum(2)


_backward_op = torch.library.custom_op(
    "leapalign::modulate_backward", _launch_backward, mutates_args=()
)


@_backward_op.register_fake
def _backward_shapes(
    g: Tensor,
    x: Tensor,
    scale: Tensor,
    mean: Tensor,
    rstd: Tensor,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), scale.new_empty(2, *scale.shape, dtype=torch.float32)


def _save(ctx, inputs, output) -> None:
    x, scale, shift, _ = inputs
    ctx.shift_dtype = shift.dtype
    ctx.save_for_backward(x, scale, *output[1:])


def _differentiate(backward, ctx, g, _mean, _rstd):
    x, scale, mean, rstd = ctx.saved_tensors
    dx, (dscale, dshift) = backward(g, x, scale, mean, rstd)
    return dx, dscale.to(scale.dtype), dshift.to(ctx.shift_dtype), None


_op.register_autograd(partial(_differentiate, _backward_op), setup_context=_save)
_direct = direct(_launch, _save, partial(_differentiate, _launch_backward))
