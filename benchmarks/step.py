"""The training step's time over the transformer passes that it must make.

    python -m benchmarks.step --scale pocket --out results/benchmarks/step.json

Per method, full training iterations, each followed at once by the bare transformer passes that it
made (the same forwards and backwards on the same shapes). Their ratio is what decoder, reward,
optimiser, averaging and the suite's own code add.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import provenance
from benchmarks.turns import summary, take_turn
from leapalign.config import resolve_run
from leapalign.errors import UserError, main_guard
from leapalign.experiments import load_experiments
from leapalign.files import write_json
from leapalign.settings import TrainSettings
from leapalign.training import Training, prepare

METHODS = ("leapalign", "refl", "draft_lv", "drtune", "dance_grpo", "mix_grpo")


def settings_of(run: str, scale: str, backbone: str | None = None) -> TrainSettings:
    """A run's training settings at a scale, on another of its base models if one is named.

    Raises:
        UserError: the scale has no such base model, or the run is not trained.
    """
    config = load_experiments().runs[run]
    if backbone is not None:
        config = replace(config, backbone=backbone)
    settings = resolve_run(run, config, scale, seed=0).train
    if settings is None:
        raise UserError(f"run `{run}`: it is not trained, so there is nothing to measure")
    return settings


def time_step(training: Training, repeats: int) -> dict[str, Any]:
    """Median seconds of an iteration and of its bare passes, taken in turns, and their ratio."""
    take_turn(training)  # warms up
    turns = [take_turn(training) for _ in range(repeats)]
    return {**summary(turns), "repeats": repeats}


def measure(scale: str, methods: Sequence[str], repeats: int) -> dict[str, Any]:
    """All that this benchmark measures, with what it was measured on."""
    times = {}
    for run in methods:
        times[run] = time_step(prepare(settings_of(run, scale), "cpu"), repeats)
        sys.stdout.write(
            f"{run:12} {times[run]['step_seconds']:7.3f} s a step, "
            f"{times[run]['multiple']:5.2f} times its bare passes\n"
        )
    return {"scale": scale, **provenance(torch.device("cpu")), "time": times}


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: measure every method's step, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step")
    parser.add_argument("--scale", default="pocket")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--repeats", type=int, default=8, help="measured iterations of each method")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    write_json(arguments.out, measure(arguments.scale, arguments.methods, arguments.repeats))


if __name__ == "__main__":
    main()
