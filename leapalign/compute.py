"""How a model is made to fit its machine: activations computed again, blocks compiled."""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch
from torch import Tensor, nn

from leapalign.backbones.backbone import Backbone
from leapalign.errors import UserError
from leapalign.settings import Adapter, Compute

LOWERED = ("hidden_states", "encoder_hidden_states", "pooled_projections", "guidance")
"""What diffusers' transformers take in their own precision."""


def load_types(compute: Compute, adapter: Adapter | None) -> dict[str, torch.dtype]:
    """The precisions that a backbone is loaded in, as arguments of its `load`.

    Trained weights are float32 whatever the passes compute in: AdamW's steps of 1e-5 are lost in
    bfloat16's 8 bits. What is frozen needs no more precision than the passes.
    """
    passes: torch.dtype = getattr(torch, compute.precision)
    return {"dtype": passes if adapter else torch.float32, "encoder_dtype": passes}


def fit(backbone: Backbone, compute: Compute) -> None:
    """Let a model compute its blocks again in backward passes, and compile the transformer's.

    To be called on the plain module: after an adapter's layers are in, for they are parts of the
    blocks, and before the average and `fully_shard`, whose hooks then stand outside of what is
    computed again, and that outside of what is compiled (torchtitan's order). Names and values of
    the weights stay, and passes without gradient are as they were but for being compiled.

    Args:
        backbone: its transformer and decoder are changed in place.
        compute: the settings; by default nothing happens.

    Raises:
        UserError: the model cannot do it, or there is no C++ compiler.
    """
    if compute.recompute:
        _recompute(backbone.transformer)
        _recompute(backbone.pipeline.vae)
    if compute.compile:
        _require_compiler()
        for block in blocks(backbone.transformer):
            # Not `block.compile()`, which takes hooks into the graph, those of FSDP among them.
            setattr(block, "forward", torch.compile(block.forward))  # noqa: B010 - a method


def keep_to_flash_attention() -> None:
    """Let attention be flash attention's wherever a backward pass may follow.

    On Hopper torch takes cuDNN's, which is twice as fast; but its backward pass reads outside of
    its memory at the 2,537 tokens of FLUX at 720 pixels (torch 2.11 on an H200).
    """
    torch.backends.cuda.enable_cudnn_sdp(enabled=False)


def lower(transformer: nn.Module, precision: torch.dtype) -> None:
    """Let a transformer of lower precision take float32 tensors and give float32 velocities.

    Its time stays as it is: FLUX rounds it itself, Stable Diffusion 3 embeds it in float32. So
    training and evaluation compute alike, as the stock pipelines do in this precision.

    Args:
        transformer: diffusers'; hooks are added in place.
        precision: of its weights, or of what FSDP gathers of them.
    """

    def enter(
        _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = {name: kwargs[name] for name in LOWERED if torch.is_tensor(kwargs.get(name))}
        return args, {**kwargs, **{name: value.to(precision) for name, value in given.items()}}

    def leave(_: nn.Module, __: tuple[Any, ...], output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(value.float() for value in output)

    transformer.register_forward_pre_hook(enter, with_kwargs=True)
    transformer.register_forward_hook(leave)


def blocks(transformer: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a diffusers transformer: what is compiled, or sharded, one by one.

    Raises:
        UserError: it does not say what they are.
    """
    names = getattr(transformer, "_no_split_modules", None) or ()
    found = [module for module in transformer.modules() if type(module).__name__ in names]
    if not found:
        raise UserError(
            f"compute: {type(transformer).__name__} does not say what its blocks are, as those of "
            "diffusers do in `_no_split_modules`; set compute.compile to false, devices to 1 and "
            "precision to float32"
        )
    return found


def _recompute(model: Any) -> None:  # noqa: ANN401 - diffusers' or a user's own
    if not getattr(model, "_supports_gradient_checkpointing", False):
        raise UserError(
            f"compute.recompute: {type(model).__name__} has no gradient checkpointing; set it to "
            "false"
        )
    model.enable_gradient_checkpointing()


def _require_compiler() -> None:
    names = [os.environ.get("CXX"), "g++", "clang++", "c++"]
    if not any(shutil.which(name) for name in names if name):
        raise UserError(
            "compute.compile: no C++ compiler, which torch.compile needs; install g++, or name "
            "another in the variable CXX, or set it to false"
        )
