"""Fine-tuned weights of a transformer, as they are published: all of them, or an adapter's.

Accepted are a safetensors file; a diffusers folder of one file or of shards and their index; a
folder with such a `transformer/` in it; the file of an adapter (LoRA) in diffusers' format, in one
that diffusers converts, or in peft's, or its folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peft import LoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from leapalign.errors import UserError

Shapes = dict[str, tuple[int, ...]]

PEFT_CONFIG, PEFT_PREFIX = "adapter_config.json", "base_model.model."


def load_finetuned(pipeline: Any, path: str | Path) -> None:  # noqa: ANN401 - diffusers' own
    """Replace the weights of a pipeline's transformer, or add an adapter to it.

    All tensors are compared with the transformer's before the first is loaded.

    Args:
        pipeline: the base model's.
        path: the fine-tuned weights; see the module for their formats.

    Raises:
        UserError: a file is missing or damaged, or its tensors are not for this transformer.
    """
    files = shards(Path(path))
    with _naming(path):
        found = {name: shape for file in files for name, shape in _shapes(file).items()}
        own = _shapes_of(pipeline.transformer.state_dict())
        if own.keys().isdisjoint(found) and any("lora" in name for name in found):
            _add_adapter(pipeline, path, files)
            return
        _refuse_others(path, found, own)
        for file in files:
            pipeline.transformer.load_state_dict(load_file(file), strict=False)


def shards(path: Path) -> Sequence[Path]:
    """The safetensors files at a path; in a folder those of its index, or all."""
    if not path.is_dir():
        return [path]
    if (path / "transformer").is_dir():
        return shards(path / "transformer")
    for index in sorted(path.glob("*.safetensors.index.json")):
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [path / name for name in sorted(set(names))]
    files = sorted(path.glob("*.safetensors"))
    if not files:
        raise UserError(f"{path}: no .safetensors in it; name the transformer's own folder")
    return files


def _add_adapter(pipeline: Any, path: str | Path, files: Sequence[Path]) -> None:  # noqa: ANN401
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise UserError(f"{path}: several files beside an adapter's ({names}); name its file")
    [file] = files
    if (file.parent / PEFT_CONFIG).is_file():
        tensors = load_file(file)
        _check_adapter(pipeline.transformer, path, tensors, PEFT_PREFIX)
        pipeline.transformer.load_lora_adapter(
            {name.removeprefix(PEFT_PREFIX): value for name, value in tensors.items()},
            prefix=None,
            metadata=LoraConfig.from_pretrained(str(file.parent)).to_dict(),
        )
    else:
        tensors = pipeline.lora_state_dict(str(file), use_safetensors=True)
        _check_adapter(pipeline.transformer, path, tensors, "transformer.")
        pipeline.load_lora_weights(str(file), use_safetensors=True)


def _check_adapter(
    transformer: nn.Module, path: str | Path, tensors: Mapping[str, Tensor], prefix: str
) -> None:
    """Refuse an adapter of layers that the transformer does not have, or of halves of layers."""
    modules = {f"{prefix}{name}": module for name, module in transformer.named_modules()}
    expected: Shapes = {}
    for layer in {name.rpartition(".lora_")[0] for name in tensors}:
        module, down = modules.get(layer), tensors.get(f"{layer}.lora_A.weight")
        if isinstance(module, nn.Linear):
            rank = 0 if down is None else down.shape[0]
            expected[f"{layer}.lora_A.weight"] = (rank, module.in_features)
            expected[f"{layer}.lora_B.weight"] = (module.out_features, rank)
    _refuse_others(path, _shapes_of(tensors), expected)


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Say of what reading weights raises which they were."""
    try:
        yield
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: not weights of this transformer: {reason}") from error


def _refuse_others(path: str | Path, found: Shapes, expected: Shapes) -> None:
    """Refuse tensors other than those expected."""
    if found != expected:
        raise UserError(f"{path}: not weights of this transformer: {_differ(found, expected)}")


def _shapes(file: Path) -> Shapes:
    with safe_open(file, framework="pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def _shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _differ(found: Shapes, expected: Shapes) -> str:
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
