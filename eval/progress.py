"""Progress of a job: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def batches(items: Sequence[T], size: int, label: str) -> Iterator[Sequence[T]]:
    """The items, at most `size` at a time, with progress on standard error."""
    console = Console(stderr=True)
    starts = range(0, len(items), size)
    for start in track(starts, label, console=console, disable=not console.is_terminal):
        yield items[start : start + size]
    if not console.is_terminal:
        console.print(f"{label}: {len(items)} done", highlight=False)
