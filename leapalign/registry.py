"""The registry of official weights and prompts: where they come from, and where they go."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from leapalign.errors import UserError
from leapalign.parsing import nearest, parse, read_yaml

REGISTRY = Path(__file__).with_suffix(".yaml")
LOCK = REGISTRY.with_name("weights.lock.json")


@dataclass(frozen=True, slots=True)
class Hub:
    """Files of a repository on the Hugging Face hub.

    Attributes:
        repo: owner/name.
        files: their names, or patterns with `*`.
        revision: a full commit; None for the one in the lock, or the newest where that has none.
        kind: what the repository holds.
        into: where they go within the entry's folder.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    repo: str
    files: tuple[str, ...]
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")] | None = None
    kind: Literal["model", "dataset"] = "model"
    into: str = "."


@dataclass(frozen=True, slots=True)
class Web:
    """A file at an address; `sha256` is as much of its digest's beginning as is published."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    url: str
    sha256: str
    into: str = "."


@dataclass(frozen=True, slots=True)
class Entry:
    """What can be fetched under one name.

    Attributes:
        folder: where it goes.
        gigabytes: about what it takes there.
        license: the licence's name.
        terms: what it keeps people from that a permissive one would not, in a few words.
        accept: the page on which it must be accepted first, if it must.
        hub: what comes from the hub.
        web: what comes from elsewhere.
    """

    folder: str
    gigabytes: Annotated[float, Field(gt=0)]
    license: str
    terms: str | None = None
    accept: str | None = None
    hub: tuple[Hub, ...] = ()
    web: tuple[Web, ...] = ()


@cache
def load_registry() -> dict[str, Entry]:
    """All entries by name."""
    entries = read_yaml(REGISTRY)
    return {name: parse(Entry, data, REGISTRY.name, name) for name, data in entries.items()}


def find(name: str) -> Entry:
    """The entry of this name; a `UserError` names the nearest."""
    registry = load_registry()
    if name not in registry:
        raise UserError(f"{REGISTRY.name}: no `{name}`{nearest(name, registry)}")
    return registry[name]


def registered(path: str | Path) -> tuple[str, Entry] | None:
    """The name and entry of a hub id, or of what belongs at `path`, if it is here."""
    published = (
        (name, entry)
        for name, entry in load_registry().items()
        if entry.hub and entry.hub[0].repo == str(path)
    )
    return _placed(path) or next(published, None)


def _placed(path: str | Path) -> tuple[str, Entry] | None:
    """The name and entry of what belongs at `path`, a folder or a file of it."""
    for name, entry in load_registry().items():
        folder = Path(entry.folder)
        if folder == Path(path) or folder in Path(path).parents:
            return name, entry
    return None


def how_to_get(path: str | Path) -> str | None:
    """The command that fetches what belongs at `path`, and its cost; None if it is not registered.

    It reads as the end of a sentence.
    """
    found = _placed(path)
    if found is None:
        return None
    name, entry = found
    accept = f", once its licence is accepted at {entry.accept}" if entry.accept else ""
    return (
        f"get it with `snakemake --cores 1 fetch_weights --config fetch={name}` "
        f"({entry.gigabytes:g} GB of disk){accept}"
    )
