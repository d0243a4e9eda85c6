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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from leapalign.backbones.backbone import Backbone
from leapalign.checkpoint import Checkpoints, Tally
from leapalign.compute import fit, load_types
from leapalign.data import Sampler, read_prompts
from leapalign.devices import leased_device
from leapalign.errors import UserError, main_guard, raised_at
from leapalign.files import append_text, replacing, write_text
from leapalign.method import Method, Progress
from leapalign.parsing import resolve
from leapalign.problem import TrainingProblem
from leapalign.record import peak_memory_mb, record
from leapalign.rewards import load_reward
from leapalign.settings import Training as Budget
from leapalign.settings import TrainSettings

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
    average: AveragedModel
    tally: Tally
    clip: float

    def iterate(self) -> dict[str, Any]:
        """One iteration: as many optimiser steps as the method asks for; returns its log line."""
        started = time.perf_counter()
        iteration = self.tally.iteration
        transformer = self.problem.backbone.transformer
        accelerator = self.problem.accelerator
        steps, norms = [], []
        updates = self.method.updates(self.problem, iteration)
        while True:
            # Gradients are reduced over processes once an update; the method says where.
            with accelerator.no_sync(transformer):
                progress = next(updates, None)
            if progress is None:
                break
            steps.append(progress)
            if progress.trains:
                norms.append(self._step(iteration, progress))
        if not any(step.rewards for step in steps):
            raise UserError(f"iteration {iteration}: the method yielded no Progress with rewards")
        self.tally.iteration += 1
        passes = self.problem.passes
        self.tally.evaluations += passes * sum(step.evaluations for step in steps)
        self.tally.images += sum(step.images for step in steps)
        self.tally.seconds += time.perf_counter() - started
        return log_line(iteration, steps, norms, self.tally)

    def _step(self, iteration: int, progress: Progress) -> float:
        """Clip, check, step and average; returns the gradient's norm before clipping."""
        transformer = self.problem.backbone.transformer
        norm = float(self.problem.accelerator.clip_grad_norm_(transformer.parameters(), self.clip))
        if not (math.isfinite(norm) and math.isfinite(progress.loss)):
            raise Diverged(
                f"iteration {iteration}: loss {progress.loss}, gradient norm {norm}, rewards "
                f"{min(progress.rewards):.4g} to {max(progress.rewards):.4g}; the last checkpoint "
                "holds weights from before it. Lower training.optimizer.lr, training.clip or the "
                "method's nesting"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update_parameters(transformer)
        return norm


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
    }


def _mean(values: Iterable[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return fmean(finite) if finite else None


def prepare(settings: TrainSettings, device: str) -> Training:
    """Load model, reward and prompts of a run, everything checked before any long work."""
    budget = settings.training
    method: Method = settings.method.build()
    method.check(budget.steps, budget.batch)
    # A GenEval mix repeats its few counting prompts; a line of text that stands twice is a mistake.
    mixed = Path(budget.prompts).suffix == ".jsonl"
    sampler = Sampler(read_prompts(budget.prompts, repeats=mixed), settings.seed)
    accelerator = Accelerator(cpu=device == "cpu")
    loader = resolve(settings.backbone.loader, "backbone.loader")
    types = load_types(settings.compute, budget.adapter)
    backbone = loader.load(settings.backbone.path, settings.resolution, accelerator.device, **types)
    encode_prompts(backbone, drawn_prompts(method, sampler, budget), budget.guidance, accelerator)
    backbone.transformer.requires_grad_(True).train()
    fit(backbone, settings.compute)
    adam = budget.optimizer
    optimizer = torch.optim.AdamW(
        backbone.transformer.parameters(),
        lr=adam.lr,
        betas=adam.betas,
        eps=adam.eps,
        weight_decay=adam.weight_decay,
        fused=True,
    )
    average = AveragedModel(backbone.transformer, multi_avg_fn=get_ema_multi_avg_fn(budget.ema))
    backbone.transformer, optimizer = accelerator.prepare(backbone.transformer, optimizer)
    tally = Tally()
    accelerator.register_for_checkpointing(average, tally)
    reward = load_reward(budget.reward.name, budget.reward.path, accelerator.device)
    problem = TrainingProblem(backbone, reward, sampler, budget, settings.seed, accelerator)
    problem.image_batch = settings.compute.image_batch
    return Training(method, problem, optimizer, average, tally, budget.clip)


def drawn_prompts(method: Method, sampler: Sampler, budget: Budget) -> list[str]:
    """The prompts that a whole training will draw, each once."""
    slots = range(method.prompts_per_iteration(budget.batch))
    return list(
        {sampler.draw(i, slot).text: None for i in range(budget.iterations) for slot in slots}
    )


def encode_prompts(
    backbone: Backbone, prompts: Sequence[str], guidance: float, accelerator: Accelerator
) -> None:
    """Encode a training's prompts beforehand, each process its share.

    The text encoders are gone before optimiser, average and activations need their memory.
    """
    rank, count = accelerator.process_index, accelerator.num_processes
    backbone.prefetch(prompts[rank::count], guidance)
    accelerator.wait_for_everyone()
    backbone.prefetch(prompts, guidance)  # the others', where they are on another disk


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

    Returns:
        What the run spent, over all its resumptions.
    """
    run = prepare(settings, device)
    saved = Checkpoints(checkpoints, run.problem.accelerator, settings.hash())
    if saved.resume():
        sys.stderr.write(
            f"resumed at iteration {run.tally.iteration} of {settings.training.iterations}\n"
        )
    log = checkpoints / LOG
    keep_lines(log, run.tally.iteration)
    budget = settings.training
    with progress_view(settings, run.tally.iteration) as show:
        while run.tally.iteration < budget.iterations:
            with naming_failure(run):
                line = run.iterate()
            append_text(log, json.dumps(line) + "\n")
            show(line)
            done = run.tally.iteration
            if done == min(PATIENCE, budget.iterations):
                refuse_idle(log, budget.reward.threshold)
            if every and done % every == 0 and done < budget.iterations:
                write_weights(run, checkpoints / SNAPSHOTS / f"iteration-{done:06d}.safetensors")
            if done % budget.checkpoint_every == 0 or done == budget.iterations:
                saved.save(done)
    write_weights(run, out / WEIGHTS)
    write_results(run, checkpoints, out)
    return run.tally


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
    """Write the averaged weights, whole or not at all."""
    if not run.problem.accelerator.is_main_process:
        return
    weights = {
        name: value.detach().contiguous() for name, value in run.average.module.state_dict().items()
    }
    with replacing(path) as draft:
        save_file(weights, draft)


def write_results(run: Training, checkpoints: Path, out: Path) -> None:
    """Copy the log and the snapshots from among the checkpoints, each whole or not at all."""
    if not run.problem.accelerator.is_main_process:
        return
    (out / SNAPSHOTS).mkdir(parents=True, exist_ok=True)
    kept = [Path(LOG), *(path.relative_to(checkpoints) for path in _snapshots(checkpoints))]
    for name in kept:
        with replacing(out / name) as draft:
            shutil.copyfile(checkpoints / name, draft)


def _snapshots(folder: Path) -> list[Path]:
    return sorted((folder / SNAPSHOTS).glob("*.safetensors"))


@contextlib.contextmanager
def progress_view(settings: TrainSettings, done: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A bar on a terminal, ten plain lines in a log; yields what shows an iteration."""
    console = Console(stderr=True)
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
    with (
        leased_device() as device,
        record(arguments.out / "provenance.json", settings, weights, device) as entries,
    ):
        try:
            tally = train(
                settings, arguments.out, arguments.checkpoints, device, arguments.snapshot_every
            )
        except UserError as error:
            raise UserError(f"{arguments.out}: {error}") from error
        entries["seconds"] = round(tally.seconds, 2)
    # Its results are whole: to be forced to train again means from the beginning.
    if PartialState().is_main_process:
        shutil.rmtree(arguments.checkpoints)


if __name__ == "__main__":
    main()
