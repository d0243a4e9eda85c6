"""The model card of trained weights: method, settings, base model, licence and deviations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from leapalign.config import declared_deviations, load_method
from leapalign.experiments import load_experiments
from leapalign.parsing import dump
from leapalign.registry import registered
from leapalign.settings import Deviation, TrainSettings
from leapalign.weights import nameable

CARD = "README.md"

CARD_TEXT = """---
{data}
---

# {base}, fine-tuned by {label}

{label} trained {trained} of the transformer on the reward {reward} for {iterations} iterations of
{batch} images at {resolution} px. These are the averaged weights (EMA): those that are evaluated.

```python
{use}
```

## Settings

| setting | value |
|---|---|
{settings}

## Deviations from the shared budget

{deviations}

## Results

Scores and images with their provenance are in the training's ledger, `{ledger}`; `log.jsonl` and
`provenance.json` beside this folder say how the training went, and on what.

## Licence

Weights derived from {base} are under its licence{terms}.
"""

ALL_WEIGHTS = """from diffusers import AutoModel, DiffusionPipeline

transformer = AutoModel.from_pretrained("this/folder", subfolder="transformer")
pipeline = DiffusionPipeline.from_pretrained("{base}", transformer=transformer)"""

ADAPTER = """from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{base}")
pipeline.load_lora_weights("this/folder")"""


def model_card(settings: TrainSettings, run: str | None = None) -> str:
    """The README.md of a training's weights: all that is known before it begins.

    Args:
        settings: of the training.
        run: its name among the experiments; without it there is no label and no reason.
    """
    budget, base = settings.training, _base(settings.backbone.path)
    label, deviations = _declared(settings, run)
    data = ModelCardData(
        base_model=base.name,
        base_model_relation="adapter" if budget.adapter else "finetune",
        library_name="diffusers",
        license="other" if base.licence else None,
        license_name=base.licence,
        license_link=base.link,
        pipeline_tag="text-to-image",
        tags=["leapalign", *(["lora"] if budget.adapter else [])],
    )
    text = CARD_TEXT.format(
        data=data.to_yaml(),
        base=base.name,
        label=label,
        trained=f"an adapter (rank {budget.adapter.rank})" if budget.adapter else "all weights",
        reward=budget.reward.name,
        iterations=budget.iterations,
        batch=budget.batch,
        resolution=settings.resolution,
        use=(ADAPTER if budget.adapter else ALL_WEIGHTS).format(base=base.name),
        settings=_rows(settings),
        deviations=_list(deviations),
        ledger=f"ledger/{run or 'RUN'}/seed{settings.seed}",
        terms=base.terms,
    )
    return str(ModelCard(text))


@dataclass(frozen=True, slots=True)
class _Base:
    """The base model: its name, its licence and the licence's page, where they are known."""

    name: str
    licence: str | None = None
    link: str | None = None

    @property
    def terms(self) -> str:
        if self.licence is None:
            return ", which is not known here"
        return f": {self.licence}{f' ({self.link})' if self.link else ''}"


def _base(path: str) -> _Base:
    """The base model as the registry knows it, or by its folder or hub id."""
    known = registered(path)
    if known is None:
        return _Base(nameable(path))
    _, entry = known
    return _Base(entry.hub[0].repo, entry.license, entry.accept)


def _declared(settings: TrainSettings, run: str | None) -> tuple[str, Sequence[Deviation]]:
    """The run's label, and the deviations with reasons that the training really has."""
    config = load_experiments().find(run) if run else None
    if run is None or config is None or config.method is None:
        return settings.method.reference.rpartition(":")[2], ()
    budget = _flat(dump(settings.training))
    deviations = declared_deviations(run, config, settings.scale)
    return config.label or load_method(config.method).label, [
        one for one in deviations if _flat({one.key: one.value}).items() <= budget.items()
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every leaf by its dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= _flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def _rows(settings: TrainSettings) -> str:
    """The rows of the table of settings; a path says nothing of this machine."""
    leaves = _flat(dump(settings)).items()
    shown = {key: nameable(value) if isinstance(value, str) else value for key, value in leaves}
    return "\n".join(f"| {key} | {json.dumps(value)} |" for key, value in shown.items())


def _list(deviations: Sequence[Deviation]) -> str:
    lines = (f"- {d.key} = {d.value} instead of {d.shared}: {d.reason}." for d in deviations)
    return "\n".join(lines) or "None."
