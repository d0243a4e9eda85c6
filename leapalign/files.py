"""Files that appear whole or not at all, and errors that name the file they are about."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from leapalign.errors import UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there takes its place at the end.

    It may be a file or a folder, and so may what it replaces.

    Raises:
        OSError: it cannot be written; the error names `path`, which is left as it was.
    """
    # The suffix stays last: writers such as Pillow choose the format by it.
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if path.is_dir():  # nothing takes the place of a folder with something in it
                shutil.rmtree(path)
            temporary.replace(path)
        finally:
            if temporary.is_dir():
                shutil.rmtree(temporary)
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def append_text(path: Path, text: str) -> None:
    """Append to a text file; it is on its way to the disk before this returns.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(text)


def require_writable(folder: Path) -> None:
    """Make a folder, and a file in it that is gone at once: better refused now than after the work.

    Raises:
        OSError: files cannot be written there; the error names the folder.
    """
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def skew(folder: Path) -> float:
    """Seconds by which the clock that dates a folder's files is ahead of this machine's.

    Raises:
        OSError: files cannot be written there; the error names the folder.
    """
    with naming(folder), tempfile.TemporaryFile(dir=folder) as file:
        os.utime(file.fileno())  # a shared disk's server gives its own time
        return os.fstat(file.fileno()).st_mtime - time.time()


@contextlib.contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keep a folder to this process; the lock beside it ends with the process, however it ends.

    Raises:
        UserError: another process has it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{folder}: another job is writing there; wait for it, or end it") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name `path` in what goes wrong while it is written; a full disk's error names no file.

    Raises:
        OSError: what the system refused, as safetensors' own error too.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error
