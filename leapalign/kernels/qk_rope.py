"""FLUX's query and key: RMSNorm per head, streams joined, rotary embedding of adjacent pairs.

n = x / √(mean x² + eps) · weight (arXiv 1910.07467, Eq. 4), then for each pair (2i, 2i+1) of a head
(arXiv 2104.09864, Eq. 34): out[2i] = n[2i] cos - n[2i+1] sin, out[2i+1] = n[2i+1] cos + n[2i] sin.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from leapalign.kernels.dispatch import (
    block,
    cdiv,
    dense,
    direct,
    fused_in_block,
    jit,
    share,
    tl,
    traced,
)

# Heads whose gradient a program turns back at once.
HEADS = 8

Heads = Float[Tensor, "batch tokens heads width"]
Angles = Float[Tensor, "joint_tokens width"]


class Stream(NamedTuple):
    """One stream's projections and the weights of their norms."""

    query: Float[Tensor, "batch tokens heads width"]
    key: Float[Tensor, "batch tokens heads width"]
    query_weight: Float[Tensor, " width"]
    key_weight: Float[Tensor, " width"]


def qk_rope(
    streams: Sequence[Stream], cos: Angles, sin: Angles, eps: float = 1e-6
) -> tuple[Heads, Heads]:
    """The attention's query and key of all streams, one after the other along the tokens.

    Args:
        streams: the text's and the image's in a double block, the joint one in a single block.
        cos: of each joint token's angles, every angle twice in a row.
        sin: likewise; the kernels have no gradient to either.
        eps: of the norms.

    Returns:
        Query and key [batch, joint tokens, heads, width]. The kernels compute in float32 and round
        once, to the type of the first stream's query.
    """
    tensors = [tensor for stream in streams for tensor in stream]
    if fused_in_block(*tensors, constants=(cos, sin)) and cos.shape[-1] % 2 == 0:
        columns = list(map(list, zip(*streams, strict=True)))
        if traced():
            return torch.ops.leapalign.qk_rope(*columns, cos, sin, eps)
        return _direct(cos, sin, eps, *itertools.chain.from_iterable(columns))
    return reference(streams, cos, sin, eps)


def reference(
    streams: Sequence[Stream], cos: Tensor, sin: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """The same in PyTorch, in the operations and the order of diffusers' processor."""
    width = cos.shape[-1:]
    query = [F.rms_norm(s.query, width, s.query_weight, eps) for s in streams]
    key = [F.rms_norm(s.key, width, s.key_weight, eps) for s in streams]
    return rotate(_join(query), cos, sin), rotate(_join(key), cos, sin)


def rotate(x: Heads, cos: Angles, sin: Angles) -> Heads:
    """Turn each pair of a head by its token's angle, in float32 or wider.

    As one complex product, which passes over memory a third as often as diffusers' real ones. In
    float32 it rounds as they do; in bf16 its gradient is rounded less often. torch.compile, which
    fuses no complex numbers, is given the real ones.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    pairs = x.to(wide).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        real, imaginary = pairs.unbind(-1)
        turned = torch.stack([-imaginary, real], dim=-1).flatten(-2)
        return (x.to(wide) * cos[None, :, None] + turned * sin[None, :, None]).to(x.dtype)
    turn = torch.complex(cos[:, ::2], sin[:, ::2])
    turned = torch.view_as_complex(pairs) * turn[None, :, None]
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def _join(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts), dim=1) if len(parts) > 1 else parts[0]


@jit
def _rotate(x, cos, sin, HEADS: tl.constexpr, BLOCK: tl.constexpr):
    even, odd = tl.split(tl.reshape(x, (HEADS, BLOCK // 2, 2)))
    cos_even, cos_odd = tl.split(tl.reshape(cos, (1, BLOCK // 2, 2)))
    sin_even, sin_odd = tl.split(tl.reshape(sin, (1, BLOCK // 2, 2)))
    turned = tl.join(even * cos_even - odd * sin_even, odd * cos_odd + even * sin_odd)
    return tl.reshape(turned, (HEADS, BLOCK))


@jit
def _rotate_back(g, cos, sin, HEADS: tl.constexpr, BLOCK: tl.constexpr):
    even, odd = tl.split(tl.reshape(g, (HEADS, BLOCK // 2, 2)))
    cos_even, cos_odd = tl.split(tl.reshape(cos, (1, BLOCK // 2, 2)))
    sin_even, sin_odd = tl.split(tl.reshape(sin, (1, BLOCK // 2, 2)))
    turned = tl.join(even * cos_even + odd * sin_odd, odd * cos_odd - even * sin_even)
    return tl.reshape(turned, (HEADS, BLOCK))


@jit
def _inverse_rms(x, width, eps):
    return tl.rsqrt(tl.sum(x * x, axis=1, keep_dims=True) / width + eps)


@jit
def _forward(
    query, key, query_weight, key_weight, cos, sin, query_out, key_out,
    query_batch, query_token, query_head, key_batch, key_token, key_head,
    joint_tokens, heads, width, eps,
    HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # `cos`, `sin` and the outputs begin at the stream's first joint token.
    t, b = tl.program_id(0), tl.program_id(1).to(tl.int64)
    h, d = tl.arange(0, HEADS)[:, None], tl.arange(0, BLOCK)[None, :]
    wide = d < width
    inside = (h < heads) & wide
    c = tl.load(cos + t * width + d, mask=wide, other=0.0).to(tl.float32)
    s = tl.load(sin + t * width + d, mask=wide, other=0.0).to(tl.float32)
    out = (b * joint_tokens + t) * heads * width + h * width + d

    at = b * query_batch + t * query_token + h * query_head + d
    x = tl.load(query + at, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(query_weight + d, mask=wide, other=0.0).to(tl.float32)
    normed = x * _inverse_rms(x, width, eps) * weight
    tl.store(query_out + out, _rotate(normed, c, s, HEADS, BLOCK), mask=inside)

    at = b * key_batch + t * key_token + h * key_head + d
    x = tl.load(key + at, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(key_weight + d, mask=wide, other=0.0).to(tl.float32)
    normed = x * _inverse_rms(x, width, eps) * weight
    tl.store(key_out + out, _rotate(normed, c, s, HEADS, BLOCK), mask=inside)


@jit
def _backward(
    g, x, weight, cos, sin, dx, dweight,
    g_batch, g_token, g_head, x_batch, x_token, x_head,
    tokens, heads, width, share, eps,
    HEADS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # `g`, `cos` and `sin` begin at the stream's first joint token.
    b = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0) * share
    h = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    d = tl.arange(0, BLOCK)[None, :]
    wide = d < width
    inside = (h < heads) & wide
    factor = tl.load(weight + d, mask=wide, other=0.0).to(tl.float32)
    weight_sum = tl.zeros((HEADS, BLOCK), tl.float32)
    for t in range(first, min(first + share, tokens)):
        c = tl.load(cos + t * width + d, mask=wide, other=0.0).to(tl.float32)
        s = tl.load(sin + t * width + d, mask=wide, other=0.0).to(tl.float32)
        at = b * g_batch + t * g_token + h * g_head + d
        dy = tl.load(g + at, mask=inside, other=0.0).to(tl.float32)
        at = b * x_batch + t * x_token + h * x_head + d
        row = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        inverse = _inverse_rms(row, width, eps)
        normed = row * inverse
        dweighted = _rotate_back(dy, c, s, HEADS, BLOCK)
        weight_sum += dweighted * normed
        dnormed = dweighted * factor
        along = tl.sum(dnormed * normed, axis=1, keep_dims=True) / width
        out = (b * tokens + t) * heads * width + h * width + d
        tl.store(dx + out, (dnormed - normed * along) * inverse, mask=inside)
    part = (
        (b * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    ) * width
    summed = tl.sum(weight_sum, axis=0, keep_dims=True)
    tl.store(dweight + part + d, summed, mask=wide)


def _launch(
    query: Sequence[Tensor],
    key: Sequence[Tensor],
    query_weight: Sequence[Tensor],
    key_weight: Sequence[Tensor],
    cos: Tensor,
    sin: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """One launch per stream, each at its place in the joint query and key."""
    query_out, key_out = _op_shapes(query, key, query_weight, key_weight, cos, sin, eps)
    cos, sin = cos.contiguous(), sin.contiguous()
    joint, heads, width = query_out.shape[1:]
    start = 0
    for q, k, q_weight, k_weight in zip(
        map(dense, query), map(dense, key), query_weight, key_weight, strict=True
    ):
        batch, tokens = q.shape[:2]
        _forward[tokens, batch](
            q, k, q_weight.contiguous(), k_weight.contiguous(),
            cos[start:], sin[start:], query_out[:, start:], key_out[:, start:],
            *q.stride()[:3], *k.stride()[:3],
            joint, heads, width, eps,
            block(heads), block(width),
        )  # fmt: skip
        start += tokens
    return query_out, key_out


_op = torch.library.custom_op("leapalign::qk_rope", _launch, mutates_args=())


@_op.register_fake
def _op_shapes(
    query: Sequence[Tensor],
    key: Sequence[Tensor],
    query_weight: Sequence[Tensor],
    key_weight: Sequence[Tensor],
    cos: Tensor,
    sin: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    batch, _, heads, width = query[0].shape
    joint = sum(q.shape[1] for q in query)
    out = query[0].new_empty(batch, joint, heads, width)
    return out, torch.empty_like(out)


def _launch_backward(
    g: Tensor, x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The gradients to one stream's query or key, and in float32 to its norm's weight."""
    g, x = dense(g), dense(x)
    batch, tokens, heads, width = x.shape
    sizes = min(block(heads), HEADS), block(width)
    columns = cdiv(heads, sizes[0])
    part = share(tokens, columns * batch, x.device, programs=8)
    programs = cdiv(tokens, part)
    dx = x.new_empty(x.shape)
    dweight = x.new_empty(batch * columns * programs, width, dtype=torch.float32)
    _backward[programs, columns, batch](
        g, x, weight.contiguous(), cos.contiguous(), sin.contiguous(), dx, dweight,
        *g.stride()[:3], *x.stride()[:3],
        tokens, heads, width, part, eps,
        *sizes,
    )  # fmt: skip
    return dx, dweight.sum(0)


_backward_op = torch.library.custom_op(
    "leapalign::qk_rope_backward", _launch_backward, mutates_args=()
)


@_backward_op.register_fake
def _backward_shapes(
    g: Tensor,
    x: Tensor,
    weight: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape, dtype=torch.float32)


def _save(ctx, inputs, output) -> None:
    query, key, query_weight, key_weight, cos, sin, ctx.eps = inputs
    ctx.save_for_backward(*query, *key, *query_weight, *key_weight, cos, sin)


def _differentiate(backward, ctx, query_g, key_g):
    *tensors, cos, sin = ctx.saved_tensors
    query, key, query_weight, key_weight = _lists(tensors)

    def gradients(g: Tensor, xs: Sequence[Tensor], weights: Sequence[Tensor]):
        """Each stream's share of a joint gradient, to its projection and its norm's weight."""
        shares, start = [], 0
        for x, weight in zip(xs, weights, strict=True):
            here = slice(start, start + x.shape[1])
            dx, dweight = backward(g[:, here], x, weight, cos[here], sin[here], ctx.eps)
            shares.append((dx, dweight.to(weight.dtype)))
            start = here.stop
        return map(list, zip(*shares, strict=True))

    dquery, dquery_weight = gradients(query_g, query, query_weight)
    dkey, dkey_weight = gradients(key_g, key, key_weight)
    return dquery, dkey, dquery_weight, dkey_weight, None, None, None


def _lists(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """All streams' queries, keys and weights of both, of one list of them."""
    n = len(tensors) // 4
    return [list(tensors[i * n : (i + 1) * n]) for i in range(4)]


def _launch_flat(cos: Tensor, sin: Tensor, eps: float, *tensors: Tensor) -> tuple[Tensor, Tensor]:
    """`_launch` of tensors that no list hides from autograd."""
    query, key, query_weight, key_weight = _lists(tensors)
    return _launch(query, key, query_weight, key_weight, cos, sin, eps)


def _save_flat(ctx, inputs, output) -> None:
    cos, sin, eps, *tensors = inputs
    _save(ctx, (*_lists(tensors), cos, sin, eps), output)


def _differentiate_flat(ctx, query_g, key_g):
    *columns, cos, sin, eps = _differentiate(_launch_backward, ctx, query_g, key_g)
    return cos, sin, eps, *itertools.chain.from_iterable(columns)


_op.register_autograd(partial(_differentiate, _backward_op), setup_context=_save)
_direct = direct(_launch_flat, _save_flat, _differentiate_flat, differentiable=2)
