"""What a training leaves: weights that stock diffusers pipelines load.

All weights of a transformer are a diffusers folder, `transformer/`; an adapter is what
`load_lora_weights` reads, `pytorch_lora_weights.safetensors`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline
from peft import get_peft_model_state_dict
from torch import Tensor

from leapalign.adapters import NAME
from leapalign.files import replacing

WEIGHTS = "weights"
"""The folder's name among a training's results."""


def export(
    pipeline: DiffusionPipeline,
    weights: Mapping[str, Tensor],
    folder: Path,
    precision: torch.dtype = torch.float32,
) -> None:
    """Write trained weights to a folder, whole or not at all.

    Args:
        pipeline: the base model's, its transformer trained, sharded or not.
        weights: by their names in the transformer that was trained; of an adapter's transformer,
            the adapter's suffice.
        folder: replaced if it is there.
        precision: of all weights of a transformer; an adapter's are written as they are.

    Raises:
        OSError: the folder cannot be written; the error names it.
    """
    transformer: Any = pipeline.transformer
    with replacing(folder) as draft:
        draft.mkdir()
        if getattr(transformer, "peft_config", None):
            _save_adapter(pipeline, transformer, weights, draft)
        else:
            _save_transformer(pipeline, transformer, weights, draft, precision)


def _save_adapter(
    pipeline: DiffusionPipeline,
    transformer: Any,  # noqa: ANN401 - diffusers' own
    weights: Mapping[str, Tensor],
    folder: Path,
) -> None:
    """Save A and B of every adapted layer, and with them alpha, which their shapes do not tell."""
    layers = get_peft_model_state_dict(transformer, dict(weights), adapter_name=NAME)
    config = transformer.peft_config[NAME].to_dict()
    ordered = {key: sorted(v) if isinstance(v, set) else v for key, v in config.items()}
    type(pipeline).save_lora_weights(
        folder,
        transformer_lora_layers={name: value.contiguous() for name, value in layers.items()},
        transformer_lora_adapter_metadata=ordered,
    )


def _save_transformer(
    pipeline: DiffusionPipeline,
    transformer: Any,  # noqa: ANN401 - diffusers' own
    weights: Mapping[str, Tensor],
    folder: Path,
    precision: torch.dtype,
) -> None:
    """Save a stock transformer that has these weights, in shards of at most 10 GB."""
    stock = getattr(diffusers, pipeline.config["transformer"][1])
    config = {key: v for key, v in transformer.config.items() if key != "_name_or_path"}
    with init_empty_weights():
        network = stock.from_config(config)
    tensors = {name: value.detach().to(precision) for name, value in weights.items()}
    network.load_state_dict(tensors, assign=True)
    network.save_pretrained(folder / "transformer")
