"""A journal of finished scores, so that no score is computed twice and none is lost.

Each line is keyed by a fingerprint of all that its score depends on: the scorer, the image's bytes
and the prompt. A score that no longer applies is therefore never found, and needs no removal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from leapalign.files import append_text, write_text


class Journal:
    """An append-only file of scores by key."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a last line that a killed job left half written is dropped."""
        self._path = path
        self._entries: dict[str, Any] = {}
        if path.is_file():
            self._entries = dict(_entries(path.read_bytes()))
            write_text(path, "".join(map(_line, self._entries.items())))

    def __contains__(self, key: str) -> bool:
        return key in self._entries

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401  (a score or a record, both JSON)
        return self._entries[key]

    def add(self, entries: Mapping[str, Any]) -> None:
        """Keep these scores, on disk before this returns."""
        append_text(self._path, "".join(map(_line, entries.items())))
        self._entries.update(entries)


def _entries(data: bytes) -> Iterator[tuple[str, Any]]:
    for line in data.splitlines():
        try:
            entry = json.loads(line)
            yield entry["key"], entry["value"]
        except (ValueError, TypeError, KeyError):
            continue


def _line(entry: tuple[str, Any]) -> str:
    key, value = entry
    return json.dumps({"key": key, "value": value}) + "\n"
