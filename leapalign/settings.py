"""The settings of a run as frozen dataclasses; the fields are the keys of the YAML files.

Each stage of a run (train, generate, score) has settings of its own, so that editing the
evaluation never retrains. `leapalign.config` reads the files and resolves them to these.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from leapalign.errors import UserError
from leapalign.parsing import dump, parse, resolve

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Precision = Literal["float32", "bfloat16"]
Share = Annotated[float, Field(ge=0, lt=1)]

IMMATERIAL = ("micro_batch", "checkpoint_every")
"""Keys of the budget that change memory and time, and no result beyond rounding."""


class Canonical:
    """Settings with one JSON form: sorted keys, no spaces; its SHA-256 names them."""

    __slots__ = ()

    def json(self) -> str:
        """The canonical JSON, which `from_json` reads."""
        return json.dumps(dump(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    def hash(self) -> str:
        """The first 16 hexadecimal digits of the canonical JSON's SHA-256."""
        return hashlib.sha256(self.json().encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The settings in `text`; a `UserError` names a key that does not belong."""
        try:
            return parse(cls, json.loads(text), "--settings")
        except json.JSONDecodeError as error:
            raise UserError(f"--settings: not JSON: {error}") from None


def plain_name(reference: str) -> str:
    """A reward's name in files and tables: that of a class, `module:Class`, is the class' own."""
    return reference.rpartition(":")[2]


@dataclass(frozen=True, slots=True)
class Backbone:
    """A generator: the class that loads it (`module:Class`) and its folder or hub id."""

    loader: str
    path: str


@dataclass(frozen=True, slots=True)
class Reward:
    """The training reward: name in `leapalign.rewards` or class, weights, threshold λ."""

    name: str
    path: str
    threshold: float


@dataclass(frozen=True, slots=True)
class Optimizer:
    """AdamW's settings (Loshchilov and Hutter, 2019)."""

    lr: Rate
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    eps: Rate = 1e-8


@dataclass(frozen=True, slots=True)
class Adapter:
    """A low-rank adapter (LoRA, arXiv 2106.09685), trained instead of all weights.

    Attributes:
        rank: of each layer's update.
        alpha: the update is scaled by alpha / rank.
        targets: the adapted layers, by the last parts of their names, as peft takes them.
    """

    rank: Positive
    alpha: Positive
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compute:
    """How a training uses its machine: time and memory, and no result beyond rounding.

    Attributes:
        devices: processes of a training, one device each; several shard the model (FSDP2).
        precision: of forward and backward passes; the trained weights are float32.
        recompute: whether the blocks of transformer and decoder are computed again in the backward
            pass instead of keeping their activations.
        compile: whether each kind of transformer block is compiled; not under a policy gradient,
            whose ratio begins at 1: with and without gradient they are compiled to other roundings.
        image_batch: images decoded, scored and differentiated at once; by default all of a
            micro-batch.
    """

    devices: Positive = 1
    precision: Precision = "float32"
    recompute: bool = False
    compile: bool = False
    image_batch: Positive | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """The training budget that all compared methods share.

    Attributes:
        prompts: a .jsonl file of GenEval metadata lines, or a .txt file of one prompt a line.
        steps: rollout steps T.
        guidance: the embedded guidance scale.
        iterations: optimiser iterations.
        batch: images per iteration, over all devices.
        optimizer: AdamW.
        clip: largest norm of the gradient.
        ema: decay of the averaged weights, which are the ones evaluated.
        reward: what is maximised.
        rewards_beside: further rewards, name in `leapalign.rewards` or class → weights; all count
            alike, for the methods that are defined for several.
        micro_batch: images per forward pass, or `auto`, as many as fit; changes memory, not the
            result.
        checkpoint_every: iterations between checkpoints.
        adapter: trained instead of all weights.
    """

    prompts: str
    steps: Positive
    guidance: float
    iterations: Positive
    batch: Positive
    optimizer: Optimizer
    clip: Rate
    ema: Share
    reward: Reward
    micro_batch: Positive | Literal["auto"]
    checkpoint_every: Positive = 25
    adapter: Adapter | None = None
    rewards_beside: Mapping[str, str] = field(default_factory=dict)

    @property
    def rewards(self) -> dict[str, str]:
        """The weights of all rewards by name or class, what is maximised first."""
        return {self.reward.name: self.reward.path, **self.rewards_beside}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How the evaluated images are generated: the same prompts and noise for every run."""

    prompts: str
    steps: Positive
    guidance: float
    images_per_prompt: Positive
    batch: Positive
    seed: int
    limit: Positive | None = None


@dataclass(frozen=True, slots=True)
class Method:
    """A method: its class (`module:Class`) and the values of all its fields."""

    reference: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def build(self, source: str = "method") -> Any:  # noqa: ANN401 - a plug-in's class
        """The method itself; a `UserError` names a setting it does not have."""
        return parse(resolve(self.reference, source), dict(self.settings), source, "settings")


@dataclass(frozen=True, slots=True)
class TrainSettings(Canonical):
    """Everything that decides a training's result, and how its machine is used."""

    scale: str
    seed: int
    backbone: Backbone
    resolution: Positive
    method: Method
    training: Training
    compute: Compute = field(default_factory=Compute)

    @property
    def weights(self) -> list[str]:
        """Every folder of weights that training reads."""
        return [self.backbone.path, *self.training.rewards.values()]

    def recipe(self) -> str:
        """A hash of what decides the result: a training goes on under the same, on any machine."""
        alike: dict[str, Any] = dict.fromkeys(IMMATERIAL, 1)
        budget = replace(self.training, **alike)
        return replace(self, training=budget, compute=Compute()).hash()


@dataclass(frozen=True, slots=True)
class GenerateSettings(Canonical):
    """Everything but the trained weights that decides the evaluated images.

    Attributes:
        precision: of the transformer's weights and passes, and of the text encoders; the path's
            states are float32.
    """

    scale: str
    backbone: Backbone
    resolution: Positive
    evaluation: Evaluation
    precision: Precision = "float32"


@dataclass(frozen=True, slots=True)
class ScoreSettings(Canonical):
    """The evaluators: reward name or class → weights, and GenEval's detector.

    A detector is a function (`module:function`), or the folder of the official weights; there is
    none where the prompts are not GenEval's.
    """

    scale: str
    evaluators: Mapping[str, str]
    detector: str | None

    @property
    def weights(self) -> list[str]:
        """Every folder of weights that scoring reads."""
        paths = (*self.evaluators.values(), self.detector)
        return [path for path in paths if path is not None and ":" not in path]


@dataclass(frozen=True, slots=True)
class TrackSettings(Canonical):
    """Everything but the weights that decides how a training is watched.

    Attributes:
        generate: one image a prompt.
        score: all evaluators.
        enlarged: side of the images of the higher-resolution probe, pixels.
    """

    generate: GenerateSettings
    score: ScoreSettings
    enlarged: Positive


@dataclass(frozen=True, slots=True)
class Deviation:
    """A key of the shared budget that a run changes, and why; every table prints it."""

    key: str
    value: Any
    shared: Any
    reason: str


@dataclass(frozen=True, slots=True)
class RunSettings(Canonical):
    """One run at one scale with one seed, resolved; `train` is None for the untrained base."""

    run: str
    label: str
    train: TrainSettings | None
    generate: GenerateSettings
    score: ScoreSettings
    deviations: tuple[Deviation, ...] = ()
