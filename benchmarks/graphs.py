"""On a CUDA device a rollout waits for nothing, and so can be captured as a CUDA graph.

    python -m benchmarks.graphs --out results/benchmarks/graphs.json

With the pocket model, whose passes are little more than launches. A rollout, a sweep and a policy's
replay are made while torch refuses every wait; then a rollout is captured, started from other noise
and compared with the one launched step by step, whose time is taken beside its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import provenance
from benchmarks.timing import side_by_side
from leapalign.backbones.flux import Flux
from leapalign.errors import UserError, main_guard
from leapalign.files import write_json
from leapalign.grid import Grid
from leapalign.leap import LeapAlign
from leapalign.policy import PolicyUpdate, replay_policy
from leapalign.rollout import Exploration, Velocity, extend, rollout
from leapalign.steps import FlowSDE, Latents
from leapalign.streams import choices, stream
from leapalign.surrogate import sweep

BASE, RESOLUTION = Path("pocket/weights/base"), 64
BATCH, STEPS, REPEATS = 4, 25, 5
WINDOW = range(10, 13)


@dataclass(frozen=True)
class Sampler:
    """A field, and where on its grid a batch starts."""

    field: Velocity
    grid: Grid
    x: Latents

    def sample(self) -> Latents:
        """Where Euler's path ends."""
        return rollout(self.field, self.x, self.grid).states[-1]

    def backpropagate(self) -> None:
        """LeapAlign's rollout, beside one whose samples stop at different steps, and its sweep."""
        plans = [LeapAlign().plan(self.grid, choices(0, 0, slot, "plan")) for slot in range(BATCH)]
        horizon = [self.grid.end - slot for slot in range(BATCH)]
        rollout(self.field, self.x, self.grid, horizon=horizon)
        record = rollout(self.field, self.x, self.grid)
        sweep(self.field, record, plans, torch.ones_like(self.x))

    def reinforce(self) -> float:
        """A stochastic rollout and its replay; the ratio's deviation, which only the end reads."""
        rule = FlowSDE(0.7, first=self.grid.sigmas[1])
        explore = Exploration(rule, WINDOW, lambda i: torch.arange(BATCH) + i)
        record = extend(
            rollout(self.field, self.x, self.grid, horizon=0), self.field, explore=explore
        )
        advantages, update = torch.ones_like(self.x[:, 0, 0]), PolicyUpdate(rule, 1e-4, scale=1.0)
        steps = [list(WINDOW)] * BATCH
        return replay_policy(self.field, record, steps, advantages, update, allow_waits).deviation


def allow_waits() -> None:
    """Let torch wait for the device, as it does by default."""
    torch.cuda.set_sync_debug_mode("default")


def refusing_waits(function: Callable[[], object]) -> object:
    """Call a function while torch raises a RuntimeError wherever the host would wait."""
    function()  # the first time kernels are compiled and workspaces are made
    torch.cuda.set_sync_debug_mode("error")
    try:
        return function()
    finally:
        allow_waits()


def captured(function: Callable[[], Latents]) -> tuple[Callable[[], None], Latents]:
    """A function as a CUDA graph: what replays it, and where its result then stands."""
    aside, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(aside):
        function()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=aside):
        result = function()
    return graph.replay, result


def measure(device: torch.device) -> dict[str, Any]:
    """All that this benchmark checks and measures.

    Raises:
        RuntimeError: something waited for the device.
    """
    flux = Flux.load(BASE, RESOLUTION, device)
    x = flux.latents([stream(0, slot) for slot in range(BATCH)])
    sampler = Sampler(flux.field(["a red circle"] * BATCH, 3.5), flux.grid(STEPS), x)
    refusing_waits(sampler.backpropagate)
    deviation = refusing_waits(sampler.reinforce)
    replay, end = captured(sampler.sample)
    x.copy_(flux.latents([stream(1, slot) for slot in range(BATCH)]))
    replay()
    difference = (end - sampler.sample()).abs().max()
    ways = {"launched": sampler.sample, "graph": replay}
    seconds = side_by_side(ways, device, REPEATS, queued=1)
    return {
        **provenance(device),
        "batch": BATCH,
        "steps": STEPS,
        "ratio_deviation": deviation,
        "largest_difference": float(difference),
        "seconds": seconds,
        "over_launched": seconds["launched"] / seconds["graph"],
    }


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: check and measure, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graphs")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise UserError("benchmarks.graphs needs a CUDA device and finds none")
    found = measure(torch.device("cuda", torch.cuda.current_device()))
    sys.stdout.write(
        f"nothing waits; a rollout as a graph: {found['over_launched']:.1f} times its launches' "
        f"speed, latents at most {found['largest_difference']:.1e} apart\n"
    )
    write_json(arguments.out, found)


if __name__ == "__main__":
    main()
