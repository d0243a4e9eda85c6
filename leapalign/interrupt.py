"""A scheduler's request to stop: SIGTERM, or SIGUSR1, which Slurm can send before a job's end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

REQUEUE = 75
"""Exit code of what was stopped and can go on: EX_TEMPFAIL of sysexits.h."""


@dataclass(slots=True)
class Request:
    """Whether a scheduler has asked to stop.

    Args:
        signal: the signal's name, once it has come.
    """

    signal: str | None = None


@contextlib.contextmanager
def stop_requests() -> Iterator[Request]:
    """Note the signals instead of dying of them; yields where they are noted."""
    request = Request()

    def note(number: int, _: FrameType | None) -> None:
        request.signal = signal.Signals(number).name

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
