"""Requests to stop: a scheduler's, SIGTERM or SIGUSR1 before a job's end; and the user's."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

Handler = Callable[[int, FrameType | None], None]

REQUEUE = 75
"""Exit code of what was stopped and can go on: EX_TEMPFAIL of sysexits.h."""


@dataclass(slots=True)
class Request:
    """Whether a scheduler, or the user by SIGINT, has asked to stop.

    Args:
        signal: the signal's name, once it has come.
    """

    signal: str | None = None


@contextlib.contextmanager
def stop_requests() -> Iterator[Request]:
    """Note a scheduler's signals instead of dying of them; yields where they are noted.

    SIGINT is noted as well, and raises KeyboardInterrupt as always.
    """
    request = Request()

    def note(number: int, _: FrameType | None) -> None:
        request.signal = signal.Signals(number).name

    def interrupt(number: int, frame: FrameType | None) -> None:
        note(number, frame)
        signal.default_int_handler(number, frame)

    handlers: dict[signal.Signals, Handler] = {signal.SIGTERM: note, signal.SIGUSR1: note}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        handlers[signal.SIGINT] = interrupt
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
