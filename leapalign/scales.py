"""Scales: a base model, its rewards and judge, and the budget that all compared methods share.

A scale is a YAML file, one of those in `leapalign/configs/scales` or the user's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from leapalign.devices import cuda_devices
from leapalign.errors import UserError
from leapalign.parsing import is_yaml, nearest, parse, read_yaml
from leapalign.settings import Backbone, Compute, Evaluation, Positive, Training
from leapalign.user import CONFIG, user_config

SCALES = Path("leapalign/configs/scales")


@dataclass(frozen=True, slots=True)
class Override:
    """A changed key of the shared budget, with the reason that every table prints."""

    value: Any
    reason: Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Layer:
    """What a preset or a scale may change of a method."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    deviation: Mapping[str, Override] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MethodLayer(Layer):
    """What a scale changes of a method, and which of the method's presets it takes, if another."""

    preset: str | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that one job of a kind takes at this scale, measured; for the expected time.

    Attributes:
        train: one training iteration, by method file; `default` for the others.
        generate: all images of a run.
        score: all evaluators on them.
        track: images and scores of a run's snapshots.
        render: one table, figure or the report.
        start: what every job spends on imports and loading.
    """

    train: Mapping[str, float]
    generate: float
    score: float
    track: float
    render: float
    start: float


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the kind that a scale's trainings run on, as a scheduler counts it.

    Attributes:
        devices: those it has; a training on more takes several nodes.
        cores: of its processor for each device of a training.
        memory: of its own for each device of a training, GB.
    """

    devices: Positive = 8
    cores: Positive = 1
    memory: Positive = 4


@dataclass(frozen=True, slots=True)
class RewardChoice:
    """Another reward to train on.

    Attributes:
        path: its weights.
        threshold: λ for it, in its unit.
        deviation: further keys of the budget that it changes, with reasons.
    """

    path: str
    threshold: float
    deviation: Mapping[str, Override] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """Another task: prompts to train and to evaluate on, and GenEval's detector if they are its."""

    train: str
    test: str
    detector: str | None = None


@dataclass(frozen=True, slots=True)
class BackboneChoice:
    """Another base model, and what it changes of the shared budget.

    Attributes:
        loader: the class that loads it, `module:Class`.
        path: its folder or hub id.
        resolution: side of its images, pixels.
        guidance: its guidance scale, in training and evaluation.
        deviation: further keys of the budget, with reasons.
    """

    loader: str
    path: str
    resolution: Positive
    guidance: float
    deviation: Mapping[str, Override] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tracking:
    """How a training is watched while it goes on.

    Attributes:
        every: iterations between snapshots of the averaged weights.
        enlarged: side of the images of the higher-resolution probe, pixels.
    """

    every: Positive
    enlarged: Positive


@dataclass(frozen=True, slots=True)
class Scale:
    """A scale's file: a backbone, its reward and judge weights, and the shared budget.

    Attributes:
        compute: how its trainings use their machine.
        node: that machine, for a scheduler.
        runs: the runs this scale does; all by default. Tables show the others as gaps.
        methods: what this scale changes of a method, by the name of the method's file.
        overrides: what this scale changes of a run.
        rewards: the other rewards that a run may name.
        tasks: the other tasks that a run or a table may name; a task that is not here is the
            scale's own.
        backbones: the other base models that a run may name.
    """

    description: str
    backbone: Backbone
    resolution: Positive
    training: Training
    evaluation: Evaluation
    evaluators: Mapping[str, str]
    cost: Cost
    tracking: Tracking
    compute: Compute = field(default_factory=Compute)
    node: Node = field(default_factory=Node)
    detector: str | None = None
    methods: Mapping[str, MethodLayer] = field(default_factory=dict)
    overrides: Mapping[str, Layer] = field(default_factory=dict)
    rewards: Mapping[str, RewardChoice] = field(default_factory=dict)
    tasks: Mapping[str, Task] = field(default_factory=dict)
    backbones: Mapping[str, BackboneChoice] = field(default_factory=dict)
    runs: tuple[str, ...] | None = None


def pick_scale(name: str) -> tuple[str, str]:
    """The scale that `name` stands for, and why, as one line for the user.

    `auto` is `flux` where its weights and as many CUDA devices as it asks for are found,
    `flux-lora` with fewer, else `pocket`. A file's scale has the file's name.

    Raises:
        UserError: there is no such scale, or a file has the name of a shipped one.
    """
    names = shipped_scales()
    if is_yaml(name):
        stem = Path(name).stem
        if stem in names:
            raise UserError(
                f"{CONFIG}: `scale`: {name} has the name of a shipped scale, and results go by "
                "that name; rename the file"
            )
        return stem, f"scale: {stem} ({name})"
    if name != "auto":
        if name not in names:
            hint = nearest(name, ["auto", *names])
            raise UserError(f"{CONFIG}: `scale`: no scale `{name}`{hint}")
        return name, f"scale: {name}"
    devices = len(cuda_devices())
    if not devices:
        return "pocket", "scale: pocket (auto: no CUDA device here)"
    flux = load_scale("flux")
    if not os.path.isdir(flux.backbone.path):
        return "pocket", "scale: pocket (auto: no FLUX.1-dev weights here)"
    found = "flux" if devices >= flux.compute.devices else "flux-lora"
    return found, f"scale: {found} (auto: FLUX.1-dev weights and {devices} CUDA devices found)"


def shipped_scales() -> list[str]:
    """The names of the scales in `leapalign/configs/scales`."""
    return [path.stem for path in sorted(SCALES.glob("*.yaml"))]


def scale_file(name: str) -> Path:
    """The file of a scale: a shipped one, or the user's own that `config.yaml` names."""
    own = user_config().scale
    if is_yaml(own) and Path(own).stem == name:
        return Path(own).expanduser()
    return SCALES / f"{name}.yaml"


def load_scale(name: str) -> Scale:
    """The scale of this name; what its file leaves out is that of the scale which it `extends`.

    A key of the file that is null is not the extended scale's either, but the default.

    Raises:
        UserError: the file is missing or wrong, or extends no shipped scale.
    """
    path = scale_file(name)
    data = read_yaml(path)
    extended = data.pop("extends", None)
    if extended is not None:
        if extended not in shipped_scales():
            hint = nearest(str(extended), shipped_scales())
            raise UserError(f"{path}: `extends`: no scale `{extended}`{hint}")
        both = _merged(read_yaml(SCALES / f"{extended}.yaml"), data)
        data = {key: value for key, value in both.items() if value is not None}
    return parse(Scale, data, str(path))


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two nested mappings in one; where both have a value, that of `above`."""
    both = {
        key: _merged(below[key], value)
        for key, value in above.items()
        if isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
    }
    return {**below, **above, **both}
