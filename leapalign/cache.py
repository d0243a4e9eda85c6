"""The user's cache: what is computed once and would be computed the same again.

Its folder is `cache:` in config.yaml, else `leapalign` in $XDG_CACHE_HOME or ~/.cache. Any of it
may be deleted at any time. Where it cannot be written, all is computed anew, which is said once.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from leapalign.errors import UserError
from leapalign.files import replacing, write_json
from leapalign.parsing import dump, parse
from leapalign.user import user_config

T = TypeVar("T")


def folder() -> Path:
    """The folder of the cache; it need not exist."""
    if chosen := user_config().cache:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leapalign"


def keep(path: Path, write: Callable[[Path], object]) -> bool:
    """Write a file of the cache, whole or not at all; processes may write the same one at once.

    Args:
        path: the file.
        write: writes to the path that it is given.

    Returns:
        Whether it is there now.
    """
    try:
        with replacing(path) as draft:
            write(draft)
    except OSError as error:
        _say_once(f"{folder()}: cannot be written ({error.strerror})")
        return False
    return True


def kept(cls: type[T], find: Callable[[], T], path: Path) -> T:
    """What `find` finds, of a type that JSON can say; read where it was kept before.

    Args:
        cls: its type, such as a dataclass.
        find: finds it; called where the file is missing, cannot be read or is damaged.
        path: the file of the cache.
    """
    with contextlib.suppress(OSError, ValueError, UserError):
        return parse(cls, json.loads(path.read_text(encoding="utf-8")), str(path))
    found = find()
    keep(path, lambda draft: write_json(draft, dump(found)))
    return found


@functools.cache
def _say_once(what: str) -> None:
    sys.stderr.write(
        f"{what}; going on without keeping what is computed: set `cache:` in config.yaml or "
        "XDG_CACHE_HOME to a writable folder\n"
    )
