"""The memory that a training takes on each of its devices, as named parts.

Some parts are there all the time, the others come and go: a training's peak is the fullest of its
phases. FSDP2 shards what belongs to the weights over the devices; trained weights, their gradients
and what the optimiser keeps of them are float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from leapalign.doctor.checks import FLOAT32, WIDTH
from leapalign.doctor.machine import GIGABYTE
from leapalign.doctor.rehearsal import Work, rehearse
from leapalign.doctor.shapes import model_of, passes_of, rewards_of
from leapalign.doctor.sketch import Passes
from leapalign.registry import registered
from leapalign.settings import TrainSettings
from leapalign.sharding import ACTIVATIONS
from leapalign.weights import SUFFIXES

BLOCKS = 3
"""Blocks that are gathered at once: one computes, the next is on its way, and what is in none."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes on each device.

    Args:
        resident: what is there all the time, by name.
        phases: what a phase of the training adds, by phase and name.
    """

    resident: Mapping[str, int]
    phases: Mapping[str, Mapping[str, int]]

    @property
    def phase(self) -> str:
        """The phase that takes most."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def parts(self) -> Mapping[str, int]:
        """All parts by name, each at its largest; not all of them are there at once."""
        largest = dict(self.resident)
        for parts in self.phases.values():
            for name, size in parts.items():
                largest[name] = max(largest.get(name, 0), size)
        return largest

    @property
    def peak(self) -> int:
        """The most that is there at once."""
        return sum(self.resident.values()) + sum(self.phases[self.phase].values())


def forecast(
    settings: TrainSettings, work: Work | None = None, memory: int | None = None
) -> Forecast:
    """The memory that a training will take.

    Args:
        settings: with a number for `micro_batch`.
        work: what an iteration does, if that is known already.
        memory: bytes on each device. Where there are more than it needs, a sharded training keeps
            gathered weights and whole gradients; by default it has no more.

    Raises:
        UserError: the model's sizes cannot be told.
    """
    work = work or rehearse(settings)
    model, rewards = model_of(settings), rewards_of(settings)
    weights = _Weights.of(settings, model.transformer, memory or 0)
    width = WIDTH[settings.compute.precision]
    resident = {
        "weights": weights.resident,
        "optimiser": weights.optimiser,
        "average": weights.average,
        "decoder weights": model.decoder.parameters * FLOAT32,
        "reward weights": _reward_weights(settings, rewards),
    }
    micro_batch = min(int(settings.training.micro_batch), max(1, round(work.scored)))
    paths = round(work.paths * model.latents * FLOAT32)
    prompts = micro_batch * model.prompt * width
    rows = passes_of(settings)
    # The transformer is loaded whole, and prompts are encoded beside it; what is resident but the
    # decoder comes later.
    loaded = model.transformer.parameters * (width if settings.training.adapter else FLOAT32)
    later = sum(resident.values()) - resident["decoder weights"]
    around = {"gathered": weights.gathered, "paths": paths, "prompts": prompts}
    phases = {
        "encoding": {"loading": max(0, loaded + model.encoders * width - later)},
        "rollout": {
            **around,
            "activations": model.transformer.forward(rows * micro_batch),
        },
        "reward": {
            **around,
            # From the second chunk on, there are gradients of the first.
            "gradients": weights.gradients if work.graded and work.chunks > 1 else 0,
            **_scoring(settings, model.decoder, rewards, work, micro_batch),
        },
        "replay": {
            **around,
            "gradients": weights.gradients,
            "activations": _activations(settings, model.transformer, work, rows * work.rows),
        },
    }
    return Forecast(resident, phases)


@dataclass(frozen=True, slots=True)
class _Weights:
    """Bytes on each device that belong to the transformer's weights."""

    resident: int
    gathered: int
    gradients: int
    optimiser: int
    average: int

    @classmethod
    def of(cls, settings: TrainSettings, transformer: Passes, memory: int) -> _Weights:
        devices, width = settings.compute.devices, WIDTH[settings.compute.precision]
        masters = transformer.trained * FLOAT32
        frozen = (transformer.parameters - transformer.trained) * width
        shards = (masters + frozen) // devices
        if devices == 1 and width == FLOAT32:
            return cls(shards, 0, masters, 2 * masters, masters)
        whole = transformer.parameters * width
        # As `leapalign.sharding` decides it: the room beside shards, their gradients, the two
        # moments and the average, and a share that is left to activations.
        room = (1.0 - ACTIVATIONS) * memory - shards - 4 * masters // devices if devices > 1 else 0
        gathers = room > whole
        defers = room - gathers * whole > masters
        return cls(
            resident=shards,
            gathered=whole if gathers else min(whole, BLOCKS * transformer.block * width),
            gradients=masters // devices + (masters if defers else 0),
            optimiser=2 * masters // devices,
            average=masters // devices,
        )


def _activations(settings: TrainSettings, transformer: Passes, work: Work, samples: int) -> int:
    """What a pass with gradient takes beside the gradients of the weights.

    An update's only pass makes them while its activations go.
    """
    if work.calls > 1 or settings.compute.devices > 1:
        return transformer.replay(samples)
    return max(0, transformer.first(samples) - transformer.trained * FLOAT32)


def _scoring(
    settings: TrainSettings,
    decoder: Passes,
    rewards: Mapping[str, Passes | None],
    work: Work,
    micro_batch: int,
) -> dict[str, int]:
    """What decoding and rewarding take, of as many images as are decoded at once.

    Rewards come in turn: the one that takes most counts.
    """
    images = min(settings.compute.image_batch or micro_batch, micro_batch)
    told = [reward for reward in rewards.values() if reward]
    if not work.graded:
        # The rewards come when the decoder is done.
        decoded = decoder.forward(images)
        rated = max((reward.forward(images) for reward in told), default=0)
        return {"decoder": decoded, "reward": max(0, rated - decoded)}
    # The reward's backward comes first, while all is kept that the decoder's will need.
    decoded = decoder.replay(images)
    rated = decoder.saved(images) + max((reward.replay(images) for reward in told), default=0)
    return {"decoder": decoded, "reward": max(0, rated - decoded)}


def _reward_weights(settings: TrainSettings, rewards: Mapping[str, Passes | None]) -> int:
    """Of rewards that cannot be sketched, what their files take."""
    paths = settings.training.rewards
    return sum(
        reward.parameters * FLOAT32 if reward else _stored(paths[name])
        for name, reward in rewards.items()
    )


def _stored(name: str) -> int:
    """Bytes of the weights in a folder or a file; of official ones not here yet, about."""
    path = Path(name).expanduser()
    if not path.exists():
        known = registered(name)
        return round(known[1].gigabytes * GIGABYTE) if known else 0
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files if file.suffix in SUFFIXES)
