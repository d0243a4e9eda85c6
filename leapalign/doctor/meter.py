"""Memory that tensors take, counted exactly where they are made: real ones, or fake ones."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Meter(TorchDispatchMode):
    """Bytes of the storages made inside the `with` block that are alive, and their peak.

    Under `FakeTensorMode` it counts what never is, which is how memory is predicted; without it,
    what is, on any device. What an operation needs within itself alone is not seen.

    Args:
        exclude: tensors that exist already; results may share their storage.
    """

    def __init__(self, exclude: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        for tensor in exclude:
            self._hold(tensor.untyped_storage(), size=0)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever the operation gives
        """The operation itself; its results' storages are counted."""
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                storage = result.untyped_storage()
                self._hold(storage, storage.nbytes())
        return results

    def _hold(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = size
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._release, key).atexit = False

    def _release(self, key: int) -> None:
        self.live -= self._sizes.pop(key)
