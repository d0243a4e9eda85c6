"""Disks that refuse, made without privileges: a full one, and a folder that cannot be written."""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

NOBODY = 65534


@contextlib.contextmanager
def no_room_for(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes: writes end as on a full disk, under another number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be made in `folder`, by root neither: it becomes nobody for the while."""
    folder.mkdir(parents=True, exist_ok=True)
    root = os.geteuid() == 0
    if root:  # nobody must still be able to read what the test made
        for parent in folder.parents:
            if parent.owner() == "root" and parent.is_relative_to(tempfile.gettempdir()):
                parent.chmod(parent.stat().st_mode | 0o755)
        os.seteuid(NOBODY)
    else:
        folder.chmod(0o555)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        else:
            folder.chmod(0o755)
