"""The settings files, and how they resolve to one `RunSettings`.

A method's value comes from the last of these that names it: the method class' own default, the
method's file, its preset, the scale's entry for the method, the run's entry in
`paper/experiments.yaml`. The budget comes from the scale alone; any of those layers may change a
key of it, but only under `deviation:` with a reason.
"""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from leapalign.devices import cuda_devices
from leapalign.errors import UserError
from leapalign.parsing import dump, nearest, parse, read_yaml, resolve
from leapalign.settings import (
    Backbone,
    Deviation,
    Evaluation,
    GenerateSettings,
    Method,
    Positive,
    RunSettings,
    ScoreSettings,
    Training,
    TrainSettings,
)

SCALES = Path("leapalign/configs/scales")
EXPERIMENTS = Path("paper/experiments.yaml")


@dataclass(frozen=True, slots=True)
class UserConfig:
    """`config.yaml`: the scale, how many seeds, where results go, and what is to be fetched.

    Attributes:
        fetch: entries of `leapalign/registry.yaml`, with spaces between them.
        mirror: a folder to fetch them from; else from where they are published.
    """

    scale: str = "auto"
    seeds: Positive = 1
    results: str = "results"
    fetch: str = ""
    mirror: str = ""


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
class MethodConfig:
    """A method's file, such as `leapalign/configs/leapalign.yaml`."""

    method: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    deviation: Mapping[str, Override] = field(default_factory=dict)
    preset: str | None = None
    presets: Mapping[str, Layer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds that one job of a kind takes at this scale, measured; for the expected time.

    Attributes:
        train: one training iteration, by method file; `default` for the others.
        generate: all images of a run.
        score: all evaluators on them.
        render: one table, figure or the report.
        start: what every job spends on imports and loading.
    """

    train: Mapping[str, float]
    generate: float
    score: float
    render: float
    start: float


@dataclass(frozen=True, slots=True)
class Scale:
    """A scale's file: a backbone, its reward and judge weights, and the shared budget.

    Attributes:
        runs: the runs this scale does; all by default. Tables show the others as gaps.
    """

    description: str
    backbone: Backbone
    resolution: Positive
    training: Training
    evaluation: Evaluation
    evaluators: Mapping[str, str]
    detector: str
    cost: Cost
    methods: Mapping[str, Layer] = field(default_factory=dict)
    runs: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RunConfig:
    """A run in `paper/experiments.yaml`; without a method it is the untrained base.

    Attributes:
        extended: made by `snakemake extended`, not by `snakemake all`.
    """

    label: str | None = None
    method: str | None = None
    preset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    deviation: Mapping[str, Override] = field(default_factory=dict)
    extended: bool = False


def pick_scale(name: str) -> tuple[str, str]:
    """The scale that `name` stands for, and why, as one line for the user.

    `auto` is `flux` where CUDA devices and its weights are found, else `pocket`.

    Raises:
        UserError: there is no such scale.
    """
    names = [path.stem for path in sorted(SCALES.glob("*.yaml"))]
    if name != "auto":
        if name not in names:
            hint = nearest(name, ["auto", *names])
            raise UserError(f"config.yaml: `scale`: no scale `{name}`{hint}")
        return name, f"scale: {name}"
    if not cuda_devices():
        return "pocket", "scale: pocket (auto: no CUDA device here)"
    if "flux" not in names or not os.path.isdir(load_scale("flux").backbone.path):
        return "pocket", "scale: pocket (auto: no FLUX.1-dev weights here)"
    return "flux", "scale: flux (auto: CUDA devices and FLUX.1-dev weights found)"


def load_scale(name: str) -> Scale:
    """The scale in `leapalign/configs/scales/<name>.yaml`."""
    path = SCALES / f"{name}.yaml"
    return parse(Scale, read_yaml(path), str(path))


def load_method(path: str) -> MethodConfig:
    """The method's file at `path`."""
    return parse(MethodConfig, read_yaml(path), path)


def resolve_run(name: str, run: RunConfig, scale_name: str, seed: int) -> RunSettings:
    """All settings of one run, each value from the last layer that names it.

    Raises:
        UserError: a file, key or value is wrong; the message names it.
    """
    scale = load_scale(scale_name)
    generate = GenerateSettings(scale_name, scale.backbone, scale.resolution, scale.evaluation)
    score = ScoreSettings(scale_name, scale.evaluators, scale.detector)
    if run.method is None:
        if run.settings or run.deviation or run.preset:
            raise UserError(f"{EXPERIMENTS}: run `{name}` has settings but no `method`; name one")
        return RunSettings(name, run.label or name, None, generate, score)
    config = load_method(run.method)
    layers = _layers(name, run, config, scale, scale_name)
    method = _method(config, layers, run.method)
    training, deviations = _training(scale, layers)
    try:
        method.build().check(training.steps, training.batch)
    except UserError as error:
        raise UserError(f"run `{name}` at scale {scale_name}: {run.method}: {error}") from None
    train = TrainSettings(scale_name, seed, scale.backbone, scale.resolution, method, training)
    return RunSettings(name, run.label or config.label, train, generate, score, deviations)


def declared_deviations(name: str, run: RunConfig, scale_name: str) -> tuple[Deviation, ...]:
    """What a run changes of the scale's shared budget, and why; its method is not imported."""
    if run.method is None:
        return ()
    scale = load_scale(scale_name)
    return _training(scale, _layers(name, run, load_method(run.method), scale, scale_name))[1]


@dataclass(frozen=True, slots=True)
class _Source:
    """A layer and where it stands, for messages."""

    file: str
    key: str
    layer: Layer

    def at(self, key: str) -> str:
        return f"{self.key}.{key}" if self.key else key


def _layers(
    name: str, run: RunConfig, config: MethodConfig, scale: Scale, scale_name: str
) -> list[_Source]:
    """The layers above the class' defaults, weakest first."""
    file = str(run.method)
    layers = [_Source(file, "", Layer(config.settings, config.deviation))]
    preset = run.preset or config.preset
    if preset is not None:
        if preset not in config.presets:
            where = f"{EXPERIMENTS}: `runs.{name}.preset`" if run.preset else f"{file}: `preset`"
            hint = nearest(preset, config.presets)
            raise UserError(f"{where}: {file} has no preset `{preset}`{hint}")
        layers.append(_Source(file, f"presets.{preset}", config.presets[preset]))
    stem = Path(file).stem
    if stem in scale.methods:
        at = str(SCALES / f"{scale_name}.yaml")
        layers.append(_Source(at, f"methods.{stem}", scale.methods[stem]))
    own = Layer(run.settings, run.deviation)
    return [*layers, _Source(str(EXPERIMENTS), f"runs.{name}", own)]


def _method(config: MethodConfig, layers: list[_Source], file: str) -> Method:
    """The method with every field's value, each layer checked against the class' fields."""
    cls = resolve(config.method, f"{file}: `method`")
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise UserError(f"{file}: `method`: {config.method} is not a dataclass of settings")
    values: dict[str, Any] = {}
    built: Any = cls
    for source in layers:
        values |= source.layer.settings
        built = parse(cls, values, source.file, source.at("settings"))
    return Method(config.method, dump(built))


def _training(scale: Scale, layers: list[_Source]) -> tuple[Training, tuple[Deviation, ...]]:
    """The scale's budget with the layers' deviations, and those that change a value."""
    shared = dump(scale.training)
    budget = copy.deepcopy(shared)
    reasons: dict[str, str] = {}
    for source in layers:
        for key, override in source.layer.deviation.items():
            _set(budget, key, override.value, f"{source.file}: `{source.at('deviation')}`")
            budget = dump(parse(Training, budget, source.file, source.at("deviation")))
            reasons[key] = override.reason
    changed = tuple(
        Deviation(key, _get(budget, key), _get(shared, key), reason)
        for key, reason in reasons.items()
        if _get(budget, key) != _get(shared, key)
    )
    return parse(Training, budget, "training"), changed


def _get(tree: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - a JSON value
    for part in key.split("."):
        tree = tree[part]
    return tree


def _set(tree: dict[str, Any], key: str, value: object, where: str) -> None:
    """Set a dotted key of the budget that exists."""
    *parents, last = key.split(".")
    for depth, part in enumerate([*parents, last]):
        if not isinstance(tree, dict) or part not in tree:
            valid = tree if isinstance(tree, dict) else ()
            at = ".".join(key.split(".")[: depth + 1])
            raise UserError(f"{where}: the budget has no key `{at}`{nearest(part, valid)}")
        if depth < len(parents):
            tree = tree[part]
    tree[last] = value
