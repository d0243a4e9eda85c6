"""Normal noise by counter: Philox 4x32-10 (Salmon et al., 2011) and Box-Muller.

Element i of a sample is output i mod 4 of the generator at counter ⌊i / 4⌋ under the sample's key,
so the noise needs no state, and no memory where a kernel consumes it. The key is 64 bits wide, as
`leapalign.streams.stream_seed` makes them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from leapalign.kernels.dispatch import jit, tl

KEYS = (0x9E3779B9, 0xBB67AE85)
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
ROUNDS = 10
WORD = 0xFFFFFFFF
# As Triton maps integers to [0, 1): the largest float32 that keeps 2^31 - 1 below 1.
UNIT = 4.6566127342e-10
SMALLEST = 1e-7


@jit
def draw(seed, first, BLOCK: tl.constexpr) -> tl.tensor:
    """The noise of elements first to first + BLOCK, both multiples of 4."""
    counter = first // 4 + tl.arange(0, BLOCK // 4)
    uniforms = tl.rand4x(seed, counter)
    one, two = _box_muller(uniforms[0], uniforms[1])
    three, four = _box_muller(uniforms[2], uniforms[3])
    return tl.reshape(tl.join(tl.join(one, three), tl.join(two, four)), (BLOCK,))


@jit
def _box_muller(u, turn):
    """Two normals from two uniforms; a library's sine would cost more than all of Philox."""
    radius = tl.sqrt(-2.0 * tl.log(tl.maximum(u, 1e-7)))
    half = turn - 0.5
    cosine = -_sine(0.25 - tl.abs(half))
    folded = tl.where(half > 0.25, 0.5 - half, tl.where(half < -0.25, -0.5 - half, half))
    return radius * cosine, -radius * _sine(folded)


@jit
def _sine(turn):
    """The sine of |t| ≤ ¼ turns: its series to the eleventh power, which is within 6e-8."""
    x = 6.283185307179586 * turn
    y = x * x
    tail = 1.0 / 362880.0 - y * (1.0 / 39916800.0)
    return x * (1.0 - y * (1.0 / 6.0 - y * (1.0 / 120.0 - y * (1.0 / 5040.0 - y * tail))))


def normal(seed: Int[Tensor, " batch"], size: int) -> Float[Tensor, "batch size"]:
    """The same noise in PyTorch, float64 from the float32 uniforms that the kernels draw."""
    counter = torch.arange(-(-size // 4), device=seed.device)
    words = philox(seed[:, None], counter[None])
    radius = (-2.0 * words[..., 0::2].clamp_min(SMALLEST).double().log()).sqrt()
    angle = 2.0 * torch.pi * words[..., 1::2].double()
    pairs = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
    return pairs.flatten(1)[:, :size]


def philox(seed: Int[Tensor, "batch 1"], counter: Int[Tensor, "1 n"]) -> Float[Tensor, "batch n 4"]:
    """Four uniforms in [0, 1) per counter, float32; 32-bit words are held in 64-bit integers."""
    low, high = seed & WORD, (seed >> 32) & WORD
    word = [(counter + 0 * low) & WORD, counter >> 32, 0 * counter, 0 * counter]
    for _ in range(ROUNDS):
        (high_a, low_a), (high_b, low_b) = (
            _wide_product(word[i], multiplier)
            for i, multiplier in zip((0, 2), MULTIPLIERS, strict=True)
        )
        word = [high_b ^ word[1] ^ low, low_b, high_a ^ word[3] ^ high, low_a]
        low, high = (low + KEYS[0]) & WORD, (high + KEYS[1]) & WORD
    signed = torch.stack(torch.broadcast_tensors(*word), dim=-1).to(torch.int32)
    return torch.where(signed < 0, ~signed, signed).float() * UNIT


def _wide_product(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """The high and low words of a product, by halves, since it may not fit 63 bits."""
    upper, lower = word * (multiplier >> 16), word * (multiplier & 0xFFFF)
    middle = (upper & 0xFFFF) * 0x10000 + lower
    return (upper >> 16) + (middle >> 32), middle & WORD
