"""The settings files, and how they resolve to one `RunSettings`.

A method's value comes from the last of these that names it: the method class' own default, the
method's file, its preset (which the run names, the scale or the file), the scale's entry for the
method, the run's entry in `paper/experiments.yaml`, the scale's entry for the run. The budget comes
from the scale alone; any of those layers may change a key of it, but only under `deviation:` with a
reason. A run may also name another reward, task or base model of the scale.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from leapalign.errors import UserError
from leapalign.parsing import dump, is_yaml, nearest, parse, read_yaml, resolve
from leapalign.scales import Layer, Override, Scale, load_scale, scale_file, shipped_scales
from leapalign.settings import (
    IMMATERIAL,
    Backbone,
    Deviation,
    GenerateSettings,
    Method,
    Positive,
    Reward,
    RunSettings,
    ScoreSettings,
    Training,
    TrainSettings,
)

EXPERIMENTS = Path("paper/experiments.yaml")

T = TypeVar("T")


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
class RunConfig:
    """A run in `paper/experiments.yaml`; without method and weights it is the untrained base.

    Attributes:
        label: its printed name; the method's by default.
        method: the method's file, or its class, `module:Class` or `file.py:Class`.
        weights: finished weights of the base model's transformer, instead of a training.
        preset: one of the presets in that file.
        settings: values of the method's own settings.
        deviation: keys of the shared budget that it changes, with reasons.
        reward: one of the scale's other rewards.
        task: one of the scale's other tasks.
        backbone: one of the scale's other base models.
        seeds: at most so many training seeds.
        extended: made by `snakemake extended`, not by `snakemake all`.
    """

    label: str | None = None
    method: str | None = None
    weights: str | None = None
    preset: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    deviation: Mapping[str, Override] = field(default_factory=dict)
    reward: str | None = None
    task: str | None = None
    backbone: str | None = None
    seeds: Positive | None = None
    extended: bool = False


def load_method(method: str) -> MethodConfig:
    """The method's file; of a class alone, `module:Class` or `file.py:Class`, its own defaults.

    A file's `method: file.py:Class` is found beside it.

    Raises:
        UserError: it is neither, or the file is missing or wrong.
    """
    if not is_yaml(method) and ":" not in method:
        raise UserError(
            f"method `{method}`: neither a .yaml file nor a class; write `module:Class` or "
            "`file.py:Class`"
        )
    if not is_yaml(method):
        return MethodConfig(method, method.rpartition(":")[2])
    config = parse(MethodConfig, read_yaml(Path(method).expanduser()), method)
    if config.method.rpartition(":")[0].endswith(".py"):
        return replace(config, method=str(Path(method).parent / config.method))
    return config


def method_name(method: str) -> str:
    """The name by which scales know a method: of its YAML file, or of its class' module."""
    if is_yaml(method):
        return Path(method).stem
    module = method.rpartition(":")[0]
    return Path(module).stem if module.endswith(".py") else module.rpartition(".")[2]


def resolve_run(name: str, run: RunConfig, scale_name: str, seed: int) -> RunSettings:
    """All settings of one run, each value from the last layer that names it.

    Raises:
        UserError: a file, key or value is wrong; the message names it.
    """
    scale = chosen(name, run, scale_name)
    generate, score = _evaluation(scale, scale_name)
    if run.method is None:
        if run.settings or run.deviation or run.preset or run.reward:
            raise UserError(f"{EXPERIMENTS}: run `{name}` has settings but no `method`; name one")
        return RunSettings(name, run.label or name, None, generate, score)
    if run.weights is not None:
        raise UserError(f"{EXPERIMENTS}: run `{name}` has a `method` and `weights`; keep one")
    config = load_method(run.method)
    layers = _layers(name, run, config, scale, scale_name)
    where = f"{run.method}: `method`" if is_yaml(run.method) else f"run `{name}`: `method`"
    method = _method(config, layers, where)
    training, deviations = _training(scale, layers)
    try:
        built = method.build()
        built.check(training.steps, training.batch)
        built.check_rewards(training.reward.name, training.rewards_beside)
    except UserError as error:
        raise UserError(f"run `{name}` at scale {scale_name}: {run.method}: {error}") from None
    train = TrainSettings(
        scale_name, seed, scale.backbone, scale.resolution, method, training, scale.compute
    )
    return RunSettings(name, run.label or config.label, train, generate, score, deviations)


def present_settings(name: str, run: RunConfig, scale_name: str) -> dict[str, Any]:
    """What the settings files say of a run now, by stage; its method's class is not imported.

    Left out are the class' own defaults, and what changes no result.
    """
    scale = chosen(name, run, scale_name)
    generate, score = (dump(settings) for settings in _evaluation(scale, scale_name))
    generate["evaluation"].pop("batch")
    if run.method is None:
        return {"generate": generate, "score": score}
    config = load_method(run.method)
    layers = _layers(name, run, config, scale, scale_name)
    training = dump(_training(scale, layers)[0])
    for key in IMMATERIAL:
        training.pop(key)
    settings: dict[str, Any] = {}
    for source in layers:
        settings |= source.layer.settings
    train = {
        "backbone": dump(scale.backbone),
        "resolution": scale.resolution,
        "training": training,
        "method": {"reference": config.method, "settings": settings},
    }
    return {"train": train, "generate": generate, "score": score}


def _evaluation(scale: Scale, scale_name: str) -> tuple[GenerateSettings, ScoreSettings]:
    generate = GenerateSettings(
        scale_name,
        scale.backbone,
        scale.resolution,
        scale.evaluation,
        scale.compute.precision,
    )
    return generate, ScoreSettings(scale_name, scale.evaluators, scale.detector)


def chosen(name: str, run: RunConfig, scale_name: str) -> Scale:
    """The scale with the reward, the task and the base model that the run names.

    Raises:
        UserError: the scale has no such reward or base model.
    """
    scale = load_scale(scale_name)
    training, evaluation = scale.training, scale.evaluation
    if run.task is not None and run.task in scale.tasks:
        task = scale.tasks[run.task]
        training = replace(training, prompts=task.train)
        evaluation = replace(evaluation, prompts=task.test)
        scale = replace(scale, detector=task.detector)
    if run.reward is not None and run.reward != training.reward.name:
        found = _choice(scale_name, "rewards", scale.rewards, run.reward, name)
        training = replace(training, reward=Reward(run.reward, found.path, found.threshold))
    if run.backbone is not None:
        base = _choice(scale_name, "backbones", scale.backbones, run.backbone, name)
        training = replace(training, guidance=base.guidance)
        evaluation = replace(evaluation, guidance=base.guidance)
        backbone = Backbone(base.loader, base.path)
        scale = replace(scale, backbone=backbone, resolution=base.resolution)
    return replace(scale, training=training, evaluation=evaluation)


def available(run: RunConfig, scale: Scale) -> bool:
    """Whether a scale has the reward and the base model that a run names."""
    rewards = {scale.training.reward.name, *scale.rewards}
    return (run.reward or scale.training.reward.name) in rewards and (
        run.backbone is None or run.backbone in scale.backbones
    )


def check_choices(runs: Mapping[str, RunConfig]) -> None:
    """Refuse a run that names a reward or a base model which no scale has.

    Raises:
        UserError: naming the run and the nearest name.
    """
    scales = [load_scale(name) for name in shipped_scales()]
    rewards = {name for s in scales for name in (s.training.reward.name, *s.rewards)}
    backbones = {name for scale in scales for name in scale.backbones}
    for name, run in runs.items():
        for key, choice, valid in (
            ("reward", run.reward, rewards),
            ("backbone", run.backbone, backbones),
        ):
            if choice is not None and choice not in valid:
                raise UserError(
                    f"{EXPERIMENTS}: `runs.{name}.{key}`: no scale has `{choice}`"
                    f"{nearest(choice, valid)}"
                )


def _choice(scale: str, key: str, choices: Mapping[str, T], name: str, run: str) -> T:
    """The scale's entry that a run names."""
    if name not in choices:
        raise UserError(
            f"{EXPERIMENTS}: run `{run}`: {scale_file(scale)} has no `{key}.{name}`"
            f"{nearest(name, choices) if choices else '; add it there'}"
        )
    return choices[name]


def declared_deviations(name: str, run: RunConfig, scale_name: str) -> tuple[Deviation, ...]:
    """What a run changes of the scale's shared budget, and why; its method is not imported."""
    if run.method is None:
        return ()
    scale = chosen(name, run, scale_name)
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
    file, at = str(run.method), str(scale_file(scale_name))
    method = method_name(file)
    of_scale = scale.methods.get(method)
    layers = [_Source(file, "", Layer(config.settings, config.deviation))]
    named = (
        (run.preset, f"{EXPERIMENTS}: `runs.{name}.preset`"),
        (of_scale.preset if of_scale else None, f"{at}: `methods.{method}.preset`"),
        (config.preset, f"{file}: `preset`"),
    )
    preset, where = next((one for one in named if one[0] is not None), (None, ""))
    if preset is not None:
        if preset not in config.presets:
            hint = nearest(preset, config.presets)
            raise UserError(f"{where}: {file} has no preset `{preset}`{hint}")
        layers.append(_Source(file, f"presets.{preset}", config.presets[preset]))
    if of_scale is not None:
        layers.append(_Source(at, f"methods.{method}", of_scale))
    for key, choices, choice in (
        ("rewards", scale.rewards, run.reward),
        ("backbones", scale.backbones, run.backbone),
    ):
        if choice is not None and choice in choices:
            changes = Layer(deviation=choices[choice].deviation)
            layers.append(_Source(at, f"{key}.{choice}", changes))
    own = Layer(run.settings, run.deviation)
    layers.append(_Source(str(EXPERIMENTS), f"runs.{name}", own))
    if name in scale.overrides:
        layers.append(_Source(at, f"overrides.{name}", scale.overrides[name]))
    return layers


def _method(config: MethodConfig, layers: list[_Source], where: str) -> Method:
    """The method with every field's value, each layer checked against the class' fields."""
    cls = resolve(config.method, where)
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise UserError(f"{where}: {config.method} is not a dataclass of settings")
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
