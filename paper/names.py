"""What the experiments file and the methods' files say of runs: names, and declared deviations."""

from __future__ import annotations

import functools

from leapalign.config import SCALES, declared_deviations, load_method
from leapalign.experiments import load_experiments
from leapalign.settings import Deviation


@functools.cache
def run_label(run: str) -> str:
    """A run's printed name: its own, else its method's; an undeclared run keeps its key."""
    config = load_experiments().runs.get(run)
    if config is None:
        return run
    return config.label or (load_method(config.method).label if config.method else run)


@functools.cache
def declared(run: str, scale: str) -> tuple[Deviation, ...]:
    """What a run changes of the scale's shared budget, with reasons."""
    config = load_experiments().runs.get(run)
    if config is None or not (SCALES / f"{scale}.yaml").is_file():
        return ()
    return declared_deviations(run, config, scale)
