"""The model card of trained weights: method, settings, base model, licence and deviations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard, ModelCardData

from leapalign.config import declared_deviations, load_method
from leapalign.experiments import load_experiments
from leapalign.parsing import dump
from leapalign.registry import registered
from leapalign.settings import Deviation, TrainSettings
from leapalign.weights import nameable

PATHS = ("backbone.path", "method.reference", "training.prompts", "training.reward.path")


def model_card(settings: TrainSettings, pipeline: DiffusionPipeline, run: str | None) -> str:
    """The README.md of a training's weights: all that is known before it begins.

    Args:
        settings: of the training.
        pipeline: the base model's.
        run: its name among the experiments; without it there is no label and no reason.
    """
    adapter = settings.training.adapter
    base = _base(settings.backbone.path)
    label, deviations = _declared(settings, run)
    kind = "finetune" if adapter is None else "adapter"
    data = ModelCardData(
        base_model=base.name,
        base_model_relation=kind,
        library_name="diffusers",
        license="other" if base.licence else None,
        license_name=base.licence,
        license_link=base.link,
        pipeline_tag="text-to-image",
        tags=["leapalign", *(["lora"] if adapter else [])],
    )
    reward = settings.training.reward.name
    trained = "all weights" if adapter is None else f"a LoRA adapter of rank {adapter.rank}"
    use = _whole(pipeline, base.name) if adapter is None else _adapter(pipeline, base.name)
    return str(
        ModelCard(f"""---
{data.to_yaml()}
---

# {base.name}, fine-tuned by {label}

{label} trained {trained} of the transformer on the reward {reward} for
{settings.training.iterations} iterations of {settings.training.batch} images at \
{settings.resolution} px. These are the averaged weights (EMA), which are the ones evaluated.

```python
{use}
```

## Settings

| setting | value |
|---|---|
{_rows(settings)}

## Deviations from the shared budget

{_list(deviations)}

## Results

Scores, images and their provenance are in the training's ledger, \
`results/{settings.scale}/ledger/{run or "RUN"}/seed{settings.seed}`; `log.jsonl` and
`provenance.json` beside this folder say how the training went and on what.

## Licence

Weights derived from {base.name} are under its licence{base.terms}
""")
    )


@dataclass(frozen=True, slots=True)
class _Base:
    """The base model: its name, its licence and the licence's page, where they are known."""

    name: str
    licence: str | None = None
    link: str | None = None

    @property
    def terms(self) -> str:
        known = self.licence and f": {self.licence}"
        return f"{known or ', which is not known here'}{f' ({self.link})' if self.link else ''}."


def _base(path: str) -> _Base:
    """The base model as the registry knows it, or by its folder or hub id."""
    found = registered(path)
    if found is None:
        return _Base(nameable(path))
    _, entry = found
    return _Base(entry.hub[0].repo, entry.license, entry.accept)


def _declared(settings: TrainSettings, run: str | None) -> tuple[str, list[Deviation]]:
    """The run's label, and the deviations with reasons that the training really has."""
    config = load_experiments().find(run) if run else None
    if config is None or config.method is None:
        return settings.method.reference.rpartition(":")[2], []
    budget = _flat(dump(settings.training))
    return config.label or load_method(config.method).label, [
        deviation
        for deviation in declared_deviations(str(run), config, settings.scale)
        if _flat({deviation.key: deviation.value}).items() <= budget.items()
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Every leaf as JSON, by its dotted key."""
    leaves = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= _flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = json.dumps(value)
    return leaves


def _rows(settings: TrainSettings) -> str:
    rows: Iterator[tuple[str, str]] = (
        (key, json.dumps(nameable(json.loads(value))) if key in PATHS else value)
        for key, value in _flat(dump(settings)).items()
    )
    return "\n".join(f"| {key} | {value} |" for key, value in rows)


def _list(deviations: list[Deviation]) -> str:
    lines = [
        f"- {one.key} = {one.value} instead of {one.shared}: {one.reason}." for one in deviations
    ]
    return "\n".join(lines) or "None."


def _whole(pipeline: DiffusionPipeline, base: str) -> str:
    stock, network = type(pipeline).__name__, pipeline.config["transformer"][1]
    return f"""from diffusers import {stock}, {network}

transformer = {network}.from_pretrained("this/folder", subfolder="transformer")
pipeline = {stock}.from_pretrained("{base}", transformer=transformer)"""


def _adapter(pipeline: DiffusionPipeline, base: str) -> str:
    stock = type(pipeline).__name__
    return f"""from diffusers import {stock}

pipeline = {stock}.from_pretrained("{base}")
pipeline.load_lora_weights("this/folder")"""
