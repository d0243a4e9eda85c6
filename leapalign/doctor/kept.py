"""What takes seconds to find out, kept in the user's cache folder under what it depends on."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from leapalign import cache
from leapalign.record import package_versions

T = TypeVar("T")

PACKAGE = Path(__file__).parents[1]
CODE = ("doctor/*.py", "rewards/*.py", "compute.py")
"""What sizes and times depend on: the sketches, how rewards see an image, what is recomputed."""


def kept(cls: type[T], find: Callable[[], T], *key: object) -> T:
    """What `find` finds, a dataclass `cls`; read where it was kept under this key.

    The code that it depends on and the versions of the libraries are part of the key. What cannot
    be written is found anew each time.
    """
    text = json.dumps([_code(), cls.__name__, *map(str, key)])
    name = hashlib.sha256(text.encode()).hexdigest()[:32]
    return cache.kept(cls, find, cache.folder() / "doctor" / f"{name}.json")


@functools.cache
def _code() -> str:
    files = sorted(file for pattern in CODE for file in PACKAGE.glob(pattern))
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return json.dumps([code, package_versions()])
