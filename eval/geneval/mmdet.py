"""mmdet's Mask2Former checkpoints as transformers' model: same numbers, other names.

mmdet keeps queries, keys and values of its own attention layers in one tensor, and samples the
four neighbours that a Swin stage merges in another order. Everything else is a change of name.
The layout of mmdet 2 (GenEval's) and that of mmdet 3 are both read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import Mask2FormerConfig, SwinConfig

SWIN = "model.pixel_level_module.encoder.swin."
PIXELS = "model.pixel_level_module.decoder."
QUERIES = "model.transformer_module."
LEVELS, POINTS = 3, 4

# In this order: a name meets the first rule that fits its beginning, then those for what is left.
PLACES = (
    (r"backbone\.patch_embed\.projection", SWIN + "embeddings.patch_embeddings.projection"),
    (r"backbone\.patch_embed\.norm", SWIN + "embeddings.norm"),
    (r"backbone\.stages", SWIN + "encoder.layers"),
    (r"panoptic_head\.pixel_decoder\.level_encoding\.weight", PIXELS + "level_embed"),
    (r"panoptic_head\.pixel_decoder\.input_convs", PIXELS + "input_projections"),
    (r"panoptic_head\.pixel_decoder\.lateral_convs\.0", PIXELS + "adapter_1"),
    (r"panoptic_head\.pixel_decoder\.output_convs\.0", PIXELS + "layer_1"),
    (r"panoptic_head\.pixel_decoder\.mask_feature", PIXELS + "mask_projection"),
    (r"panoptic_head\.pixel_decoder\.encoder", PIXELS + "encoder"),
    (r"panoptic_head\.transformer_decoder\.post_norm", QUERIES + "decoder.layernorm"),
    (r"panoptic_head\.transformer_decoder", QUERIES + "decoder"),
    (r"panoptic_head\.query_embed", QUERIES + "queries_embedder"),
    (r"panoptic_head\.query_feat", QUERIES + "queries_features"),
    (r"panoptic_head\.level_embed", QUERIES + "level_embed"),
    (r"panoptic_head\.cls_embed", "class_predictor"),
)
SWIN_PARTS = (
    (r"norm1", "layernorm_before"),
    (r"norm2", "layernorm_after"),
    (r"attn\.w_msa\.relative", "attention.relative_position_bias.relative"),
    (r"attn\.w_msa\.proj", "attention.o_proj"),
    (r"attn\.w_msa", "attention"),
    (r"ffn\.layers\.0\.0", "mlp.fc1"),
    (r"ffn\.layers\.1", "mlp.fc2"),
)
PIXEL_PARTS = (
    (r"(attentions\.0|self_attn)\.(?=sampling|attention|value|output)", "self_attn."),
    (r"norms\.0", "self_attn_layer_norm"),
    (r"norms\.1", "final_layer_norm"),
    (r"\.conv\.", ".0."),
    (r"\.gn\.", ".1."),
)
QUERY_PARTS = (
    (r"(attentions\.0|cross_attn)\.attn", "cross_attn"),
    (r"(attentions\.1|self_attn)\.attn", "self_attn"),
    (r"norms\.0", "cross_attn_layer_norm"),
    (r"norms\.1", "self_attn_layer_norm"),
    (r"norms\.2", "final_layer_norm"),
)
FEED_FORWARD = (
    (r"(ffns\.0|ffn)\.layers\.0\.0", "fc1"),
    (r"(ffns\.0|ffn)\.layers\.1", "fc2"),
)
PARTS = {SWIN: SWIN_PARTS, PIXELS: PIXEL_PARTS + FEED_FORWARD, QUERIES: QUERY_PARTS + FEED_FORWARD}

# transformers keeps these, and neither detection nor mmdet needs them.
UNUSED = {SWIN + "layernorm.weight", SWIN + "layernorm.bias", "criterion.empty_weight"}


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an mmdet checkpoint under transformers' names.

    Raises:
        KeyError: A name is not one of Mask2Former with a Swin backbone.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.endswith("relative_position_index"):
            continue
        converted |= _split(_rename(name), tensor)
    return converted


def configure(state: Mapping[str, Tensor]) -> Mask2FormerConfig:
    """The model that a checkpoint is of, read off the shapes of its tensors."""
    head, decoder = "panoptic_head.", "panoptic_head.pixel_decoder."
    depths = [_count(state, rf"backbone\.stages\.{i}\.blocks\.(\d+)") for i in range(4)]
    tables = [
        state[f"backbone.stages.{i}.blocks.0.attn.w_msa.relative_position_bias_table"]
        for i in range(4)
    ]
    deformable = _first(state, r"pixel_decoder\.encoder\.layers\.0\..*attention_weights\.weight")
    inner = r"\.layers\.0\.(ffns\.0|ffn)\.layers\.0\.0\.weight"
    backbone = SwinConfig(
        embed_dim=len(state["backbone.patch_embed.projection.bias"]),
        depths=depths,
        num_heads=[table.shape[1] for table in tables],
        window_size=(round(len(tables[0]) ** 0.5) + 1) // 2,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    return Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=len(state[decoder + "input_convs.0.conv.bias"]),
        mask_feature_size=len(state[decoder + "mask_feature.bias"]),
        hidden_dim=state[head + "query_feat.weight"].shape[1],
        num_queries=len(state[head + "query_feat.weight"]),
        num_labels=len(state[head + "cls_embed.bias"]) - 1,
        num_attention_heads=len(deformable) // (LEVELS * POINTS),
        encoder_layers=_count(state, r".*pixel_decoder\.encoder\.layers\.(\d+)"),
        encoder_feedforward_dim=len(_first(state, "pixel_decoder.encoder" + inner)),
        # transformers counts the prediction before the first layer too.
        decoder_layers=_count(state, r".*transformer_decoder\.layers\.(\d+)") + 1,
        dim_feedforward=len(_first(state, "transformer_decoder" + inner)),
    )


def _rename(name: str) -> str:
    if found := re.fullmatch(r"backbone\.norm(\d)\.(.+)", name):
        return (
            f"{SWIN.removesuffix('swin.')}hidden_states_norms.stage{int(found[1]) + 1}.{found[2]}"
        )
    if found := re.fullmatch(r"panoptic_head\.mask_embed\.(\d)\.(.+)", name):
        # Linear layers alternate with activations, which have no tensors.
        layer = f"decoder.mask_predictor.mask_embedder.{int(found[1]) // 2}.0."
        return QUERIES + layer + found[2]
    for pattern, place in PLACES:
        if re.match(pattern, name):
            renamed = re.sub(pattern, place, name, count=1)
            return _rename_parts(renamed)
    raise KeyError(name)


def _rename_parts(name: str) -> str:
    for place, parts in PARTS.items():
        if name.startswith(place):
            rest = name.removeprefix(place)
            for pattern, part in parts:
                rest = re.sub(pattern, part, rest)
            return place + rest
    return name


def _split(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """One tensor or three, reordered where a stage merges its neighbours."""
    if "downsample" in name:
        return {name: _reorder(tensor)}
    fused = re.fullmatch(r"(.*attention)\.qkv\.(\w+)|(.*self_attn)\.in_proj_(\w+)", name)
    if not fused:
        return {name: tensor}
    layer, kind = fused[1] or fused[3], fused[2] or fused[4]
    names = (f"{layer}.{part}_proj.{kind}" for part in "qkv")
    return dict(zip(names, tensor.chunk(3), strict=True))


def _reorder(tensor: Tensor) -> Tensor:
    """From mmdet's channel-major samples to Swin's neighbour-major ones, rows first or columns."""
    channels = tensor.shape[-1] // 4
    samples = tensor.unflatten(-1, (channels, 4))
    return torch.stack([samples[..., i] for i in (0, 2, 1, 3)], dim=-2).flatten(-2)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for name in state if (found := re.match(pattern, name))})


def _first(state: Mapping[str, Tensor], pattern: str) -> Tensor:
    for name, tensor in state.items():
        if re.search(pattern, name):
            return tensor
    raise KeyError(pattern)
