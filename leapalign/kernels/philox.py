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
    one, two, three, four = tl.randn4x(seed, counter)
    return tl.reshape(tl.join(tl.join(one, three), tl.join(two, four)), (BLOCK,))


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
