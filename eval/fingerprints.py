"""Fingerprints of what a result depends on: texts, bytes and code."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from types import ModuleType


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
