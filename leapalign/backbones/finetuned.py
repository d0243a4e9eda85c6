"""Fine-tuned weights of a transformer: one safetensors file, or a diffusers folder of shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from leapalign.errors import UserError


def load_finetuned(transformer: nn.Module, path: str | Path) -> None:
    """Replace a transformer's weights; all tensors are compared before the first is replaced.

    Args:
        transformer: the base model's.
        path: a safetensors file, or a folder as diffusers saves it, shards and their index.

    Raises:
        UserError: the file is missing or damaged, or its tensors are not those of the transformer.
    """
    files = shards(Path(path))
    expected = {name: tuple(value.shape) for name, value in transformer.state_dict().items()}
    try:
        found = {name: shape for file in files for name, shape in _shapes(file).items()}
        if found != expected:
            raise UserError(f"{path}: not weights of this transformer: {_differ(found, expected)}")
        for file in files:
            transformer.load_state_dict(load_file(file), strict=False)
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not weights of this transformer: {reason}") from error


def shards(path: Path) -> Sequence[Path]:
    """The safetensors files at a path; in a folder those of its index, or all."""
    if not path.is_dir():
        return [path]
    for index in sorted(path.glob("*.safetensors.index.json")):
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [path / name for name in sorted(set(names))]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise UserError(f"{path}: no .safetensors in it; name the transformer's own folder")
    return files


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(file, framework="pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def _differ(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> str:
    """How the tensors differ, a few by name."""
    shared = found.keys() & expected.keys()
    shapes = {name for name in shared if found[name] != expected[name]}
    kinds = {
        "missing": expected.keys() - found.keys(),
        "unexpected": found.keys() - expected.keys(),
        "of another shape": shapes,
    }
    return "; ".join(
        f"{len(names)} {kind} ({_some(names)})" for kind, names in kinds.items() if names
    )


def _some(names: set[str]) -> str:
    first = sorted(names)[:2]
    return ", ".join([*first, *(["…"] if len(names) > len(first) else [])])
