"""What a trajectory's length does to gradients and memory, and how far leaps land from the path.

    python -m benchmarks.trajectories --settings JSON --out FILE

measures at the base model's own weights, over T steps, LeapAlign (without its sample weights, whose
scale is its own) beside backpropagation through the whole path in one graph: the gradient's norm,
the peak of what autograd saves (weights apart), the seconds. And the connector residual
mean |x_j - x̂_{j|k}| of leaps between any two steps of the path, against the distance they leap.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.saved import metered_passes
from benchmarks.timing import clock
from benchmarks.turns import device_of
from leapalign.devices import leased_device
from leapalign.errors import main_guard
from leapalign.plan import jump
from leapalign.record import record
from leapalign.rollout import Rollout, euler_solver, rollout
from leapalign.settings import TrainSettings
from leapalign.sharding import own
from leapalign.surrogate import landing
from leapalign.training import Training, prepare

STEPS = (5, 10, 25, 50)
BINS = 10
MEGABYTE = 1e6


def leaps(training: Training) -> None:
    """Accumulate LeapAlign's gradient of one iteration."""
    for _ in training.method.updates(training.problem, 0):
        pass


def full_backpropagation(training: Training) -> None:
    """Accumulate the gradient of the same loss through every step, all graphs alive."""
    problem = training.problem
    slots = range(problem.batch)
    prompts = problem.prompts(0, slots)
    grid, field = problem.grid(problem.steps), problem.field(prompts)
    path = Rollout(grid, [problem.noise(0, slots, "initial")], [])
    for i in range(grid.steps):
        path.velocities.append(field(path.states[-1], path.times(i)))
        path.states.append(euler_solver(path, i))
    torch.relu(problem.threshold - problem.score(path.states[-1], prompts)).mean().backward()


WAYS: dict[str, Callable[[Training], None]] = {
    "leapalign": leaps,
    "full_backprop": full_backpropagation,
}


def frozen_tensors(training: Training) -> list[Tensor]:
    """The weights of all models, which are there whether or not a graph points at them."""
    pipeline = training.problem.backbone.pipeline
    modules = [pipeline.transformer, pipeline.vae]
    reward = [m for m in vars(training.problem.reward).values() if isinstance(m, torch.nn.Module)]
    return [
        own(tensor)
        for module in [*modules, *reward]
        for tensor in (*module.parameters(), *module.buffers())
    ]


def accumulated(training: Training, way: Callable[[Training], None]) -> dict[str, float]:
    """What one iteration's gradient is and costs, without a step of the optimiser.

    Returns:
        `grad_norm`; `saved_mb`, the peak of what autograd saves, weights apart; `transformer_mb`,
        the peak of the transformer's part of it, and `graphs`, the most of its passes' graphs alive
        at once; `seconds`; and on CUDA `allocated_mb`, the peak of all tensors.
    """
    transformer = training.problem.backbone.transformer
    device = device_of(transformer)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = clock(device)
    with metered_passes(transformer, frozen_tensors(training)) as (meter, passes):
        way(training)
    found = {"seconds": clock(device) - started}
    if device.type == "cuda":
        found["allocated_mb"] = torch.cuda.max_memory_allocated(device) / MEGABYTE
    gradients = (p.grad for p in transformer.parameters() if p.grad is not None)
    norm = float(torch.nn.utils.get_total_norm(gradients))
    training.optimizer.zero_grad(set_to_none=True)
    return {
        "grad_norm": norm,
        "saved_mb": meter.peak / MEGABYTE,
        "transformer_mb": passes.peak / MEGABYTE,
        "graphs": passes.graphs,
        **found,
    }


def lengths(
    settings: TrainSettings, device: str, steps: Sequence[int], ways: Collection[str]
) -> Iterator[dict[str, Any]]:
    """What each way's gradient is and costs (`accumulated`), for every T."""
    for length in steps:
        budget = replace(settings.training, steps=length)
        training = prepare(replace(settings, training=budget), device)
        for way in ways:
            yield {"method": way, "steps": length, **accumulated(training, WAYS[way])}


def residuals(settings: TrainSettings, device: str) -> list[dict[str, Any]]:
    """The connector residual of all pairs of steps of a batch's paths, by distance in σ."""
    problem = prepare(settings, device).problem
    slots = range(problem.batch)
    field = problem.field(problem.prompts(0, slots))
    path = rollout(field, problem.noise(0, slots, "initial"), problem.grid(problem.steps))
    found: defaultdict[int, list[float]] = defaultdict(list)
    for k, j in itertools.combinations(range(path.grid.end + 1), 2):
        landed = landing(path, [jump(path.grid, k, j)] * len(slots))
        apart = (path.states[j] - landed).abs().mean(dim=(1, 2)).tolist()
        gap = path.grid.sigmas[k] - path.grid.sigmas[j]
        found[min(int(gap * BINS), BINS - 1)] += apart
    return [
        {
            "gap": (place + 0.5) / BINS,
            "mean": float(np.mean(values)),
            "low": float(np.quantile(values, 0.05)),
            "high": float(np.quantile(values, 0.95)),
            "pairs": len(values),
        }
        for place, values in sorted(found.items())
    ]


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: measure, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trajectories")
    parser.add_argument("--settings", required=True, help="LeapAlign's training settings, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    settings = TrainSettings.from_json(arguments.settings)
    plain = replace(settings.method, settings={**settings.method.settings, "weighting": "none"})
    settings = replace(settings, method=plain)
    with (
        leased_device() as device,
        record(arguments.out, settings, settings.weights, device) as entries,
    ):
        entries["lengths"] = list(lengths(settings, device, STEPS, WAYS))
        entries["residuals"] = residuals(settings, device)


if __name__ == "__main__":
    main()
