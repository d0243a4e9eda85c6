"""FLUX's blocks on the fused operations, fitted into a loaded diffusers transformer.

Parameters, their names and the model's own code stay as they are: a module changes its class to one
whose forward computes the same with `leapalign.kernels`, an attention its processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models import normalization
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers import transformer_flux
from torch import Tensor, nn

from leapalign.kernels.dispatch import DTYPES
from leapalign.kernels.gated_add import gated_add
from leapalign.kernels.modulate import modulate
from leapalign.kernels.qk_rope import Stream, qk_rope


def fuse(transformer: nn.Module) -> None:
    """Fit the fused operations into a FluxTransformer2DModel, in place.

    A transformer in float16 or float64, which the kernels do not take, is left alone.
    """
    if transformer.dtype not in DTYPES:
        return
    for module in transformer.modules():
        if type(module) in FUSED:
            module.__class__ = FUSED[type(module)]
        if isinstance(module, transformer_flux.FluxAttention):
            module.set_processor(FluxAttnProcessor())


# The classes keep diffusers' names: regional compilation and FSDP find blocks by them.


class AdaLayerNormZero(normalization.AdaLayerNormZero):
    """The first norm of a double block's stream, and what modulates the rest of it."""

    def forward(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """The modulated tokens, the attention's gate; the feed-forward's shift, scale and gate."""
        shift, scale, gate, *feed_forward = self.linear(self.silu(emb)).chunk(6, dim=1)
        return modulate(x, scale, shift, self.norm.eps), gate, *feed_forward


class AdaLayerNormZeroSingle(normalization.AdaLayerNormZeroSingle):
    """The norm of a single block."""

    def forward(self, x: Tensor, emb: Tensor) -> tuple[Tensor, Tensor]:
        """The modulated tokens and the gate."""
        shift, scale, gate = self.linear(self.silu(emb)).chunk(3, dim=1)
        return modulate(x, scale, shift, self.norm.eps), gate


class AdaLayerNormContinuous(normalization.AdaLayerNormContinuous):
    """The norm before the output."""

    def forward(self, x: Tensor, conditioning_embedding: Tensor) -> Tensor:
        """The modulated tokens."""
        scale, shift = self.linear(self.silu(conditioning_embedding).to(x.dtype)).chunk(2, dim=1)
        return modulate(x, scale, shift, self.norm.eps)


class FluxAttnProcessor(transformer_flux.FluxAttnProcessor):
    """Joint attention; norms, joining of the streams and rotary embedding are one operation."""

    def __call__(
        self,
        attn: transformer_flux.FluxAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The attended stream or, in a double block, the image's and the text's."""
        if image_rotary_emb is None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)
        projections = transformer_flux._get_qkv_projections(
            attn, hidden_states, encoder_hidden_states
        )
        heads = (-1, attn.head_dim)
        query, key, value = (x.unflatten(-1, heads) for x in projections[:3])
        streams = [Stream(query, key, attn.norm_q.weight, attn.norm_k.weight)]
        if encoder_hidden_states is not None:
            query, key, text_value = (x.unflatten(-1, heads) for x in projections[3:])
            text = Stream(query, key, attn.norm_added_q.weight, attn.norm_added_k.weight)
            streams, value = [text, *streams], torch.cat([text_value, value], dim=1)
        query, key = qk_rope(streams, *image_rotary_emb, attn.norm_q.eps)
        attended = dispatch_attention_fn(
            query,
            key,
            value,
            attn_mask=attention_mask,
            backend=self._attention_backend,
            parallel_config=self._parallel_config,
        ).flatten(2, 3)
        if encoder_hidden_states is None:
            return attended
        text_tokens = encoder_hidden_states.shape[1]
        image_attended = attn.to_out[1](attn.to_out[0](attended[:, text_tokens:].contiguous()))
        return image_attended, attn.to_add_out(attended[:, :text_tokens].contiguous())


class FluxTransformerBlock(transformer_flux.FluxTransformerBlock):
    """A double block: text and image with weights of their own, joined in the attention."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        joint_attention_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The text's and the image's tokens."""
        image, *image_modulation = self.norm1(hidden_states, emb=temb)
        text, *text_modulation = self.norm1_context(encoder_hidden_states, emb=temb)
        image, text = self.attn(
            hidden_states=image,
            encoder_hidden_states=text,
            image_rotary_emb=image_rotary_emb,
            **(joint_attention_kwargs or {}),
        )
        image = _finish(hidden_states, image, image_modulation, self.norm2, self.ff)
        norm, feed_forward = self.norm2_context, self.ff_context
        return _finish(encoder_hidden_states, text, text_modulation, norm, feed_forward), image


def _finish(
    x: Tensor, attended: Tensor, modulation: list[Tensor], norm: nn.LayerNorm, ff: nn.Module
) -> Tensor:
    """A stream after its attention: the gated sum, then the feed-forward's."""
    gate, ff_shift, ff_scale, ff_gate = modulation
    x = gated_add(x, attended, gate)
    return gated_add(x, ff(modulate(x, ff_scale, ff_shift, norm.eps)), ff_gate)


class FluxSingleTransformerBlock(transformer_flux.FluxSingleTransformerBlock):
    """A single block: attention and feed-forward side by side on the joint stream."""

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        joint_attention_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The text's and the image's tokens."""
        joint = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        normed, gate = self.norm(joint, emb=temb)
        fed_forward = self.act_mlp(self.proj_mlp(normed))
        attended = self.attn(
            hidden_states=normed,
            image_rotary_emb=image_rotary_emb,
            **(joint_attention_kwargs or {}),
        )
        branch = self.proj_out(torch.cat([attended, fed_forward], dim=2))
        joint = gated_add(joint, branch, gate)
        text_tokens = encoder_hidden_states.shape[1]
        return joint[:, :text_tokens], joint[:, text_tokens:]


FUSED: dict[type[nn.Module], type[nn.Module]] = {
    normalization.AdaLayerNormZero: AdaLayerNormZero,
    normalization.AdaLayerNormZeroSingle: AdaLayerNormZeroSingle,
    normalization.AdaLayerNormContinuous: AdaLayerNormContinuous,
    transformer_flux.FluxTransformerBlock: FluxTransformerBlock,
    transformer_flux.FluxSingleTransformerBlock: FluxSingleTransformerBlock,
}
