"""Progress of a job: a bar on a terminal, about ten plain lines in a log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import track

LINES = 10

T = TypeVar("T")


def batches(items: Sequence[T], size: int, label: str) -> Iterator[Sequence[T]]:
    """The items, at most `size` at a time, with progress on standard error."""
    console = Console(stderr=True)
    starts = range(0, len(items), size)
    said = 0
    for start in track(starts, label, console=console, disable=not console.is_terminal):
        yield items[start : start + size]
        done = min(start + size, len(items))
        tenth = done * LINES // len(items)
        if tenth > said and not console.is_terminal:
            console.print(f"{label}: {done}/{len(items)}", highlight=False)
            said = tenth
