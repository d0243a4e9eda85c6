"""Ctrl-C ends Snakemake with one line and exit code 130, as it ends every job of the suite."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType, TracebackType

EXIT_CODE = 130
Hook = Callable[[type[BaseException], BaseException, TracebackType | None], object]

_received = False


def received() -> bool:
    """Whether Ctrl-C was pressed."""
    return _received


def install() -> None:
    """Note Ctrl-C, then let Snakemake stop its jobs; it would exit with 1 or a traceback."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    signal.signal(signal.SIGINT, _note)
    sys.excepthook = _quiet(sys.excepthook)
    atexit.register(_exit)


def _note(number: int, frame: FrameType | None) -> None:
    global _received
    _received = True
    signal.default_int_handler(number, frame)


def _quiet(excepthook: Hook) -> Hook:
    """An excepthook that leaves Ctrl-C to `_exit`."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not issubclass(kind, KeyboardInterrupt):
            excepthook(kind, error, trace)

    return hook


def _exit() -> None:
    if _received:
        sys.stderr.write("interrupted: finished jobs are kept; run the same command to go on\n")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(EXIT_CODE)
