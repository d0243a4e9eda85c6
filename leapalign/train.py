"""The training loop, the same for every method: iterate, log, save; and its command line."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from leapalign.card import CARD, model_card
from leapalign.checkpoint import Checkpoints, Tally
from leapalign.doctor.admission import predicted
from leapalign.errors import UserError, main_guard, raised_at
from leapalign.export import WEIGHTS, export
from leapalign.files import append_text, occupied, replacing, write_text
from leapalign.interrupt import REQUEUE, Request, stop_requests
from leapalign.log import LOG, keep_lines, progress_view, refuse_idle
from leapalign.parallel import joined, present
from leapalign.record import record
from leapalign.settings import TrainSettings
from leapalign.trackers import drawing
from leapalign.training import Training, prepare

SNAPSHOTS = "snapshots"
PATIENCE = 10
"""Iterations after which a method must have moved a weight."""


@dataclass(frozen=True, slots=True)
class Watch:
    """How a training is watched while it goes on.

    Args:
        snapshot_every: iterations between snapshots of the averaged weights; by default there are
            none.
        curves: gets TensorBoard's event files; by default there are none.
    """

    snapshot_every: int | None = None
    curves: Path | None = None


UNWATCHED = Watch()


def train(
    settings: TrainSettings,
    out: Path,
    checkpoints: Path,
    device: str,
    watch: Watch = UNWATCHED,
) -> Tally:
    """Train one run, or go on with it, and write its averaged weights and log to `out`.

    Args:
        settings: the resolved settings.
        out: gets weights/, log.jsonl and snapshots/.
        checkpoints: where the run's checkpoints are, outside of `out`.
        device: "cpu" or a CUDA device.
        watch: snapshots and curves.

    Raises:
        UserError: settings, weights, prompts or checkpoint do not fit, or training diverged.
        SystemExit: with `REQUEUE`, a scheduler asked to stop; a checkpoint was written.

    Returns:
        What the run spent, over all its resumptions.
    """
    run = prepare(settings, device)
    processes = run.problem.processes
    saved = Checkpoints(checkpoints, run, processes, settings.recipe())
    budget, log, every = settings.training, checkpoints / LOG, watch.snapshot_every
    if saved.resume() and processes.main:
        sys.stderr.write(f"resumed at iteration {run.tally.iteration} of {budget.iterations}\n")
    if processes.main:
        keep_lines(log, run.tally.iteration)
    with (
        stop_requests() as request,  # outermost: a second signal must not cut a checkpoint
        contextlib.closing(saved),
        progress_view(settings, run.tally.iteration, quiet=not processes.main) as show,
        drawing(settings, run.tally.iteration, watch.curves, quiet=not processes.main) as draw,
    ):
        while run.tally.iteration < budget.iterations:
            stop_if_asked(request, run, saved)
            with naming_failure(run, request):
                line = run.iterate()
            done = run.tally.iteration
            if processes.main:
                append_text(log, json.dumps(line) + "\n")
                show(line)
                draw(line)
                if done == min(PATIENCE, budget.iterations):
                    refuse_idle(log, budget.reward.threshold)
            if every and done % every == 0 and done < budget.iterations:
                write_weights(run, settings, checkpoints / SNAPSHOTS / f"iteration-{done:06d}")
            saved.settle(wait=False)
            if done % budget.checkpoint_every == 0 or done == budget.iterations:
                saved.save(done)
    write_weights(run, settings, out / WEIGHTS)
    if processes.main:
        write_results(checkpoints, out)
    processes.wait()  # a process that ends early is one that was lost, to those who started it
    return run.tally


def check_started(settings: TrainSettings) -> None:
    """Refuse to train in another number of processes than the settings say.

    Raises:
        UserError: naming the launcher, which starts as many.
    """
    count, wanted = present().count, settings.compute.devices
    if count != wanted:
        raise UserError(
            f"compute.devices: {wanted}, but {count} started; start it by `python -m "
            "leapalign.launch`, or set compute.devices"
        )


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
    saved.settle()
    processes.wait()
    if processes.main:
        total = run.problem.budget.iterations
        sys.stderr.write(
            f"stopped by {asked[0]} after {done} of {total} iterations, which are kept; "
            "run the same command again to go on\n"
        )
    raise SystemExit(REQUEUE)


@contextlib.contextmanager
def naming_failure(run: Training, request: Request) -> Iterator[None]:
    """Say of what an iteration raises which it was, and where: the method's own line if it has one.

    Raises:
        UserError: instead of any other exception.
        KeyboardInterrupt: the user's, which compiled code may have made another exception of.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if request.signal == "SIGINT":
            raise KeyboardInterrupt from error
        method = type(run.method)
        where = raised_at(error, inspect.getsourcefile(method))
        raise UserError(
            f"iteration {run.tally.iteration}: {method.__name__} raised {type(error).__name__}: "
            f"{error} ({where}); the last checkpoint is kept: mend it and run again to go on"
        ) from error


def write_weights(run: Training, settings: TrainSettings, folder: Path) -> None:
    """Write the averaged weights as stock pipelines load them; all processes take part."""
    main, backbone = run.problem.processes.main, run.problem.backbone
    weights = run.average.loadable(backbone.transformer, keep=main)
    if main:
        export(backbone.pipeline, weights, folder, getattr(torch, settings.compute.precision))


def write_results(checkpoints: Path, out: Path) -> None:
    """Copy the log and the snapshots from among the checkpoints, each whole or not at all."""
    (out / SNAPSHOTS).mkdir(parents=True, exist_ok=True)
    with replacing(out / LOG) as draft:
        shutil.copyfile(checkpoints / LOG, draft)
    for snapshot in sorted((checkpoints / SNAPSHOTS).glob("iteration-*")):
        with replacing(out / SNAPSHOTS / snapshot.name) as draft:
            shutil.copytree(snapshot, draft)


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
    parser.add_argument("--curves", type=Path, help="folder for TensorBoard's event files")
    parser.add_argument("--run", help="the run's name among the experiments, for the model card")
    arguments = parser.parse_args(argv)
    settings = TrainSettings.from_json(arguments.settings)
    card = model_card(settings, arguments.run)
    out, checkpoints = arguments.out, arguments.checkpoints
    watch = Watch(arguments.snapshot_every, arguments.curves)
    with joined() as device:
        check_started(settings)
        if not present().main:
            train(settings, out, checkpoints, device, watch)
            return
        with (
            record(out / "provenance.json", settings, settings.weights, device) as entries,
            occupied(out),
            occupied(checkpoints),
        ):
            entries["predicted"] = predicted(settings, device)
            try:
                tally = train(settings, out, checkpoints, device, watch)
            except UserError as error:
                raise UserError(f"{out}: {error}") from error
            write_text(out / WEIGHTS / CARD, card)
            entries["seconds"] = round(tally.seconds, 2)
        # Its results are whole: to be forced to train again means from the beginning.
        shutil.rmtree(checkpoints)


if __name__ == "__main__":
    main()
