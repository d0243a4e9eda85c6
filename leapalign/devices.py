"""The GPU lease: jobs that run side by side never share a device.

A lease is an advisory lock on one file per device. The operating system drops it when the process
ends, however it ends, so a killed job frees its own devices.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from leapalign.errors import UserError

PRETEND = "LEAPALIGN_DEVICES"
"""A comma-separated list of device names that stands in for the CUDA devices, for tests."""

_POLL_SECONDS = 0.2


def cuda_devices() -> tuple[str, ...]:
    """The devices of this machine: `CUDA_VISIBLE_DEVICES`, else what nvidia-smi lists."""
    listed = os.environ.get(PRETEND, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if listed is not None:
        return tuple(name.strip() for name in listed.split(",") if name.strip() not in ("", "-1"))
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(answer.stdout.split())


@contextlib.contextmanager
def lease(
    count: int = 1,
    devices: Sequence[str] | None = None,
    folder: Path | None = None,
    timeout: float = float("inf"),
) -> Iterator[tuple[str, ...]]:
    """Hold `count` devices that no other lease holds, waiting until they are free.

    Args:
        count: devices wanted.
        devices: names to choose from; by default this machine's.
        folder: where the lock files are; by default one per user and machine.
        timeout: seconds to wait.

    Yields:
        The devices' names; empty on a machine without devices, where the CPU does the work.

    Raises:
        UserError: more devices are wanted than there are, or `timeout` has passed.
    """
    names = cuda_devices() if devices is None else tuple(devices)
    if not names:
        yield ()
        return
    if count > len(names):
        raise UserError(f"{count} devices wanted, {len(names)} found: {', '.join(names)}")
    folder = folder or Path(tempfile.gettempdir()) / f"leapalign-devices-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    held: dict[str, int] = {}
    try:
        while len(held) < count:
            held = _take(names, count, folder)
            if len(held) < count:
                if time.monotonic() > deadline:
                    raise UserError(f"no {count} free devices within {timeout:g} s; end other jobs")
                time.sleep(_POLL_SECONDS)
        yield tuple(held)
    finally:
        _release(held)


def _take(names: Sequence[str], count: int, folder: Path) -> dict[str, int]:
    """Lock `count` free devices, or none: a job that waits holds nothing back."""
    held: dict[str, int] = {}
    for name in names:
        lock = os.open(folder / f"{name.replace(os.sep, '_')}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        held[name] = lock
        if len(held) == count:
            return held
    _release(held)
    return {}


def _release(held: dict[str, int]) -> None:
    for lock in held.values():
        os.close(lock)


@contextlib.contextmanager
def leased_devices(count: int) -> Iterator[tuple[str, ...]]:
    """Hold `count` devices for this process and those it starts, which see no others.

    Must be entered before CUDA is initialised.

    Yields:
        The devices' names; none where the CPU does the work.

    Raises:
        UserError: more devices are wanted than there are.
    """
    with lease(count) as held:
        if held:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
        yield held


@contextlib.contextmanager
def leased_device() -> Iterator[str]:
    """Hold one device for this process; yields the name that torch knows it by.

    A worker of several has its own among those that the launcher holds for all of them
    (`leapalign.launch`).
    """
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None:
        yield f"cuda:{rank}" if cuda_devices() else "cpu"
        return
    with leased_devices(1) as held:
        yield "cuda:0" if held else "cpu"
