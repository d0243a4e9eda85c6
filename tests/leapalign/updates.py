"""What an iteration's updates are made of, in one process or in each of several.

Under torchrun, `updates.py <file>` reads settings by name from `<file>.json`, and the main process
writes what `updates_of` gives for each of them to `<file>.pt`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from leapalign.backbones.flux import Flux
from leapalign.parallel import joined, present
from leapalign.rewards.hpsv2 import HPSv2
from leapalign.settings import TrainSettings
from leapalign.sharding import whole
from leapalign.training import prepare
from tests.leapalign.problems import PROMPTS

# What FSDP calls; the first of each pair from torch 2.15 on.
GATHER, REDUCE = (
    new if hasattr(dist, new) else old
    for new, old in (
        ("all_gather_single", "all_gather_into_tensor"),
        ("reduce_scatter_single", "reduce_scatter_tensor"),
    )
)


class Flux64(Flux):
    """FLUX in float64: what is left between two ways to a gradient is no rounding of its own."""

    @classmethod
    @override
    def load(cls, path: Path, resolution: int, device: torch.device, **_: object) -> Flux:
        return super().load(path, resolution, device, torch.float64)


class HPSv264(HPSv2):
    """HPSv2.1 in float64."""

    @classmethod
    @override
    def load(cls, path: Path, device: torch.device) -> HPSv2:
        loaded = super().load(path, device)
        loaded.model.double()
        return loaded

    @override
    def transform(self, images: Tensor) -> Tensor:
        return super().transform(images.double())


class Undecided(HPSv264):
    """HPSv2.1 but for one prompt, all of whose images it rates alike: a group without spread."""

    @override
    def rate(self, prepared: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = super().rate(prepared, prompts)
        same = torch.tensor([prompt == PROMPTS[0] for prompt in prompts])
        return torch.where(same, scores * 0.0 + 0.3, scores)


def updates_of(settings: TrainSettings) -> dict[str, Any]:
    """The first iteration's gradient of each update, its log line, the average after it."""
    run = prepare(settings, "cpu")
    gradients: list[Tensor] = []

    def note(*_: object) -> None:
        weights = run.average.trained.values()
        gradients.append(torch.cat([whole(weight.grad).flatten() for weight in weights]))

    run.optimizer.register_step_pre_hook(note)
    before = Counter(CALLS)
    line = run.iterate()
    return {
        "gradients": gradients,
        "line": line,
        "weights": run.average.loadable(run.problem.backbone.transformer, keep=True),
        "calls": CALLS - before,
        "precisions": {weight.dtype for weight in run.average.trained.values()},
    }


CALLS: Counter[str] = Counter()


def count_calls() -> None:
    """Count what FSDP asks of torch.distributed."""
    for name in ORIGINAL:

        def counted(*args: object, _name: str = name, **kwargs: object) -> object:
            CALLS[_name] += 1
            return ORIGINAL[_name](*args, **kwargs)

        setattr(dist, name, counted)


ORIGINAL = {name: getattr(dist, name) for name in (GATHER, REDUCE)}

if __name__ == "__main__":
    torch.set_num_threads(1)
    file = Path(sys.argv[1])
    count_calls()
    with joined():
        cases = json.loads(file.with_suffix(".json").read_text())
        found = {name: updates_of(TrainSettings.from_json(text)) for name, text in cases.items()}
        if present().main:
            torch.save(found, file.with_suffix(".pt"))
