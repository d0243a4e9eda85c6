"""A transformer sharded over the processes (FSDP2), its trained weights in float32.

A block's weights are gathered where it computes, in the passes' precision, and the gradients are
reduced to their mean over the processes. Where memory allows, weights are gathered once an update
and gradients reduced once an update, whatever the number of passes between; where not, at each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from leapalign.compute import blocks, lower
from leapalign.parallel import Processes, backend
from leapalign.settings import Compute

ACTIVATIONS = 0.3
"""Share of a device's memory that is left to activations, decoder and reward."""


@dataclass(frozen=True, slots=True)
class Sharding:
    """How an update's passes share the weights.

    Args:
        transformer: sharded, or whole in the one process there is.
        defers: whether gradients are reduced in an update's last backward alone.
    """

    transformer: nn.Module
    defers: bool = False

    def accumulate(self) -> None:
        """From here on, backward passes add to this process' own gradients, if memory allows."""
        if isinstance(self.transformer, FSDPModule):
            self.transformer.set_requires_gradient_sync(not self.defers)

    def reduce_next(self) -> None:
        """Let the next backward reduce the gradients over the processes."""
        if isinstance(self.transformer, FSDPModule):
            self.transformer.set_requires_gradient_sync(True)

    def release(self) -> None:
        """Drop gathered weights, which change in no step: it is the shards that train."""
        for module in self.transformer.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def shard(
    transformer: nn.Module, processes: Processes, compute: Compute, device: torch.device
) -> Sharding:
    """Shard a transformer in place; one float32 process keeps it whole, as it is.

    Inputs and outputs of the transformer stay float32. Frozen weights are held in the passes'
    precision, for they lose nothing by it.
    """
    if processes.count == 1 and compute.precision == "float32":
        return Sharding(transformer)
    if not dist.is_initialized():
        dist.init_process_group(
            backend(device.type), store=dist.HashStore(), rank=0, world_size=processes.count
        )
    policy = MixedPrecisionPolicy()
    if compute.precision == "bfloat16":
        for weight in transformer.parameters():
            if not weight.requires_grad:
                weight.data = weight.data.bfloat16()
        lower(transformer, torch.bfloat16)
        # Modules take what they are given: times and rotary angles are float32 by intention.
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    mesh = init_device_mesh(device.type, (processes.count,))
    for block in blocks(transformer):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    sharded = fully_shard(transformer, mesh=mesh, mp_policy=policy)
    gathers, defers = _afforded(transformer, processes, compute, device)
    sharded.set_reshard_after_forward(not gathers)
    sharded.set_reshard_after_backward(not gathers)
    return Sharding(transformer, defers)


def _afforded(
    transformer: nn.Module, processes: Processes, compute: Compute, device: torch.device
) -> tuple[bool, bool]:
    """Whether memory allows gathered weights, and gradients of all weights, for a whole update."""
    if processes.count == 1:  # there is nothing to wait for
        return False, False
    if device.type == "cpu":
        return True, True
    sizes = [(weight.numel(), weight.requires_grad) for weight in transformer.parameters()]
    trained = 4 * sum(size for size, trains in sizes if trains)
    weights = sum(size for size, _ in sizes) * (2 if compute.precision == "bfloat16" else 4)
    torch.cuda.empty_cache()  # what the whole weights took before they were sharded
    free, total = torch.cuda.mem_get_info(device)
    # Still to come: gradient, both moments and the average of this process' shard.
    room = free - ACTIVATIONS * total - 4 * trained / processes.count
    room = min(processes.collect(room))
    gathers = room > weights
    return gathers, room - gathers * weights > trained


def whole(value: Tensor) -> Tensor:
    """A tensor with all its shards; every process must ask for it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def own(value: Tensor) -> Tensor:
    """This process' shard of a tensor, a view."""
    return value.to_local() if isinstance(value, DTensor) else value
