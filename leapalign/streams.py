"""Explicit random streams: one per (seed, purpose), never a global generator.

A stream depends on the names it was asked for and on nothing else, so every method sees the same
prompts and noise, a result does not depend on how a batch is split over micro-batches or devices,
and a resumed run repeats an unbroken one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch


def stream_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed from a root seed and names, e.g. `(iteration, slot, "initial")`."""
    text = "/".join(f"{type(part).__name__}:{part}" for part in (seed, *path))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def stream(seed: int, *path: str | int) -> torch.Generator:
    """A CPU torch generator for `path`; CPU so that the draw is the same on every device."""
    return torch.Generator().manual_seed(stream_seed(seed, *path))


def choices(seed: int, *path: str | int) -> np.random.Generator:
    """A NumPy generator for `path`, for discrete choices such as LeapAlign's (k, j)."""
    return np.random.default_rng(stream_seed(seed, *path))


# The random choices of one sample of one iteration, by the name of what is drawn.
Streams = Callable[[str], torch.Generator]
