"""Files that appear whole or not at all, and fingerprints of what a result depends on."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there takes its place at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as Pillow choose the format by it.
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def fingerprint(*parts: str | bytes) -> str:
    """A digest of texts and bytes, each kept apart from the next."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def sources(*modules: ModuleType) -> str:
    """A digest of the code of modules, and of packages with all that is below them."""
    digest = hashlib.sha256()
    for module in modules:
        folders = getattr(module, "__path__", None)
        files = (
            [file for folder in folders for file in Path(folder).rglob("*.py")]
            if folders
            else [Path(inspect.getfile(module))]
        )
        for path in sorted(files):
            digest.update(fingerprint(path.name, path.read_bytes()).encode())
    return digest.hexdigest()
