"""The average of the trained weights over the updates, which is what is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leapalign.sharding import own, whole


class Average:
    """An exponential moving average of a network's trained weights, each process' own shards.

    The first update is copied; later ones are averaged, ā ← decay · ā + (1 - decay) · w.

    Args:
        network: its weights that require a gradient are averaged.
        decay: of the average, in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.trained = {name: w for name, w in network.named_parameters() if w.requires_grad}
        self.weights = {name: w.detach().clone() for name, w in self.trained.items()}
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        averages = [own(weight) for weight in self.weights.values()]
        current = [own(weight.detach()) for weight in self.trained.values()]
        if self.updates == 0:
            torch._foreach_copy_(averages, current)
        else:
            torch._foreach_lerp_(averages, current, 1 - self.decay)
        self.updates += 1

    def loadable(self, network: nn.Module, *, keep: bool) -> dict[str, Tensor]:
        """The averages without sharding and the network's buffers, on the CPU, by name.

        Every process must ask for them.

        Args:
            network: whose averages they are.
            keep: whether this process wants them; the others' are dropped one by one.
        """
        weights = dict(network.named_parameters())
        state = {name: b for name, b in network.state_dict().items() if name not in weights}
        found = {}
        for name, value in {**state, **self.weights}.items():
            tensor = whole(value)
            if keep:
                found[name] = tensor.cpu().contiguous()
        return found

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the tensors are the average's own, and are loaded in place."""
        return {"weights": self.weights, "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint that was read into `state_dict`."""
        self.updates = state["updates"]
