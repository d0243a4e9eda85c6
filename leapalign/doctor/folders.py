"""What the JSON files of a model's folder say; nothing here knows torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from leapalign.errors import UserError
from leapalign.registry import registered

FLUX, SD3 = "FluxPipeline", "StableDiffusion3Pipeline"
T5_TOKENS = {FLUX: 512, SD3: 256}
MODELS = Path(__file__).parent / "models"
"""The configuration files of official models by their names in the registry, without weights."""


class Unforetold(UserError):
    """A model whose needs cannot be told beforehand; a training of it can be made all the same."""


@cache
def found(path: str) -> Path | None:
    """The folder that has a model's configuration: its own, or where it is absent the shipped one.

    Args:
        path: a folder, or where the registry puts one, or a hub id that it knows.
    """
    folder = Path(path).expanduser()
    if folder.exists():
        return folder
    known = registered(path)
    return MODELS / known[0] if known else None


def configured(path: str) -> Path:
    """The same; `Unforetold` says that there is none."""
    folder = found(path)
    if folder is None:
        raise Unforetold(f"{path}: not a folder here, so what it needs cannot be told beforehand")
    return folder


def read(folder: Path, part: str, file: str = "config.json") -> Mapping[str, Any]:
    """A part's configuration.

    Raises:
        UserError: it is missing, or no JSON.
    """
    path = folder / part / file
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{path}: missing; the folder is not whole: get it again") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); get the folder again") from None
    return found


def pipeline_of(folder: Path) -> str:
    """The diffusers pipeline that a folder holds."""
    return str(read(folder, ".", "model_index.json").get("_class_name"))


def parts_of(folder: Path) -> list[str]:
    """The parts of a pipeline's folder that its index names."""
    index = read(folder, ".", "model_index.json")
    return [part for part, of in index.items() if isinstance(of, list) and of[0] is not None]


def longest_text(folder: Path, tokenizer: str, limit: int) -> int:
    """Tokens that a prompt has, padded."""
    return min(limit, int(read(folder, tokenizer, "tokenizer_config.json")["model_max_length"]))


def prompt(folder: Path) -> tuple[int, int]:
    """Tokens and width of an encoded prompt."""
    pipeline = pipeline_of(folder)
    width = int(read(folder, "transformer")["joint_attention_dim"])
    if pipeline == FLUX:
        return longest_text(folder, "tokenizer_2", T5_TOKENS[FLUX]), width
    clip = longest_text(folder, "tokenizer", T5_TOKENS[SD3])
    has_t5 = "tokenizer_3" in parts_of(folder)
    limit = T5_TOKENS[SD3]
    return clip + (longest_text(folder, "tokenizer_3", limit) if has_t5 else limit), width


def latent_scale(folder: Path) -> int:
    """Pixels along the side of one latent."""
    return int(2 ** (len(read(folder, "vae")["block_out_channels"]) - 1))


def token_side(folder: Path) -> int:
    """Pixels along the side of one of the transformer's image tokens."""
    config = read(folder, "transformer")
    # FLUX's transformer reads latents that are packed two by two already.
    flux = pipeline_of(folder) == FLUX
    return latent_scale(folder) * (2 if flux else int(config["patch_size"]))
