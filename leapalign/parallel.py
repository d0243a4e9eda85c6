"""The processes of one training, as torchrun starts them: how they share work and agree."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from leapalign.devices import leased_device
from leapalign.errors import UserError


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of a training; without torchrun it is one alone.

    Args:
        rank: this process' number.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that writes log and results."""
        return self.rank == 0

    def share(self, images: int) -> range:
        """This process' part of an update's `images`.

        Raises:
            UserError: they cannot be shared out evenly.
        """
        if images % self.count:
            raise UserError(
                f"batch: {images} images an update cannot be shared evenly by {self.count} "
                "processes; change compute.devices or batch"
            )
        part = images // self.count
        return range(self.rank * part, (self.rank + 1) * part)

    def gather(self, values: Tensor) -> Tensor:
        """The values of all processes, equally many of each, joined in their order."""
        if self.count == 1:
            return values
        parts = [torch.empty_like(values) for _ in range(self.count)]
        dist.all_gather(parts, values.contiguous())
        return torch.cat(parts)

    def collect(self, value: Any) -> list[Any]:  # noqa: ANN401 - whatever can be pickled
        """One value of each process, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Return once every process has come here."""
        self.collect(None)


ALONE = Processes()


def present() -> Processes:
    """This process among those that it has joined."""
    return Processes(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else ALONE


@contextlib.contextmanager
def joined() -> Iterator[str]:
    """Join those that torchrun started with this process; yields the device that is its own.

    One process alone holds a lease on its device; for several, who starts them does.
    """
    with leased_device() as device:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            yield device
            return
        if device != "cpu":
            torch.cuda.set_device(device)
        dist.init_process_group(backend(device))
        yield device
        # Not after an error: the others may be waiting for this process, and it for them.
        dist.destroy_process_group()


def backend(device: str) -> str:
    """The libraries that carry messages: gloo for those of the CPU, such as a checkpoint's."""
    return "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl"
