"""What an iteration leaves for people: a line of the training's log, and of its progress."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from leapalign.checkpoint import Tally
from leapalign.errors import UserError
from leapalign.files import write_text
from leapalign.method import Progress
from leapalign.record import peak_memory_mb
from leapalign.settings import TrainSettings

LOG = "log.jsonl"


def log_line(
    iteration: int, steps: Sequence[Progress], norms: Sequence[float], tally: Tally
) -> dict[str, Any]:
    """One iteration's line of the training log; a key that does not apply to the method is null."""
    rewards = [reward for step in steps for reward in step.rewards]
    beside = {
        name: [reward for step in steps for reward in step.rewards_beside[name]]
        for name in steps[0].rewards_beside
    }
    fractions = [step.clip_fraction for step in steps if step.clip_fraction is not None]
    skipped = [step.skipped_groups for step in steps if step.skipped_groups is not None]
    return {
        "iteration": iteration,
        "reward": fmean(rewards),
        "reward_std": pstdev(rewards),
        **{f"reward_{name}": _mean(of_all) for name, of_all in beside.items()},
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
