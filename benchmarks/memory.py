"""What a gradient keeps in memory, against the steps, the images and the steps that train.

    python -m benchmarks.memory --scale pocket --out results/benchmarks/memory.json

Per row, of one iteration: the peak of what autograd saves for backward passes (weights apart), that
of the transformer's part of it, the most transformer graphs alive at once, and on CUDA the peak of
all tensors. LeapAlign over the steps T beside backpropagation through all of them, over the images
of a micro-batch and of a batch; and FlowBP-Sparse over its K active steps, by our sweep and by
autograd with all K graphs alive. `--size flux` goes over T alone, at FLUX.1-dev's shapes with no
block computed again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.choice import add_choice, chosen
from benchmarks.machine import provenance
from benchmarks.step import settings_of
from benchmarks.trajectories import STEPS, WAYS, accumulated, leaps, lengths
from leapalign.devices import leased_device
from leapalign.direct import DirectGradient
from leapalign.errors import main_guard
from leapalign.files import write_json
from leapalign.rollout import rollout
from leapalign.settings import TrainSettings
from leapalign.surrogate import image_latents, replays_of
from leapalign.training import Training, prepare

IMAGES = (1, 2, 4, 8, 16)
ACTIVE = (1, 2, 4, 8, 16)
FULL_STEPS = (5, 25)
"""At full size, where one graph takes 22 GB an image, so that full backpropagation has no room."""

KINDS = ("saved_mb", "transformer_mb", "allocated_mb")
"""Of memory; the last where there is a CUDA device."""

Row = dict[str, Any]


def all_graphs(training: Training) -> None:
    """Accumulate FlowBP-Sparse's gradient by autograd, as its surrogate is written down.

    Every active step's velocity enters the image as v - sg(v), times its weight and gain, and all
    of their graphs are alive until one backward pass through decoder, reward and them.
    """
    problem, method = training.problem, cast(DirectGradient, training.method)
    slots = range(problem.batch)
    prompts, grid = problem.prompts(0, slots), method.grid(problem)
    plans = [method.plan(grid, problem.choices(0, slot, "plan")) for slot in slots]
    field = problem.field(prompts)
    record = rollout(field, problem.noise(0, slots, "initial"), grid)
    image = image_latents(record, plans)
    for replay in replays_of([leap for plan in plans for leap in plan.leaps]):
        x = torch.stack([record.states[i][b] for b, i in enumerate(replay.index)])
        v = field(x, record.times(torch.tensor(replay.index, device=x.device)))
        image = image + x.new_tensor(replay.scale)[:, None, None] * (v - v.detach())
    torch.relu(problem.threshold - problem.score(image, prompts)).mean().backward()


def over_images(settings: TrainSettings, device: str, key: str) -> Iterator[Row]:
    """LeapAlign over the images of a `micro_batch`, or of a `batch` in micro-batches of one."""
    fixed: dict[str, Any] = {"batch": max(IMAGES), "micro_batch": 1}
    for images in IMAGES:
        budget = replace(settings.training, **{**fixed, key: images})
        training = prepare(replace(settings, training=budget), device)
        yield {"method": "leapalign", key: images, **accumulated(training, leaps)}


def over_active(settings: TrainSettings, device: str) -> Iterator[Row]:
    """FlowBP-Sparse over its active steps, by the sweep and with all graphs alive."""
    method, budget = settings_of("flowbp_sparse", settings.scale).method, settings.training
    whole = replace(budget, micro_batch=budget.batch)
    for active in ACTIVE:
        if active > budget.steps:
            return
        sparse = replace(method, settings={**method.settings, "active": active})
        training = prepare(replace(settings, method=sparse, training=whole), device)
        yield {"method": "sweep", "active": active, **accumulated(training, leaps)}
        yield {"method": "all_graphs", "active": active, **accumulated(training, all_graphs)}


def sweeps(settings: TrainSettings, device: str, *, full: bool) -> dict[str, Iterator[Row]]:
    """The rows by what they are against; at full size over the steps alone."""
    if full:
        budget = replace(settings.training, batch=1, micro_batch=1)
        compute = replace(settings.compute, recompute=False)
        settings = replace(settings, training=budget, compute=compute)
        return {"steps": lengths(settings, device, FULL_STEPS, ["leapalign"])}
    return {
        "steps": lengths(settings, device, STEPS, WAYS),
        "micro_batch": over_images(settings, device, "micro_batch"),
        "batch": over_images(settings, device, "batch"),
        "active": over_active(settings, device),
    }


def told(rows: Iterable[Row], key: str) -> Iterator[Row]:
    """The rows, each written to the terminal as it comes."""
    for row in rows:
        sys.stdout.write(
            f"{key} {row[key]:2}  {row['method']:13} {row['saved_mb']:7.1f} MB, "
            f"{row['graphs']:2} transformer graphs {row['transformer_mb']:7.1f}\n"
        )
        yield row


def compared(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """By method and kind of memory: how it goes over the rows.

    `over_first`, each row over the first; `growth`, the last over the first; `spread`, the largest
    over the smallest, less 1.
    """
    kinds = [kind for kind in KINDS if kind in rows[0]]
    methods = dict.fromkeys(row["method"] for row in rows)
    return {
        method: {
            kind: _compared([r[kind] for r in rows if r["method"] == method]) for kind in kinds
        }
        for method in methods
    }


def _compared(values: Sequence[float]) -> dict[str, Any]:
    over_first = [value / values[0] for value in values]
    return {
        "over_first": over_first,
        "growth": over_first[-1],
        "spread": max(values) / min(values) - 1.0,
    }


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: measure all rows, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    add_choice(parser)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    with leased_device() as device:
        settings = chosen(arguments, device)
        found = {
            key: list(told(rows, key))
            for key, rows in sweeps(settings, device, full=arguments.size is not None).items()
        }
        where = provenance(torch.device(device))
    summary = {key: compared(rows) for key, rows in found.items()}
    write_json(
        arguments.out,
        {
            **where,
            "scale": settings.scale,
            "batch": settings.training.batch,
            **found,
            "summary": summary,
        },
    )


if __name__ == "__main__":
    main()
