"""Gated residual (arXiv 2212.09748, adaLN-Zero): residual + gate · x."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from leapalign.kernels.dispatch import (
    STAGES,
    cdiv,
    dense,
    direct,
    fused_in_block,
    jit,
    share,
    tile,
    tl,
    traced,
    warps,
)


def gated_add(
    residual: Float[Tensor, "batch tokens channels"],
    x: Float[Tensor, "batch tokens channels"],
    gate: Float[Tensor, "batch channels"],
) -> Float[Tensor, "batch tokens channels"]:
    """Add a branch's output to the stream, each channel gated as its sample says.

    The kernels compute in float32 and round once, to the promoted type of the inputs.
    """
    if fused_in_block(residual, x, gate):
        return (torch.ops.leapalign.gated_add if traced() else _direct)(residual, x, gate)
    return reference(residual, x, gate)


def reference(residual: Tensor, x: Tensor, gate: Tensor) -> Tensor:
    """The same in PyTorch, in the operations and the order of diffusers' blocks."""
    return residual + gate.unsqueeze(1) * x


@jit
def _forward(
    residual, x, gate, y,
    residual_batch, residual_token, x_batch, x_token, gate_batch,
    tokens, channels,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(2).to(tl.int64)
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    wide = c < channels
    inside = (t < tokens) & wide
    base = residual + b * residual_batch + t * residual_token
    stream = tl.load(base + c, mask=inside, other=0.0).to(tl.float32)
    branch = tl.load(x + b * x_batch + t * x_token + c, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(gate + b * gate_batch + c, mask=wide, other=0.0).to(tl.float32)
    tl.store(y + (b * tokens + t) * channels + c, stream + factor * branch, mask=inside)


@jit
def _backward(
    g, x, gate, dx, dgate,
    g_batch, g_token, x_batch, x_token, gate_batch,
    tokens, channels, share,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0) * share
    last = min(first + share, tokens)
    r = tl.arange(0, ROWS)[:, None]
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    wide = c < channels
    factor = tl.load(gate + b * gate_batch + c, mask=wide, other=0.0).to(tl.float32)
    gate_sum = tl.zeros((ROWS, BLOCK), tl.float32)
    for start in tl.range(first, last, ROWS, num_stages=STAGES):
        t = start + r
        inside = (t < last) & wide
        dy = tl.load(g + b * g_batch + t * g_token + c, mask=inside, other=0.0).to(tl.float32)
        branch = tl.load(x + b * x_batch + t * x_token + c, mask=inside, other=0.0).to(tl.float32)
        gate_sum += dy * branch
        tl.store(dx + (b * tokens + t) * channels + c, dy * factor, mask=inside)
    part = (b * tl.num_programs(0) + tl.program_id(0)) * channels
    tl.store(dgate + part + c, tl.sum(gate_sum, axis=0, keep_dims=True), mask=wide)


def _launch(residual: Tensor, x: Tensor, gate: Tensor) -> Tensor:
    """The kernel over all samples."""
    y = _op_shape(residual, x, gate)
    residual, x, gate = dense(residual), dense(x), dense(gate)
    batch, tokens, channels = x.shape
    rows, size = tile(channels)
    _forward[cdiv(tokens, rows), cdiv(channels, size), batch](
        residual, x, gate, y,
        *residual.stride()[:2], *x.stride()[:2], gate.stride(0),
        tokens, channels,
        rows, size, num_warps=warps(rows * size),
    )  # fmt: skip
    return y


_op = torch.library.custom_op("leapalign::gated_add", _launch, mutates_args=())


@_op.register_fake
def _op_shape(residual: Tensor, x: Tensor, gate: Tensor) -> Tensor:
    dtype = torch.promote_types(residual.dtype, torch.promote_types(x.dtype, gate.dtype))
    return x.new_empty(x.shape, dtype=dtype)


def _launch_backward(g: Tensor, x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients to x, and in float32 to the gate; the residual's is g itself."""
    g, x, gate = dense(g), dense(x), dense(gate)
    batch, tokens, channels = x.shape
    rows, size = tile(channels)
    columns = cdiv(channels, size)
    part = share(tokens, columns * batch, x.device)
    programs = cdiv(tokens, part)
    dx = x.new_empty(x.shape)
    dgate = x.new_empty(batch, programs, channels, dtype=torch.float32)
    _backward[programs, columns, batch](
        g, x, gate, dx, dgate,
        *g.stride()[:2], *x.stride()[:2], gate.stride(0),
        tokens, channels, part,
        rows, size, STAGES, num_warps=warps(rows * size),
    )  # fmt: skip
    return dx, dgate.sum(1)


_backward_op = torch.library.custom_op(
    "leapalign::gated_add_backward", _launch_backward, mutates_args=()
)


@_backward_op.register_fake
def _backward_shapes(g: Tensor, x: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), gate.new_empty(gate.shape, dtype=torch.float32)


def _save(ctx, inputs, output) -> None:
    residual, x, gate = inputs
    ctx.residual_dtype = residual.dtype
    ctx.save_for_backward(x, gate)


def _differentiate(backward, ctx, g):
    x, gate = ctx.saved_tensors
    dx, dgate = backward(g, x, gate)
    return g.to(ctx.residual_dtype), dx, dgate.to(gate.dtype)


_op.register_autograd(partial(_differentiate, _backward_op), setup_context=_save)
_direct = direct(_launch, _save, partial(_differentiate, _launch_backward))
