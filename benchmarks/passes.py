"""The transformer passes of a training step, recorded and made again with nothing around them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, slots=True)
class Pass:
    """One call of the transformer.

    Attributes:
        inputs: its keyword arguments, the tensors detached.
        replays: whether it was a forward with gradient, so that a backward follows.
        crosses: whether the gradient also leaves through its latents.
    """

    inputs: dict[str, Any]
    replays: bool
    crosses: bool

    @property
    def batch(self) -> int:
        """Samples in the call."""
        return len(self.inputs["hidden_states"])


@contextlib.contextmanager
def recorded(transformer: nn.Module) -> Iterator[list[Pass]]:
    """Collect the passes made inside the `with` block."""
    passes: list[Pass] = []

    def note(_module: nn.Module, _args: tuple[()], inputs: dict[str, Any]) -> None:
        crosses = inputs["hidden_states"].requires_grad
        detached = {
            key: value.detach() if isinstance(value, torch.Tensor) else value
            for key, value in inputs.items()
        }
        passes.append(Pass(detached, torch.is_grad_enabled(), crosses))

    handle = transformer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


def repeat(transformer: nn.Module, passes: Sequence[Pass]) -> None:
    """Make the same passes again: forwards and backwards of the same shapes, and nothing else."""
    for each in passes:
        latents = each.inputs["hidden_states"].detach().requires_grad_(each.crosses)
        with torch.set_grad_enabled(each.replays):
            velocity = transformer(**{**each.inputs, "hidden_states": latents})[0]
            if each.replays:
                velocity.backward(torch.ones_like(velocity))
    transformer.zero_grad(set_to_none=True)


def operations(transformer: nn.Module, passes: Sequence[Pass]) -> tuple[int, int]:
    """Floating-point operations of the passes without gradient, and of those with it.

    Counted as they are executed, backwards and what is computed again in them included; one pass of
    each shape stands for the others.
    """
    kinds = Counter((each.batch, each.replays, each.crosses) for each in passes)
    one_of = {(each.batch, each.replays, each.crosses): each for each in passes}
    found = {False: 0, True: 0}
    for kind, count in kinds.items():
        # Compiled blocks would hide from the counter what they do.
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
            repeat(transformer, [one_of[kind]])
        found[one_of[kind].replays] += count * counter.get_total_flops()
    return found[False], found[True]
