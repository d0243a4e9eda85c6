"""What autograd holds for its backward passes, counted exactly and on any device."""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks


class Meter:
    """Bytes of the storages that live graphs have saved, each counted once, and their peak.

    Weights are not counted.

    Args:
        exclude: further tensors that exist anyway.
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


class Graph:
    """One pass' graph; it lives as long as anything that the pass has saved."""


class PassMeter(Meter):
    """The same of a module's passes alone, and how many of their graphs were alive at once.

    Attributes:
        graphs: the most of them.
    """

    def __init__(self, exclude: Iterable[Tensor]) -> None:
        super().__init__(exclude)
        self.graphs = 0
        self._alive: weakref.WeakSet[Graph] = weakref.WeakSet()

    def begin(self) -> Graph:
        """The graph of a pass that begins."""
        graph = Graph()
        self._alive.add(graph)
        return graph

    def end(self) -> None:
        """The pass is over; without gradient it has saved nothing."""
        self.graphs = max(self.graphs, len(self._alive))


def is_weight(tensor: Tensor) -> bool:
    """Whether it is a weight or a view of one, such as FSDP gathers anew at each use."""
    return any(isinstance(one, nn.Parameter) for one in (tensor, tensor._base))


class _Saved:
    """A saved tensor that tells meters of its life, and keeps its graph's."""

    def __init__(self, tensor: Tensor, *meters: Meter, graph: Graph | None = None) -> None:
        self.tensor, self.graph = tensor, graph
        self.meters = () if is_weight(tensor) else meters
        storage = tensor.untyped_storage()
        self.storage = storage.data_ptr(), storage.nbytes()
        for meter in self.meters:
            meter.hold(*self.storage)

    def __del__(self) -> None:
        for meter in self.meters:
            meter.release(*self.storage)


def _unpack(saved: _Saved) -> Tensor:
    return saved.tensor


@contextlib.contextmanager
def metered(exclude: Iterable[Tensor]) -> Iterator[Meter]:
    """Measure what is saved for backward passes inside the `with` block."""
    meter = Meter(exclude)
    with saved_tensors_hooks(lambda tensor: _Saved(tensor, meter), _unpack):
        yield meter


@contextlib.contextmanager
def metered_passes(
    module: nn.Module, exclude: Sequence[Tensor]
) -> Iterator[tuple[Meter, PassMeter]]:
    """As `metered`, and apart from it what a module's passes save of that."""
    part, inside = PassMeter(exclude), contextlib.ExitStack()
    with metered(exclude) as meter:

        def begin(*_: object) -> None:
            graph = part.begin()
            inside.enter_context(
                saved_tensors_hooks(
                    lambda tensor: _Saved(tensor, meter, part, graph=graph), _unpack
                )
            )

        def end(*_: object) -> None:
            inside.close()
            part.end()

        handles = module.register_forward_pre_hook(begin), module.register_forward_hook(end)
        try:
            yield meter, part
        finally:
            for handle in handles:
                handle.remove()
