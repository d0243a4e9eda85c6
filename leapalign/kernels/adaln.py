"""adaLN-Zero (arXiv 2212.09748, Sec. 3.2) on the fused operations: what FLUX and SD3 share.

Each class computes what the diffusers class that it derives from does, and keeps its name:
regional compilation, FSDP and checkpointing find modules by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from diffusers.models import normalization
from torch import Tensor, nn

from leapalign.kernels.dispatch import fused_in_block
from leapalign.kernels.gated_add import gated_add
from leapalign.kernels.modulate import modulate


class AdaLayerNormZero(normalization.AdaLayerNormZero):
    """The first norm of a stream with weights of its own, and what modulates the rest of it."""

    def forward(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The modulated tokens, the attention's gate; the feed-forward's shift, scale and gate."""
        shift, scale, gate, *feed_forward = self.linear(self.silu(emb)).chunk(6, dim=1)
        return modulate(x, scale, shift, self.norm.eps), gate, *feed_forward


class SD35AdaLayerNormZeroX(normalization.SD35AdaLayerNormZeroX):
    """The same before two attentions, one of them the image's alone (SD3.5-medium)."""

    def forward(self, hidden_states: Tensor, emb: Tensor) -> tuple[Tensor, ...]:
        """`AdaLayerNormZero`'s; the second attention's modulated tokens and gate."""
        # Both share the stock norm and its backward pass; two references would round it twice.
        if not fused_in_block(hidden_states, emb):
            return super().forward(hidden_states, emb)
        modulation = self.linear(self.silu(emb)).chunk(9, dim=1)
        shift, scale, gate, *feed_forward, shift2, scale2, gate2 = modulation
        first, second = (
            modulate(hidden_states, scale, shift, self.norm.eps)
            for scale, shift in ((scale, shift), (scale2, shift2))
        )
        return first, gate, *feed_forward, second, gate2


class AdaLayerNormZeroSingle(normalization.AdaLayerNormZeroSingle):
    """The norm of a single block."""

    def forward(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """The modulated tokens and the gate."""
        shift, scale, gate = self.linear(self.silu(emb)).chunk(3, dim=1)
        return modulate(x, scale, shift, self.norm.eps), gate


class AdaLayerNormContinuous(normalization.AdaLayerNormContinuous):
    """The norm before the output, and of a text that only its attention reads."""

    def forward(self, x: Tensor, conditioning_embedding: Tensor) -> Tensor:
        """The modulated tokens."""
        scale, shift = self.linear(self.silu(conditioning_embedding).to(x.dtype)).chunk(2, dim=1)
        return modulate(x, scale, shift, self.norm.eps)


def finish(
    x: Tensor, attended: Tensor, modulation: Sequence[Tensor], norm: nn.LayerNorm, ff: nn.Module
) -> Tensor:
    """A stream after its attention: the gated sum, then the feed-forward's.

    Args:
        x: the stream before, [batch, tokens, channels].
        attended: the attention's output, of the same shape.
        modulation: its gate; the feed-forward's shift, scale and gate; each [batch, channels].
        norm: before the feed-forward, without weights.
        ff: the feed-forward.
    """
    gate, ff_shift, ff_scale, ff_gate = modulation
    x = gated_add(x, attended, gate)
    return gated_add(x, ff(modulate(x, ff_scale, ff_shift, norm.eps)), ff_gate)
