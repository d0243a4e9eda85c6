"""What the experiments file and the methods' files say of runs: names, and declared deviations."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from leapalign.config import declared_deviations, load_method, present_settings
from leapalign.experiments import Experiments, load_experiments
from leapalign.scales import load_scale, scale_file
from leapalign.settings import Deviation
from paper.ledger import Ledger


@functools.cache
def experiments() -> Experiments:
    """The experiments file, read once."""
    return load_experiments()


def experiments_of(ledger: Ledger) -> Experiments:
    """The experiments at the scale that a ledger was measured at."""
    own = scale_file(ledger.scale).is_file()
    return experiments().at(load_scale(ledger.scale).tasks) if own else experiments()


@functools.cache
def run_label(run: str) -> str:
    """A run's printed name: its own, else its method's; an undeclared run keeps its key."""
    config = experiments().find(run)
    if config is None:
        return run
    return config.label or (load_method(config.method).label if config.method else run)


@functools.cache
def declared(run: str, scale: str) -> tuple[Deviation, ...]:
    """What a run changes of the scale's shared budget, with reasons."""
    config = experiments().find(run)
    if config is None or not scale_file(scale).is_file():
        return ()
    return declared_deviations(run, config, scale)


@functools.cache
def published_name(run: str) -> str:
    """A run's name in a published table, which is of one task, reward and base model throughout."""
    config = experiments().find(run)
    choices = (config.task, config.reward, config.backbone) if config else ()
    for choice in choices:
        run = run.removesuffix(f"-{choice}")
    return run


@functools.cache
def present(run: str, scale: str) -> Mapping[str, Any]:
    """What the settings files say now of a run, by stage; nothing of one that they do not have."""
    config = experiments().find(run)
    if config is None or not scale_file(scale).is_file():
        return {}
    return present_settings(run, config, scale)
