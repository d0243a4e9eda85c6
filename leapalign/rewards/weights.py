"""Weights on disk: what is missing or damaged is named before anything is computed with it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from leapalign.errors import UserError
from leapalign.files import write_text
from leapalign.weights import SUMS, digest, read_sums

APART = (SUMS, "README.md")


def write_checksums(folder: Path) -> None:
    """Write a folder's SHA256SUMS (as `sha256sum` does), over all files but the model card."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in APART)
    lines = [f"{digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    write_text(folder / SUMS, "".join(lines))


def verify(path: Path) -> None:
    """Check that weights are there and, where a folder carries SHA256SUMS, that they are whole.

    Raises:
        UserError: A file is missing, or its hash is not the recorded one.
    """
    if not path.exists():
        raise UserError(
            f"{path}: no such weights; download them or mend the path in the scale's settings"
        )
    sums = path / SUMS
    if not sums.is_file():
        return
    for name, expected in read_sums(sums).items():
        file = path / name
        if not file.is_file():
            raise UserError(f"{file}: missing (sha256 {expected}); restore it from the release")
        if (found := digest(file)) != expected:
            raise UserError(
                f"{file}: damaged, sha256 is {found}, not {expected}; restore it from the release"
            )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file, or of a pickle without running code from it.

    A pickle may keep them under the key "state_dict".

    Raises:
        UserError: The file is missing, cannot be read, or holds a tensor that is not finite.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing; download the weights again")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, ValueError, OSError, EOFError) as error:
        raise damaged(path, str(error)) from error
    state = state.get("state_dict", state)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise damaged(path, f"{name} is not finite")
    return state


def load_strictly(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Load all of `state` into all of `model`; `path` names the file in the error."""
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise damaged(path, f"its tensors do not fit the model: {error}") from error


def damaged(path: Path, why: str) -> UserError:
    """The error for weights that cannot be used."""
    return UserError(f"{path}: {why} (sha256 {digest(path)}); restore it from the release")
