"""Stable Diffusion 3's block (arXiv 2403.03206, Sec. 4) on the fused operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.models import attention
from torch import Tensor

from leapalign.kernels.adaln import finish
from leapalign.kernels.gated_add import gated_add


class JointTransformerBlock(attention.JointTransformerBlock):
    """Text and image with weights of their own, joined in the attention.

    In SD3.5-medium's first blocks the image then attends to itself alone; the last block of a model
    has no text.
    """

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        joint_attention_kwargs: Mapping[str, Any] | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """The text's and the image's tokens."""
        more = joint_attention_kwargs or {}
        if self._chunk_size is not None:
            return super().forward(hidden_states, encoder_hidden_states, temb, more)
        normed, gate, *feed_forward = self.norm1(hidden_states, emb=temb)
        if self.context_pre_only:
            text = self.norm1_context(encoder_hidden_states, temb)
        else:
            text, *text_modulation = self.norm1_context(encoder_hidden_states, emb=temb)
        image, text = self.attn(hidden_states=normed, encoder_hidden_states=text, **more)
        if self.use_dual_attention:
            *feed_forward, normed, second_gate = feed_forward
            hidden_states = gated_add(hidden_states, image, gate)
            image, gate = self.attn2(hidden_states=normed, **more), second_gate
        image = finish(hidden_states, image, [gate, *feed_forward], self.norm2, self.ff)
        if self.context_pre_only:
            return None, image
        norm, ff = self.norm2_context, self.ff_context
        return finish(encoder_hidden_states, text, text_modulation, norm, ff), image
