"""Iterations of LeapAlign and one of DanceGRPO at FLUX.1-dev's size, on one GPU of 80 GB.

    python -m benchmarks.full_size --size flux --out results/benchmarks/full_size.json

Weights are random; everything else is a training's own at the scale `flux-lora`, but for fewer
images an iteration. Of each it tells the seconds and memory of each phase, beside what the doctor
foretold; the rate at which passes run over that of a large bf16 matrix product; and how long the
iteration took over its bare transformer passes. `--size tiny` goes the same way in seconds on CPUs.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.machine import matrix_rate, provenance
from benchmarks.passes import operations
from benchmarks.step import settings_of
from benchmarks.turns import Turn, summary, take_turn
from leapalign.devices import leased_device
from leapalign.doctor.admission import predicted
from leapalign.doctor.memory import forecast
from leapalign.errors import UserError, main_guard
from leapalign.files import write_json
from leapalign.parsing import dump
from leapalign.settings import Adapter, TrainSettings
from leapalign.training import prepare

GIGABYTE, TERA = 1e9, 1e12
# Prompts are encoded as noise, so any will do.
PROMPTS = "pocket/prompts/train.jsonl"


@dataclass(frozen=True)
class Case:
    """A run, and how much of its iteration is measured.

    Attributes:
        run: its name among the experiments.
        budget: keys of the shared budget that keep it to minutes.
        compute: keys of how the scale's trainings use their machine.
        warm: unmeasured iterations before.
        turns: measured ones.
    """

    run: str
    budget: Mapping[str, Any]
    compute: Mapping[str, Any]
    warm: int = 0
    turns: int = 1


@dataclass(frozen=True)
class Size:
    """What is measured.

    Attributes:
        scale: whose settings are taken.
        cases: by their name in the JSON, the most wanted first.
        matrix: side of the matrices whose product is the measure of rates.
    """

    scale: str
    cases: Mapping[str, Case]
    matrix: int


LORA = Adapter(4, 8, ("to_q", "to_k", "to_v", "to_out.0"))
AS_FLUX = {"precision": "bfloat16", "recompute": True, "image_batch": 1}
EAGER, COMPILED = {"compile": False}, {"compile": True}
SIZES = {
    "tiny": Size(
        "smoke",
        {
            "leapalign": Case(
                "leapalign", {"adapter": LORA, "batch": 2, "micro_batch": 2}, AS_FLUX
            ),
            "dance_grpo": Case(
                "dance_grpo", {"adapter": LORA, "batch": 2, "micro_batch": 1}, AS_FLUX
            ),
        },
        matrix=64,
    ),
    # One of DanceGRPO's groups; its preset for adapters trains 6 of 12 steps.
    "flux": Size(
        "flux-lora",
        {
            "leapalign": Case("leapalign", {"batch": 2, "micro_batch": 2}, EAGER, 1, 1),
            "leapalign compiled": Case("leapalign", {"batch": 2, "micro_batch": 2}, COMPILED, 1, 1),
            "dance_grpo": Case("dance_grpo", {"batch": 12, "micro_batch": 6}, EAGER),
        },
        matrix=8192,
    ),
}


def check_device(size: str, device: str) -> None:
    """Refuse the full size without a GPU.

    Raises:
        UserError: naming the size that does without.
    """
    if size == "flux" and device == "cpu":
        raise UserError(
            "--size flux needs a CUDA device of 80 GB and finds none; --size tiny does not"
        )


def settings_at(size: Size, name: str) -> TrainSettings:
    """A case's settings: its run's own at the size's scale, but for what is kept small."""
    case = size.cases[name]
    scaled = settings_of(case.run, size.scale)
    budget: dict[str, Any] = {"prompts": PROMPTS, "iterations": 1, **case.budget}
    return replace(
        scaled,
        training=replace(scaled.training, **budget),
        compute=replace(scaled.compute, **case.compute),
    )


def with_random_weights(settings: TrainSettings) -> TrainSettings:
    """The same training of models of the same configurations."""
    training, random = settings.training, "benchmarks.random_models"
    return replace(
        settings,
        backbone=replace(settings.backbone, loader=f"{random}:RandomFlux"),
        training=replace(training, reward=replace(training.reward, name=f"{random}:RandomHPSv2")),
    )


def measure_case(size: Size, name: str, device: str, rate: float) -> dict[str, Any]:
    """One method's iterations, taken apart, beside what the doctor foretold.

    Args:
        size: what is measured.
        name: the case's.
        device: where.
        rate: floating-point operations per second of a large matrix product there.
    """
    case, settings = size.cases[name], settings_at(size, name)
    expected = predicted(settings, device)
    training = prepare(with_random_weights(settings), device)
    for _ in range(case.warm):
        take_turn(training)
    turns = [take_turn(training) for _ in range(case.turns)]
    rollouts, replays = operations(training.problem.backbone.transformer, turns[-1].passes)
    phases = {name: phase_of(turns, name) for name in turns[-1].phases}
    for phase, done in (("rollout", rollouts), ("replay", replays)):
        phases[phase]["teraflop"] = done / TERA
        phases[phase]["share_of_matrix_rate"] = done / phases[phase]["seconds"] / rate
    memory = predicted_gigabytes(settings, phases)
    for phase, gigabytes in memory.items():
        phases[phase]["predicted_gigabytes"] = gigabytes
    taken = summary(turns)
    return {
        **taken,
        "share_of_matrix_rate": (rollouts + replays) / taken["step_seconds"] / rate,
        "peak_gigabytes": max(phase["peak_gigabytes"] for phase in phases.values()),
        "predicted_gigabytes": max(memory.values()),
        "predicted": expected,
        "phases": phases,
        "settings": dump(settings),
    }


def predicted_gigabytes(settings: TrainSettings, phases: Collection[str]) -> dict[str, float]:
    """The doctor's forecast for these of a training's phases; here no prompt is encoded."""
    expected = forecast(settings)
    resident = sum(expected.resident.values())
    return {
        phase: (resident + sum(parts.values())) / GIGABYTE
        for phase, parts in expected.phases.items()
        if phase in phases
    }


def phase_of(turns: Sequence[Turn], name: str) -> dict[str, float]:
    """A phase's median seconds and largest memory."""
    return {
        "seconds": median(turn.phases[name].seconds for turn in turns),
        "peak_gigabytes": max(turn.phases[name].peak for turn in turns) / GIGABYTE,
    }


def measure(size: Size, device: str) -> Iterator[dict[str, Any]]:
    """All that this benchmark measures; what is known so far, after each case.

    A case that fails is told with its error, and the others go on.
    """
    rate = matrix_rate(torch.device(device), size.matrix, repeats=10)
    found: dict[str, Any] = provenance(torch.device(device))
    found["matrix_teraflops"] = rate / TERA
    found["cases"] = cases = {}
    for name in size.cases:
        try:
            cases[name] = measure_case(size, name, device, rate)
        except Exception as error:
            cases[name] = {"error": f"{type(error).__name__}: {error}"}
        # The next case needs all the memory.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        yield found


def told(name: str, row: Mapping[str, Any]) -> str:
    """A case's line for the terminal."""
    if "error" in row:
        return f"{name}: {row['error'].splitlines()[0]}"
    phases = ", ".join(f"{phase} {of['seconds']:.3g}" for phase, of in row["phases"].items())
    expected = row["predicted"]["seconds"] if row["predicted"] else math.nan
    return (
        f"{name}: {row['step_seconds']:.3g} s a step ({phases}), predicted {expected:.3g}; "
        f"{row['multiple']:.2f} times its bare passes; {row['share_of_matrix_rate']:.0%} of the "
        f"matrix rate; {row['peak_gigabytes']:.1f} GB, predicted {row['predicted_gigabytes']:.1f}"
    )


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: measure all cases, write JSON after each; fails if one has failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size")
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    with leased_device() as device:
        check_device(arguments.size, device)
        for found in measure(SIZES[arguments.size], device):
            write_json(arguments.out, found)
            name, row = list(found["cases"].items())[-1]
            sys.stdout.write(told(name, row) + "\n")
    failed = [name for name, row in found["cases"].items() if "error" in row]
    if failed:
        raise UserError(f"{', '.join(failed)} failed: see {arguments.out}")


if __name__ == "__main__":
    main()
