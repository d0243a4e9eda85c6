"""Folders in diffusers format: where a hub id's is, whether it is whole, its text encoders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open
from torch import nn

from leapalign.weights import digest

WEIGHTS = (".safetensors", ".bin")


def local(path: str | Path) -> Path:
    """A folder as it is; of a hub id (`owner/name`) its snapshot, downloaded if need be.

    Raises:
        OSError: there is no such folder, and no such model on the hub or in its cache.
    """
    return Path(path) if Path(path).exists() else Path(DiffusionPipeline.download(str(path)))


def check_whole(folder: Path, index: Mapping[str, Any], spare: Sequence[str]) -> None:
    """Refuse a folder that lacks a part, or a part's file, before any of it is loaded.

    Args:
        folder: the pipeline's.
        index: what its model_index.json says.
        spare: parts that may be absent.

    Raises:
        ValueError: naming the part and its file.
    """
    for part, kind in index.items():
        if part.startswith("_") or not isinstance(kind, list):
            continue
        if kind == [None, None]:
            if part not in spare:
                raise ValueError(f"it has no '{part}'")
            continue
        if not (folder / part).is_dir():
            raise ValueError(f"its folder '{part}' is missing")
        if part.startswith(("transformer", "vae", "text_encoder")):
            _check_weights(folder / part)


def _check_weights(folder: Path) -> None:
    files = [file for file in folder.glob("*") if file.suffix in WEIGHTS]
    for listing in folder.glob("*.safetensors.index.json"):
        names = json.loads(listing.read_text(encoding="utf-8"))["weight_map"].values()
        files += [folder / name for name in set(names)]
    if not files:
        raise ValueError(f"'{folder.name}' has no weights, no .safetensors file")
    for file in sorted(set(files)):
        if not file.is_file():
            raise ValueError(f"'{folder.name}' lacks {file.name}, which its index lists")
        try:
            if file.suffix == ".safetensors":
                with safe_open(file, framework="pt"):
                    pass
        except SafetensorError as error:
            raise ValueError(f"'{folder.name}' has a damaged {file.name}: {error}") from None


def check_loaded(module: nn.Module, folder: Path) -> None:
    """Refuse a model some of whose weights its files lack: diffusers draws those at random.

    Raises:
        ValueError: naming them.
    """
    files = list(folder.glob("*.safetensors"))
    found = {name for file in files for name in _names(file)}
    missing = sorted(module.state_dict().keys() - found) if files else []
    if missing:
        raise ValueError(
            f"'{folder.name}' lacks {len(missing)} of its tensors, {missing[0]} among them"
        )


def _names(file: Path) -> Iterator[str]:
    with safe_open(file, framework="pt") as tensors:
        yield from tensors.keys()


def configuration(folder: Path) -> SimpleNamespace:
    """A model's configuration, as the model would say it."""
    return SimpleNamespace(**json.loads((folder / "config.json").read_text(encoding="utf-8")))


def text_parts(index: Mapping[str, Any]) -> list[str]:
    """The names of a pipeline's text encoders and tokenizers."""
    return [part for part in index if part.startswith(("text_encoder", "tokenizer"))]


def text_identity(folder: Path, *how: object) -> str:
    """A digest of all that decides a prompt's encoding, but the prompt.

    Args:
        folder: the pipeline's.
        how: the text encoders are used, such as their precision.
    """
    parts = text_parts(DiffusionPipeline.load_config(folder))
    files = sorted(file for part in parts for file in (folder / part).rglob("*") if file.is_file())
    digests = {file.relative_to(folder).as_posix(): digest(file) for file in files}
    libraries = [torch.__version__, transformers.__version__, diffusers.__version__]
    said = json.dumps([digests, libraries, [str(one) for one in how]], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]
