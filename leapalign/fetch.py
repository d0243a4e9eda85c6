"""Fetch official weights and prompts: resumable, verified, and not needed again once they are here.

    python -m leapalign.fetch [NAME...] [--mirror DIR]

Without names it lists what there is. A mirror is a folder with `owner/name/file` for each file of a
hub repository, and the other files by their names. Nothing that is fetched is executed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from leapalign import registry
from leapalign.errors import UserError, main_guard
from leapalign.files import require_writable, write_json, write_text
from leapalign.parsing import parse
from leapalign.registry import Entry, Hub, Web, find, load_registry
from leapalign.sources import Delivery, bring
from leapalign.weights import SUMS, digest, read_sums


@dataclass(frozen=True, slots=True)
class Locked:
    """What a first fetch gave, and every later one must give.

    Attributes:
        revisions: commit by repository; none for what came from a mirror.
        files: SHA-256 by file, relative to the entry's folder.
        sizes: bytes by file.
    """

    revisions: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


def fetch(name: str, mirror: Path | None = None) -> None:
    """Fetch an entry of the registry into its folder, or see that it is whole already.

    Files that are there and right are kept, and one that was interrupted goes on where it stopped.

    Raises:
        UserError: the disk is too small, a source cannot be reached or wants its licence accepted,
            or a file is not what was published or locked.
    """
    entry, folder = find(name), Path(find(name).folder)
    if is_whole(folder):
        _say(f"{name}: whole, in {folder}")
        return
    _say(f"{name}: about {entry.gigabytes:g} GB to {folder}; licence: {entry.license}")
    require_writable(folder)
    _require_space(entry)
    locked = read_lock().get(name, Locked())
    _drop_damaged(folder, locked)
    delivery = Delivery(folder, locked.revisions)
    sources: tuple[Hub | Web, ...] = (*entry.web, *entry.hub)
    for source in sources:
        bring(source, delivery, mirror)
    _accept(name, delivery, locked)


def is_whole(folder: Path) -> bool:
    """Whether every file that was fetched is here unchanged."""
    sums = folder / SUMS
    return sums.is_file() and all(
        (folder / name).is_file() and digest(folder / name) == expected
        for name, expected in read_sums(sums).items()
    )


def read_lock() -> dict[str, Locked]:
    """What earlier fetches gave, by entry."""
    if not registry.LOCK.is_file():
        return {}
    entries = json.loads(registry.LOCK.read_text())
    return {name: parse(Locked, entry, registry.LOCK.name) for name, entry in entries.items()}


def _accept(name: str, delivery: Delivery, locked: Locked) -> None:
    """Compare what came with what was published and locked; then seal the folder and lock it."""
    found = {file: digest(delivery.folder / file) for file in sorted(delivery.files)}
    for file, value in found.items():
        for authority, known in (
            ("its publisher", delivery.published),
            (registry.LOCK.name, locked.files),
        ):
            if not value.startswith(known.get(file, "")):
                raise UserError(
                    f"{delivery.folder / file}: its SHA-256 is {value}, {authority} says "
                    f"{known[file]}; delete the file and fetch it again"
                )
    sizes = {file: (delivery.folder / file).stat().st_size for file in found}
    write_json(
        registry.LOCK,
        {key: asdict(one) for key, one in read_lock().items()}
        | {name: asdict(Locked(delivery.revisions, found, sizes))},
    )
    write_text(
        delivery.folder / SUMS, "".join(f"{value}  {file}\n" for file, value in found.items())
    )
    size = sum(sizes.values()) / 1e9
    trust = "as locked" if locked.files else f"first fetch, now in {registry.LOCK.name}"
    _say(f"{name}: {len(found)} files, {size:.2f} GB, verified ({trust})")


def _drop_damaged(folder: Path, locked: Locked) -> None:
    """Remove files that are not what they were when they were fetched."""
    sums = folder / SUMS
    known = locked.files | (read_sums(sums) if sums.is_file() else {})
    for name, expected in known.items():
        file = folder / name
        if file.is_file() and digest(file) != expected:
            _say(f"{file}: damaged, fetched again")
            file.unlink()


def _require_space(entry: Entry) -> None:
    here = sum(path.stat().st_size for path in Path(entry.folder).rglob("*") if path.is_file())
    free = shutil.disk_usage(entry.folder).free
    if free < entry.gigabytes * 1e9 - here:
        raise UserError(
            f"{entry.folder}: {free / 1e9:.1f} GB free, about {entry.gigabytes:g} GB needed; free "
            "some space, or link the folder to a larger disk"
        )


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def describe() -> str:
    """The registry, one entry a line."""
    lines = []
    for name, entry in load_registry().items():
        state = "whole" if is_whole(Path(entry.folder)) else "-"
        size = f"{entry.gigabytes:g} GB"
        lines.append(f"{name:<12} {size:>7}  {state:<6} {entry.folder:<22} {entry.license}\n")
    return "".join(lines)


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m leapalign.fetch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries of the registry")
    parser.add_argument("--mirror", type=Path, help="a folder that has the files")
    arguments = parser.parse_args(argv)
    if arguments.mirror and not arguments.mirror.is_dir():
        raise UserError(f"--mirror: {arguments.mirror}: no such folder")
    for name in arguments.names:
        find(name)
    for name in arguments.names:
        fetch(name, arguments.mirror)
    if not arguments.names:
        sys.stdout.write(describe())


if __name__ == "__main__":
    main()
