"""Time of a function on its device, measured side by side with others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def clock(device: torch.device) -> float:
    """Seconds, once the device has finished all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def side_by_side(
    functions: Mapping[str, Callable[[], object]],
    device: torch.device,
    repeats: int,
    queued: int = 10,
) -> dict[str, float]:
    """Median seconds of each function, all of them called in turns after two calls to warm up.

    On CUDA each turn queues many calls at once, as training does, so that a launch is not counted
    where it hides behind the device's work.

    Args:
        functions: by name.
        device: where they run.
        repeats: turns.
        queued: calls that a turn on CUDA queues.
    """
    queued = queued if device.type == "cuda" else 1
    for function in functions.values():
        function()
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            started = clock(device)
            for _ in range(queued):
                function()
            seconds[name].append((clock(device) - started) / queued)
    return {name: median(measured) for name, measured in seconds.items()}
