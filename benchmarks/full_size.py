"""One iteration of LeapAlign and one of DanceGRPO at FLUX.1-dev's size, on one GPU of 80 GB.

    python -m benchmarks.full_size --size flux --out results/benchmarks/full_size.json

Weights are random, everything else is a training's own: the scale's settings, with an adapter and
fewer images an iteration. Of each run it tells the seconds and memory of each phase, the rate at
which passes run over that of a large bf16 matrix product, and how long the iteration took over its
bare transformer passes. `--size tiny` goes the same way in seconds on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.machine import matrix_rate, provenance
from benchmarks.passes import operations
from benchmarks.step import settings_of
from benchmarks.turns import Turn, take_turn
from leapalign.devices import leased_device
from leapalign.errors import UserError, main_guard
from leapalign.files import write_json
from leapalign.parsing import dump
from leapalign.settings import Adapter, Backbone, Compute, TrainSettings
from leapalign.training import prepare

GIGABYTE, TERA = 1e9, 1e12
# Prompts are encoded as noise, so any will do.
PROMPTS = "pocket/prompts/train.jsonl"


@dataclass(frozen=True)
class Run:
    """How much of a method's iteration is measured.

    Attributes:
        budget: keys of the shared budget that keep it to minutes.
        warm: unmeasured iterations before.
        turns: measured ones.
    """

    budget: Mapping[str, int]
    warm: int = 0
    turns: int = 1


@dataclass(frozen=True)
class Size:
    """What is built, and what it trains.

    Attributes:
        scale: whose settings are taken.
        backbone: folder of the base model's configurations.
        reward: open_clip's name of the reward's configuration, or its folder.
        runs: what is measured, by the run's name.
        adapter: what is trained.
        compute: how.
        matrix: side of the matrices whose product is the measure of rates.
    """

    scale: str
    backbone: str
    reward: str
    runs: Mapping[str, Run]
    adapter: Adapter
    compute: Compute
    matrix: int


ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
SIZES = {
    "tiny": Size(
        scale="smoke",
        backbone="pocket/weights/base",
        reward="pocket/weights/hpsv2",
        runs={
            "leapalign": Run({"batch": 2, "micro_batch": 1}),
            "dance_grpo": Run({"batch": 2, "micro_batch": 2}),
        },
        adapter=Adapter(4, 8, ATTENTION),
        compute=Compute(recompute=True),
        matrix=64,
    ),
    # DanceGRPO's adapter; one of its groups, over half the paper's steps.
    "flux": Size(
        scale="flux",
        backbone="benchmarks/flux",
        reward="ViT-H-14",
        runs={
            "leapalign": Run({"batch": 2, "micro_batch": 2}, warm=1, turns=2),
            "dance_grpo": Run({"batch": 12, "micro_batch": 4, "steps": 12}),
        },
        adapter=Adapter(128, 256, ATTENTION),
        compute=Compute(precision="bfloat16", recompute=True, image_batch=1),
        matrix=8192,
    ),
}


def settings(size: Size, run: str) -> TrainSettings:
    """A run's own settings at the size's scale, with its models and what is kept small."""
    scaled = settings_of(run, size.scale)
    budget: dict[str, Any] = dict(size.runs[run].budget)
    reward = replace(
        scaled.training.reward, name="benchmarks.random_models:RandomHPSv2", path=size.reward
    )
    return replace(
        scaled,
        backbone=Backbone("benchmarks.random_models:RandomFlux", size.backbone),
        training=replace(
            scaled.training, prompts=PROMPTS, reward=reward, adapter=size.adapter, **budget
        ),
        compute=size.compute,
    )


def measure_run(size: Size, run: str, device: str, rate: float) -> dict[str, Any]:
    """One method's iterations, taken apart.

    Args:
        size: what is built.
        run: the run's name.
        device: where.
        rate: floating-point operations per second of a large matrix product there.
    """
    training = prepare(settings(size, run), device)
    for _ in range(size.runs[run].warm):
        take_turn(training)
    turns = [take_turn(training) for _ in range(size.runs[run].turns)]
    rollouts, replays = operations(training.problem.backbone.transformer, turns[-1].passes)
    phases = {name: phase_of(turns, name) for name in turns[-1].phases}
    for name, done in (("rollout", rollouts), ("replay", replays)):
        phases[name]["teraflop"] = done / TERA
        phases[name]["share_of_matrix_rate"] = done / phases[name]["seconds"] / rate
    seconds = median(turn.seconds for turn in turns)
    return {
        "step_seconds": seconds,
        "bare_seconds": median(turn.bare for turn in turns),
        "multiple": median(turn.seconds / turn.bare for turn in turns),
        "share_of_matrix_rate": (rollouts + replays) / seconds / rate,
        "peak_gigabytes": max(phase["peak_gigabytes"] for phase in phases.values()),
        "phases": phases,
        "sample_forwards": sum(p.batch for p in turns[-1].passes if not p.replays),
        "sample_replays": sum(p.batch for p in turns[-1].passes if p.replays),
        "settings": dump(settings(size, run)),
    }


def phase_of(turns: Sequence[Turn], name: str) -> dict[str, float]:
    """A phase's median seconds and largest memory."""
    return {
        "seconds": median(turn.phases[name].seconds for turn in turns),
        "peak_gigabytes": max(turn.phases[name].peak for turn in turns) / GIGABYTE,
    }


def measure(size: Size, device: str) -> Iterator[dict[str, Any]]:
    """All that this benchmark measures; what is known so far, after each run.

    A run that fails is told with its error, and the others go on.
    """
    found: dict[str, Any] = provenance(torch.device(device))
    rate = matrix_rate(torch.device(device), size.matrix, repeats=10)
    found["matrix_teraflops"] = rate / TERA
    found["runs"] = runs = {}
    for run in size.runs:
        try:
            runs[run] = measure_run(size, run, device, rate)
        except Exception as error:
            runs[run] = {"error": f"{type(error).__name__}: {error}"}
        # The next run needs all the memory.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        yield found


def told(run: str, row: Mapping[str, Any]) -> str:
    """A run's line for the terminal."""
    if "error" in row:
        return f"{run}: {row['error'].splitlines()[0]}"
    phases = ", ".join(f"{name} {phase['seconds']:.3g}" for name, phase in row["phases"].items())
    return (
        f"{run}: {row['step_seconds']:.3g} s a step ({phases}), {row['multiple']:.2f} times its "
        f"bare passes, {row['share_of_matrix_rate']:.0%} of the matrix rate, "
        f"{row['peak_gigabytes']:.1f} GB"
    )


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: measure both runs, write JSON after each; fails if one has failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_size")
    parser.add_argument("--size", choices=SIZES, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    with leased_device() as device:
        if arguments.size == "flux" and device == "cpu":
            raise UserError(
                "--size flux needs a CUDA device of 80 GB and finds none; --size tiny does not"
            )
        for found in measure(SIZES[arguments.size], device):
            write_json(arguments.out, found)
            run, row = list(found["runs"].items())[-1]
            sys.stdout.write(told(run, row) + "\n")
    failed = [run for run, row in found["runs"].items() if "error" in row]
    if failed:
        raise UserError(f"{', '.join(failed)} failed: see {arguments.out}")


if __name__ == "__main__":
    main()
