"""The training loop, the same for every method: accumulate, clip, step, average, log, save."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from safetensors.torch import save_file
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from leapalign.average import Average
from leapalign.checkpoint import Checkpoints, Tally
from leapalign.data import Sampler, read_prompts
from leapalign.errors import UserError, main_guard, raised_at
from leapalign.files import append_text, occupied, replacing, write_text
from leapalign.interrupt import REQUEUE, Request, stop_requests
from leapalign.method import Method, Progress, combined
from leapalign.optimizer import adamw
from leapalign.parallel import joined, present
from leapalign.parsing import resolve
from leapalign.problem import TrainingProblem
from leapalign.record import peak_device_memory_mb, peak_memory_mb, record
from leapalign.rewards import load_reward
from leapalign.settings import TrainSettings
from leapalign.sharding import shard, whole

WEIGHTS = "transformer.safetensors"
LOG = "log.jsonl"
SNAPSHOTS = "snapshots"
PATIENCE = 10
"""Iterations after which a method must have moved a weight."""


class Diverged(UserError):
    """Training met a loss or gradient that is not finite."""


@dataclass
class Training:
    """Everything a run holds while it trains."""

    method: Method
    problem: TrainingProblem
    optimizer: torch.optim.Optimizer
    average: Average
    tally: Tally
    clip: float

    def iterate(self) -> dict[str, Any]:
        """One iteration: as many optimiser steps as the method asks for; returns its log line."""
        started = time.perf_counter()
        iteration, problem = self.tally.iteration, self.problem
        steps, norms = [], []
        updates = self.method.updates(problem, iteration)
        while True:
            problem.sharding.accumulate()
            progress = next(updates, None)
            if progress is None:
                break
            steps.append(progress)
            if progress.trains:
                norms.append(self._step(iteration, progress))
        steps = [combined(parts) for parts in zip(*problem.processes.collect(steps), strict=True)]
        if not any(step.rewards for step in steps):
            raise UserError(f"iteration {iteration}: the method yielded no Progress with rewards")
        self.tally.iteration += 1
        self.tally.evaluations += problem.passes * sum(step.evaluations for step in steps)
        self.tally.images += sum(step.images for step in steps)
        self.tally.seconds += time.perf_counter() - started
        return log_line(iteration, steps, norms, self.tally)

    def _step(self, iteration: int, progress: Progress) -> float:
        """Clip, check, step and average; returns the gradient's norm before clipping."""
        norm = float(
            whole(torch.nn.utils.clip_grad_norm_(self.average.trained.values(), self.clip))
        )
        if not (math.isfinite(norm) and math.isfinite(progress.loss)):
            raise Diverged(
                f"iteration {iteration}: loss {progress.loss}, gradient norm {norm}, rewards "
                f"{min(progress.rewards):.4g} to {max(progress.rewards):.4g}; the last checkpoint "
                "holds weights from before it. Lower training.optimizer.lr, training.clip or the "
                "method's nesting"
            )
        self.problem.sharding.release()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; the tensors are those in use, and are loaded in place."""
        self.problem.sharding.release()
        transformer = self.problem.backbone.transformer
        return {
            "weights": {name: weight.detach() for name, weight in self.average.trained.items()},
            "optimizer": get_optimizer_state_dict(transformer, self.optimizer),
            "average": self.average.state_dict(),
            "tally": self.tally.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint that was read into `state_dict`."""
        self.problem.sharding.release()
        transformer = self.problem.backbone.transformer
        set_optimizer_state_dict(transformer, self.optimizer, state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.tally.load_state_dict(state["tally"])


def log_line(
    iteration: int, steps: Sequence[Progress], norms: Sequence[float], tally: Tally
) -> dict[str, Any]:
    """One iteration's line of the training log; a key that does not apply to the method is null."""
    rewards = [reward for step in steps for reward in step.rewards]
    fractions = [step.clip_fraction for step in steps if step.clip_fraction is not None]
    skipped = [step.skipped_groups for step in steps if step.skipped_groups is not None]
    return {
        "iteration": iteration,
        "reward": fmean(rewards),
        "reward_std": pstdev(rewards),
        "loss": sum(step.loss for step in steps),
        "grad_norm": _mean(norms),
        "d_j": _mean(d for step in steps for d in step.joint_distances),
        "d_0": _mean(d for step in steps for d in step.image_distances),
        "clip_fraction": _mean(fractions),
        "skipped_groups": sum(skipped) if skipped else None,
        "nfe": tally.evaluations,
        "images": tally.images,
        "seconds": round(tally.seconds, 3),
        "peak_memory_mb": peak_memory_mb(),
        "peak_device_memory_mb": peak_device_memory_mb(),
    }


def _mean(values: Iterable[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else None


def prepare(settings: TrainSettings, device: str) -> Training:
    """Load model, reward and prompts of a run, everything checked before any long work."""
    processes = present()
    budget = settings.training
    method: Method = settings.method.build()
    method.check(budget.steps, budget.batch)
    processes.share(method.images_per_update(budget.batch))
    # A GenEval mix repeats its few counting prompts; a line of text that stands twice is a mistake.
    mixed = Path(budget.prompts).suffix == ".jsonl"
    sampler = Sampler(read_prompts(budget.prompts, repeats=mixed), settings.seed)
    loader = resolve(settings.backbone.loader, "backbone.loader")
    backbone = loader.load(settings.backbone.path, settings.resolution, torch.device(device))
    transformer = backbone.transformer.requires_grad_(True).train()
    sharding = shard(transformer, processes, settings.compute, torch.device(device))
    average = Average(transformer, budget.ema)
    optimizer = adamw(transformer, budget.optimizer)
    reward = load_reward(budget.reward.name, budget.reward.path, torch.device(device))
    problem = TrainingProblem(backbone, reward, sampler, budget, settings.seed, processes, sharding)
    return Training(method, problem, optimizer, average, Tally(), budget.clip)


def train(
    settings: TrainSettings, out: Path, checkpoints: Path, device: str, every: int | None = None
) -> Tally:
    """Train one run, or go on with it, and write its averaged weights and log to `out`.

    Args:
        settings: the resolved settings.
        out: gets transformer.safetensors, log.jsonl and snapshots/.
        checkpoints: where the run's checkpoints are, outside of `out`.
        device: "cpu" or a CUDA device.
        every: iterations between snapshots of the averaged weights; by default there are none.

    Raises:
        UserError: settings, weights, prompts or checkpoint do not fit, or training diverged.
        SystemExit: with `REQUEUE`, a scheduler asked to stop; a checkpoint was written.

    Returns:
        What the run spent, over all its resumptions.
    """
    run = prepare(settings, device)
    processes = run.problem.processes
    saved = Checkpoints(checkpoints, run, processes, settings.recipe())
    budget, log = settings.training, checkpoints / LOG
    if saved.resume() and processes.main:
        sys.stderr.write(f"resumed at iteration {run.tally.iteration} of {budget.iterations}\n")
    if processes.main:
        keep_lines(log, run.tally.iteration)
    with (
        contextlib.closing(saved),
        stop_requests() as request,
        progress_view(settings, run.tally.iteration, quiet=not processes.main) as show,
    ):
        while run.tally.iteration < budget.iterations:
            stop_if_asked(request, run, saved)
            with naming_failure(run):
                line = run.iterate()
            done = run.tally.iteration
            if processes.main:
                append_text(log, json.dumps(line) + "\n")
                show(line)
                if done == min(PATIENCE, budget.iterations):
                    refuse_idle(log, budget.reward.threshold)
            if every and done % every == 0 and done < budget.iterations:
                write_weights(run, checkpoints / SNAPSHOTS / f"iteration-{done:06d}.safetensors")
            saved.settle(wait=False)
            if done % budget.checkpoint_every == 0 or done == budget.iterations:
                saved.save(done)
    write_weights(run, out / WEIGHTS)
    if processes.main:
        write_results(checkpoints, out)
    return run.tally


def stop_if_asked(request: Request, run: Training, saved: Checkpoints) -> None:
    """Save and leave if a scheduler has asked any of the processes to stop.

    Raises:
        SystemExit: with `REQUEUE`.
    """
    processes, done = run.problem.processes, run.tally.iteration
    asked = [name for name in processes.collect(request.signal) if name is not None]
    if not asked:
        return
    saved.save(done)
    if processes.main:
        total = run.problem.budget.iterations
        sys.stderr.write(
            f"stopped by {asked[0]} after {done} of {total} iterations, which are kept; "
            "run the same command again to go on\n"
        )
    raise SystemExit(REQUEUE)


@contextlib.contextmanager
def naming_failure(run: Training) -> Iterator[None]:
    """Say of what an iteration raises which it was, and where: the method's own line if it has one.

    Raises:
        UserError: instead of any other exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        method = type(run.method)
        where = raised_at(error, inspect.getsourcefile(method))
        raise UserError(
            f"iteration {run.tally.iteration}: {method.__name__} raised {type(error).__name__}: "
            f"{error} ({where}); the last checkpoint is kept: mend it and run again to go on"
        ) from error


def refuse_idle(log: Path, threshold: float) -> None:
    """Refuse a method under which no iteration so far had a gradient.

    Raises:
        UserError: the method trains nothing.
    """
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    if not any(line["grad_norm"] for line in lines):
        rewards = [line["reward"] for line in lines]
        raise UserError(
            f"the method trains nothing: no gradient reached a weight in {len(lines)} iterations. "
            "A Plan's leaps need steps with a gain; a policy gradient needs groups whose rewards "
            f"differ; a loss threshold ({threshold:g}) must lie above the rewards, here on average "
            f"{min(rewards):.4g} to {max(rewards):.4g} in the reward's unit"
        )


def keep_lines(log: Path, count: int) -> None:
    """Drop the lines that a killed run logged after its last checkpoint."""
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True) if log.exists() else []
    write_text(log, "".join(lines[:count]))


def write_weights(run: Training, path: Path) -> None:
    """Write the averaged weights, whole or not at all; all processes take part."""
    main, transformer = run.problem.processes.main, run.problem.backbone.transformer
    weights = run.average.loadable(transformer, keep=main)
    if main:
        with replacing(path) as draft:
            save_file(weights, draft)


def write_results(checkpoints: Path, out: Path) -> None:
    """Copy the log and the snapshots from among the checkpoints, each whole or not at all."""
    (out / SNAPSHOTS).mkdir(parents=True, exist_ok=True)
    kept = [Path(LOG), *(path.relative_to(checkpoints) for path in _snapshots(checkpoints))]
    for name in kept:
        with replacing(out / name) as draft:
            shutil.copyfile(checkpoints / name, draft)


def _snapshots(folder: Path) -> list[Path]:
    return sorted((folder / SNAPSHOTS).glob("*.safetensors"))


@contextlib.contextmanager
def progress_view(
    settings: TrainSettings, done: int, *, quiet: bool
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar on a terminal, ten plain lines in a log; yields what shows an iteration."""
    console = Console(stderr=True, quiet=quiet)
    total, name = settings.training.iterations, settings.method.reference.partition(":")[2]
    if not console.is_terminal:
        every = max(1, total // 10)

        def plain(line: dict[str, Any]) -> None:
            if (line["iteration"] + 1) % every == 0:
                sys.stderr.write(
                    f"{name}: {line['iteration'] + 1}/{total} reward {line['reward']:.4f}\n"
                )

        yield plain
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(name, total=total, completed=done)
        yield lambda line: bar.update(
            task, advance=1, description=f"{name} reward {line['reward']:.4f}"
        )


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: train one run from its resolved settings."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--settings", required=True, help="resolved TrainSettings as JSON")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the weights and the log"
    )
    parser.add_argument("--checkpoints", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--snapshot-every", type=int, help="iterations; none without it")
    arguments = parser.parse_args(argv)
    settings = TrainSettings.from_json(arguments.settings)
    weights = [settings.backbone.path, settings.training.reward.path]
    out, checkpoints = arguments.out, arguments.checkpoints
    with joined() as device:
        if not present().main:
            train(settings, out, checkpoints, device, arguments.snapshot_every)
            return
        with (
            record(out / "provenance.json", settings, weights, device) as entries,
            occupied(out),
            occupied(checkpoints),
        ):
            try:
                tally = train(settings, out, checkpoints, device, arguments.snapshot_every)
            except UserError as error:
                raise UserError(f"{out}: {error}") from error
            entries["seconds"] = round(tally.seconds, 2)
        # Its results are whole: to be forced to train again means from the beginning.
        shutil.rmtree(checkpoints)


if __name__ == "__main__":
    main()
