"""What takes seconds to find out, kept in the user's cache folder under what it depends on."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from leapalign.cache import folder, keep
from leapalign.files import write_json
from leapalign.parsing import dump, parse
from leapalign.record import package_versions

T = TypeVar("T")


def kept(cls: type[T], find: Callable[[], T], *key: object) -> T:
    """What `find` finds, a dataclass `cls`; read where it was kept under this key.

    The code of this package and the versions of the libraries are part of the key. What cannot be
    written is found anew each time.
    """
    text = json.dumps([_code(), cls.__name__, *map(str, key)])
    path = folder() / "doctor" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError):
        return parse(cls, json.loads(path.read_text(encoding="utf-8")), str(path))
    found = find()
    keep(path, lambda draft: write_json(draft, dump(found)))
    return found


@cache
def _code() -> str:
    files = sorted(Path(__file__).parent.glob("*.py"))
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return json.dumps([code, package_versions()])
