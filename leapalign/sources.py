"""Bring files from the hub, from an address or from a mirror; each goes on where it stopped."""

from __future__ import annotations

import fnmatch
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import IO

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from rich.console import Console
from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

from leapalign.errors import UserError
from leapalign.files import naming
from leapalign.registry import Hub, Web, how_to_get

CHUNK = 2**20
HUB_LEFTOVERS = ".cache"
OFFLINE = "no connection; try again, or name a folder that has the files: --config mirror=DIR"
COMPLETE = 416
"""HTTP's answer where nothing is left to send."""


@dataclass(slots=True)
class Delivery:
    """What has come into a folder.

    Attributes:
        folder: where it goes.
        revisions: the commit of each repository, those of an earlier fetch to begin with.
        files: the files, relative to the folder.
        published: what is known of their SHA-256 from where they came.
    """

    folder: Path
    revisions: dict[str, str]
    files: set[str] = field(default_factory=set)
    published: dict[str, str] = field(default_factory=dict)


def bring(source: Hub | Web, delivery: Delivery, mirror: Path | None = None) -> None:
    """Bring a source's files, from the mirror where there is one.

    Raises:
        UserError: it cannot be reached, lacks a file, or wants its licence accepted.
    """
    if mirror:
        _copy(source, mirror, delivery)
    elif isinstance(source, Web):
        _download(source, delivery)
    else:
        _ask_hub(source, delivery)


def locate(weights: str | Path, *, download: bool = True) -> Path:
    """A local path as it is; of a hub id (`owner/name`) the folder of the model's files.

    Args:
        weights: the path or the id.
        download: whether files that are not in the hub's local cache are downloaded.

    Raises:
        UserError: there is no such path, and no such model on the hub or in its local cache.
    """
    path = Path(weights)
    if path.exists() or len(path.parts) != 2 or how_to_get(path):
        return path
    try:
        return Path(snapshot_download(str(weights), local_files_only=not download))
    except (HFValidationError, HTTPError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"{weights}: no such folder, and the hub's model cannot be had: "
            f"{str(error).splitlines()[0]}"
        ) from None


def _ask_hub(source: Hub, delivery: Delivery) -> None:
    """Download from the hub, which resumes by itself."""
    revision = source.revision or delivery.revisions.get(source.repo)
    into = delivery.folder / source.into
    ask = HfApi().dataset_info if source.kind == "dataset" else HfApi().model_info
    try:
        info = ask(source.repo, revision=revision, files_metadata=True)
        names = _chosen(source, [one.rfilename for one in info.siblings or []], source.repo)
        snapshot_download(
            source.repo,
            repo_type=source.kind,
            revision=info.sha,
            local_dir=into,
            allow_patterns=names,
        )
    except GatedRepoError:
        raise UserError(
            f"{source.repo}: accept its licence at https://huggingface.co/{source.repo} with your "
            "account, then log in with `hf auth login`"
        ) from None
    except (HTTPError, OfflineModeIsEnabled) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{source.repo}: {reason}: {OFFLINE}") from None
    delivery.revisions[source.repo] = str(info.sha)
    for one in info.siblings or []:
        if one.rfilename in names and one.lfs:
            delivery.published[_below(source, one.rfilename)] = one.lfs.sha256
    delivery.files |= {_below(source, name) for name in names}
    shutil.rmtree(into / HUB_LEFTOVERS, ignore_errors=True)


def _download(source: Web, delivery: Delivery) -> None:
    """Download from an address, from where an interrupted download stopped."""
    file = source.url.rpartition("/")[2]
    target = _expect(source, file, delivery)
    if target.is_file():
        return
    part, done = _part(target)
    request = urllib.request.Request(source.url, headers={"Range": f"bytes={done}-"})
    try:
        with urllib.request.urlopen(request) as response:
            # A server that does not know ranges sends the whole file.
            done = done if response.status == 206 else 0
            size = int(response.headers.get("Content-Length", 0)) + done
            _pour(response, part, done, size)
    except urllib.error.HTTPError as error:
        if error.code != COMPLETE:
            raise UserError(f"{source.url}: {error.code} {error.reason}") from None
    except (urllib.error.URLError, ConnectionError, TimeoutError, HTTPException) as error:
        raise UserError(f"{source.url}: {error}: {OFFLINE}") from None
    part.replace(target)


def _copy(source: Hub | Web, mirror: Path, delivery: Delivery) -> None:
    """Copy from a mirror, from where an interrupted copy stopped."""
    if isinstance(source, Web):
        root, names = mirror, [source.url.rpartition("/")[2]]
    else:
        root = mirror / source.repo
        present = [str(path.relative_to(root)) for path in sorted(root.rglob("*"))]
        names = _chosen(source, present, str(root))
    for name in names:
        if not (root / name).is_file():
            raise UserError(f"{root / name}: no such file in the mirror; add it")
        target = _expect(source, name, delivery)
        if target.is_file():
            continue
        part, done = _part(target)
        with (root / name).open("rb") as file:
            file.seek(done)
            _pour(file, part, done, (root / name).stat().st_size)
        part.replace(target)


def _chosen(source: Hub, present: Sequence[str], place: str) -> list[str]:
    """The files that the source's patterns name; each must name one."""
    chosen: list[str] = []
    for pattern in source.files:
        names = fnmatch.filter(present, pattern)
        if not names:
            raise UserError(f"{place}: has no file {pattern}")
        chosen += names
    return chosen


def _expect(source: Hub | Web, file: str, delivery: Delivery) -> Path:
    """Where a file goes; it is part of the delivery from now on."""
    name = _below(source, file)
    delivery.files.add(name)
    if isinstance(source, Web):
        delivery.published[name] = source.sha256
    target = delivery.folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _below(source: Hub | Web, file: str) -> str:
    return str(Path(source.into) / file)


def _part(target: Path) -> tuple[Path, int]:
    """The file that a download grows in, and how much of it is there."""
    part = target.with_name(f"{target.name}.part")
    return part, part.stat().st_size if part.is_file() else 0


def _pour(source: IO[bytes], part: Path, done: int, size: int) -> None:
    """Append what is left of a source to a file that has `done` bytes of `size`."""
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with part.open("r+b" if done else "wb") as file:
        file.seek(done)
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(part.stem, total=size or None, completed=done)
            while chunk := source.read(CHUNK):
                with naming(part):
                    file.write(chunk)
                progress.advance(task, len(chunk))
        if size and file.tell() != size:
            raise UserError(f"{part.stem}: stopped at {file.tell()} of {size} bytes; run it again")
