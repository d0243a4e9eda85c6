"""What the updates of an iteration are made of, in one process or in each of several.

Under torchrun, `updates.py <file>` reads settings by name from `<file>.json`, and its first process
writes what `updates_of` gives for each to `<file>.pt`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from leapalign.parallel import ALONE, Processes, joined
from leapalign.settings import TrainSettings
from leapalign.sharding import whole
from leapalign.train import averaged_weights, prepare


def updates_of(
    settings: TrainSettings, processes: Processes = ALONE, device: str = "cpu"
) -> dict[str, Any]:
    """The gradient of each update of the first iteration, its log line, and the average after it."""
    run = prepare(settings, device, processes)
    gradients: list[torch.Tensor] = []

    def note(*_: object) -> None:
        weights = run.average.trained.values()
        gradients.append(torch.cat([whole(weight.grad).flatten() for weight in weights]))

    run.optimizer.register_step_pre_hook(note)
    line = run.iterate()
    return {"gradients": gradients, "line": line, "weights": averaged_weights(run)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    file = Path(sys.argv[1])
    with joined() as (together, device):
        cases = json.loads(file.with_suffix(".json").read_text())
        found = {
            name: updates_of(TrainSettings.from_json(text), together, device)
            for name, text in cases.items()
        }
        if together.main:
            torch.save(found, file.with_suffix(".pt"))
