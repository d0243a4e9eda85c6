"""Low-rank adapters (LoRA, arXiv 2106.09685): what a training changes instead of all weights.

An adapted layer computes W x + (alpha / rank) B A x; W is frozen, A and B are trained.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from leapalign.errors import UserError
from leapalign.parsing import nearest
from leapalign.settings import Adapter
from leapalign.streams import stream

NAME = "default"
"""The adapter's name within the transformer: the one that peft gives."""


def adapted(transformer: nn.Module, adapter: Adapter | None, seed: int) -> nn.Module:
    """The transformer, in place, with what is trained of it: all weights, or an adapter's alone.

    Raises:
        UserError: the adapter targets a layer that the transformer does not have.
    """
    transformer.requires_grad_(adapter is None)
    if adapter is not None:
        add_adapter(transformer, adapter, seed)
    return transformer


def add_adapter(transformer: Any, adapter: Adapter, seed: int) -> None:  # noqa: ANN401
    """Add an adapter, in float32, that changes nothing yet: B is zero, A uniform in ±1/√inputs.

    Each layer draws from a stream of its own, whatever the device and the other layers.

    Args:
        transformer: a diffusers model.
        adapter: rank, alpha and targets.
        seed: root of the random streams.

    Raises:
        UserError: a target is no layer of the transformer.
    """
    _check_targets(transformer, adapter)
    transformer.add_adapter(lora(adapter), NAME)
    cast_training_params(transformer, torch.float32)
    for name, layer in transformer.named_modules():
        if isinstance(layer, LoraLayer):
            a: Any = layer.lora_A[NAME]
            drawn = torch.empty(a.weight.shape)
            source = stream(seed, "adapter", name)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=source)
            a.weight.data.copy_(drawn)


def lora(adapter: Adapter) -> LoraConfig:
    """An adapter as peft describes it."""
    return LoraConfig(r=adapter.rank, lora_alpha=adapter.alpha, target_modules=[*adapter.targets])


def _check_targets(transformer: nn.Module, adapter: Adapter) -> None:
    """Refuse a target without a layer, of which peft says nothing as long as another has one."""
    layers = [n for n, module in transformer.named_modules() if isinstance(module, nn.Linear)]
    for target in adapter.targets:
        if not any(f".{name}".endswith(f".{target}") for name in layers):
            tails = {re.sub(r"^.*?\.\d+\.", "", name) for name in layers}
            raise UserError(
                f"training.adapter.targets: the transformer has no linear layer `{target}`"
                f"{nearest(target, tails)}"
            )
