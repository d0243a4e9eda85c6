"""Digests of code and data, by which Snakemake knows what to do again: contents, not mtimes."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path

from leapalign.config import load_method
from leapalign.parsing import is_yaml


def sha256(data: str | bytes) -> str:
    """The first 16 hexadecimal digits of a SHA-256."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:16]


def of_files(files: Iterable[Path]) -> str:
    """A digest of files' contents, whatever their order."""
    return sha256(json.dumps([sha256(file.read_bytes()) for file in sorted(set(files))]))


def of_package(package: str) -> str:
    """A digest of a package's files, for jobs that are redone when their code changes."""
    files = (file for file in Path(package).rglob("*") if file.is_file())
    return of_files(file for file in files if file.suffix != ".pyc")


def sources(method: str) -> set[Path]:
    """A method's settings file and the code it stands in: its file, or its whole package."""
    module = load_method(method).method.rpartition(":")[0]
    settings = {Path(method).expanduser()} if is_yaml(method) else set()
    if module.endswith(".py"):
        path = Path(module).expanduser()
        return settings | ({path} if path.is_file() else set())
    spec = importlib.util.find_spec(module.partition(".")[0])
    if spec is None:
        return settings
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    alone = {Path(spec.origin)} if spec.origin and not folders else set()
    return settings | alone | {file for folder in folders for file in folder.rglob("*.py")}
