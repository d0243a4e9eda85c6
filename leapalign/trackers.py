"""Training curves: TensorBoard's event files, and Weights & Biases where it is configured."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from leapalign.files import naming
from leapalign.settings import TrainSettings

PROJECT = "WANDB_PROJECT"
"""The environment variable that names a Weights & Biases project; without it nothing is sent."""

Plot = Callable[[Mapping[str, float], int], None]


@contextlib.contextmanager
def drawing(
    settings: TrainSettings, done: int, folder: Path | None = None, *, quiet: bool = False
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Draw a training's curves while it goes on.

    Args:
        settings: the training's; their recipe names its run at Weights & Biases.
        done: iterations done before. A resumed training goes on with its curves, without what a
            killed one drew after its last checkpoint.
        folder: gets TensorBoard's event files; none are written without it.
        quiet: draw nothing, as all processes of a training but one.

    Yields:
        What draws a line of the training log; a key that is null has no point.

    Raises:
        OSError: the folder cannot be written.
    """
    plots: list[Plot] = []
    with contextlib.ExitStack() as stack:
        if folder and not quiet:
            plots.append(stack.enter_context(_tensorboard(folder, done)))
        if os.environ.get(PROJECT) and not quiet:
            plots.append(stack.enter_context(_weights_and_biases(folder, settings)))

        def draw(line: Mapping[str, Any]) -> None:
            points = {key: value for key, value in line.items() if value is not None}
            step = points.pop("iteration")
            for plot in plots:
                plot(points, step)

        yield draw


@contextlib.contextmanager
def _tensorboard(folder: Path, done: int) -> Iterator[Plot]:
    """An event file that replaces all points in `folder` from iteration `done` on."""
    with naming(folder):
        if done == 0:
            shutil.rmtree(folder, ignore_errors=True)
        writer = SummaryWriter(folder, purge_step=done or None)

    def plot(points: Mapping[str, float], step: int) -> None:
        with naming(folder):
            for name, value in points.items():
                writer.add_scalar(name, value, step)
            writer.flush()

    with contextlib.closing(writer):
        yield plot


@contextlib.contextmanager
def _weights_and_biases(folder: Path | None, settings: TrainSettings) -> Iterator[Plot]:
    """The training's run in the project of the environment; where it cannot be, a line says why."""
    try:
        import wandb

        run = wandb.init(
            project=os.environ[PROJECT],
            dir=folder,
            id=settings.recipe(),
            name=f"{settings.method.reference.rpartition(':')[2]}, seed {settings.seed}",
            config=json.loads(settings.json()),
            resume="allow",
        )
    except Exception as error:  # not installed, not logged in, no network: never a training's end
        sys.stderr.write(f"{PROJECT} is set, but the training goes on without it: {error}\n")
        yield _nowhere
        return
    with run:
        yield lambda points, step: run.log(dict(points), step=step)


def _nowhere(points: Mapping[str, float], step: int) -> None:
    pass
