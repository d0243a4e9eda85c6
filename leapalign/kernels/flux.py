"""FLUX's attention and blocks (Black Forest Labs, 2024) on the fused operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers import transformer_flux
from torch import Tensor

from leapalign.kernels.adaln import finish
from leapalign.kernels.gated_add import gated_add
from leapalign.kernels.qk_rope import Stream, qk_rope


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
        image = finish(hidden_states, image, image_modulation, self.norm2, self.ff)
        norm, feed_forward = self.norm2_context, self.ff_context
        return finish(encoder_hidden_states, text, text_modulation, norm, feed_forward), image


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
