"""The machine that a benchmark ran on: what it is, and the most that it can do."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from benchmarks.timing import side_by_side
from leapalign.record import git_state, package_versions


def provenance(device: torch.device) -> dict[str, Any]:
    """What was measured, and where."""
    on_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_cuda else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "git": git_state(),
    }


def copy_bandwidth(device: torch.device, elements: int, repeats: int) -> float:
    """Bytes read and written per second by a tensor copy."""
    source = torch.empty(elements, dtype=torch.bfloat16, device=device).normal_()
    target = torch.empty_like(source)
    seconds = side_by_side({"copy": lambda: target.copy_(source)}, device, repeats)["copy"]
    return 2 * source.nbytes / seconds


def matrix_rate(device: torch.device, side: int, repeats: int) -> float:
    """Floating-point operations per second of a product of square bf16 matrices.

    They are random: zeros take less power, and so a higher clock.
    """
    a, b = (
        torch.empty(side, side, dtype=torch.bfloat16, device=device).normal_() for _ in range(2)
    )
    seconds = side_by_side({"product": lambda: a @ b}, device, repeats)["product"]
    return 2 * side**3 / seconds
