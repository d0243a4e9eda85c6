"""The memory that autograd holds for its backward passes, counted exactly and on any device."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


class Meter:
    """Bytes of the storages that live graphs have saved, each counted once, and their peak.

    Args:
        exclude: tensors that exist anyway, such as the weights.
    """

    def __init__(self, exclude: Iterable[Tensor]) -> None:
        self.peak = 0
        self._live = 0
        self._holders: Counter[int] = Counter()
        self._excluded = {tensor.untyped_storage().data_ptr() for tensor in exclude}

    def hold(self, address: int, size: int) -> None:
        """A graph saves a view of the storage at `address`."""
        if address not in self._excluded:
            self._live += 0 if self._holders[address] else size
            self._holders[address] += 1
            self.peak = max(self.peak, self._live)

    def release(self, address: int, size: int) -> None:
        """The graph, or that part of it, is gone."""
        if address not in self._excluded:
            self._holders[address] -= 1
            self._live -= 0 if self._holders[address] else size


class _Saved:
    """A saved tensor that tells the meter of its life."""

    def __init__(self, tensor: Tensor, meter: Meter) -> None:
        self.tensor, self.meter = tensor, meter
        storage = tensor.untyped_storage()
        self.storage = storage.data_ptr(), storage.nbytes()
        meter.hold(*self.storage)

    def __del__(self) -> None:
        self.meter.release(*self.storage)


@contextlib.contextmanager
def metered(exclude: Iterable[Tensor]) -> Iterator[Meter]:
    """Measure what is saved for backward passes inside the `with` block."""
    meter = Meter(exclude)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: _Saved(tensor, meter), lambda saved: saved.tensor
    ):
        yield meter
