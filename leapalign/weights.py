"""Fingerprints of weights, and the check that shipped ones are whole."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path

from leapalign import cache
from leapalign.errors import UserError
from leapalign.registry import how_to_get

SUMS = "SHA256SUMS"
"""Beside or in a weights folder: lines of `sha256sum`, paths relative to the file."""

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
# Holds the alpha by which the weights beside it are scaled.
_ADAPTER = "adapter_config.json"


@functools.cache
def fingerprint(path: str) -> dict[str, str]:
    """The SHA-256 of every weights file in a folder (or of the file itself), by relative path.

    A peft adapter's configuration counts as one. Of a hub id, those in the hub's local cache.
    Digests of files over 64 MB are kept in `leapalign.cache` under size and mtime.
    """
    root = _local(path)
    if root.is_file():
        return {root.name: digest(root)}
    files = sorted(f for f in root.rglob("*") if f.suffix in SUFFIXES or f.name == _ADAPTER)
    return {str(file.relative_to(root)): digest(file) for file in files}


def nameable(path: str) -> str:
    """A path that says nothing of this machine: relative ones as they are, others' last part."""
    return Path(path).name if os.path.isabs(path) else path


def check_weights(path: str, source: str) -> None:
    """Refuse weights that are missing, or that differ from the digests shipped with them.

    Args:
        path: a folder or file, or a model in the hub's local cache.
        source: the file and key that name the weights, for messages.

    Raises:
        UserError: naming the file, and both digests where it is damaged.
    """
    folder = _local(path)
    if not folder.exists():
        raise UserError(f"{source}: no weights at {path}; {_remedy(folder)}, or correct the path")
    found = fingerprint(path)
    if folder.is_dir() and not found:
        raise UserError(f"{source}: no weights file in {path}; it should hold .safetensors")
    for sums in (folder / SUMS, folder.parent / SUMS):
        if sums.is_file():
            _compare(folder, found, sums)
            return


def _local(path: str) -> Path:
    """A path as it is; of a hub id, its folder in the hub's cache where that is."""
    if Path(path).exists():
        return Path(path)
    from leapalign.sources import locate  # imports what most jobs never need

    try:
        return locate(path, download=False)
    except UserError:
        return Path(path)


def _compare(folder: Path, found: dict[str, str], sums: Path) -> None:
    expected = read_sums(sums)
    for name, listed in expected.items():
        file = sums.parent / name
        if folder not in file.parents or file.suffix not in SUFFIXES:
            continue
        actual = found.get(str(file.relative_to(folder)))
        if actual is None:
            raise UserError(f"{file}: missing, though {sums} lists it; {_remedy(file)}")
        if actual != listed:
            raise UserError(
                f"{file}: damaged: its SHA-256 is {actual[:12]}…, {sums} says {listed[:12]}…; "
                f"{_remedy(file)}"
            )


def _remedy(path: Path) -> str:
    """How to get what is missing or damaged: official weights anew, shipped ones from git."""
    if registered := how_to_get(path):
        return registered
    if len(path.parts) == 2 and not path.parent.exists():
        return f"download it with `hf download {path}`"
    return f"restore it with `git checkout -- {path}`"


def read_sums(sums: Path) -> dict[str, str]:
    """File → digest from `sha256sum` lines."""
    pairs = (line.split(maxsplit=1) for line in sums.read_text().splitlines() if line.strip())
    return {name.removeprefix("*"): digest for digest, name in pairs}


def digest(file: Path) -> str:
    """A file's SHA-256; a large file's is computed once and kept under its size and mtime."""
    size, mtime = file.stat().st_size, file.stat().st_mtime_ns
    if size < 2**26:
        return _sha256(file)
    key = hashlib.sha256(f"{file.resolve()}:{size}:{mtime}".encode()).hexdigest()
    return cache.kept(str, lambda: _sha256(file), cache.folder() / "sha256" / f"{key}.json")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
