"""Fits a training to a device's memory: its micro-batch, or one clear line on what would fit."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from leapalign.doctor.machine import GIGABYTE
from leapalign.doctor.memory import Forecast, forecast
from leapalign.doctor.rehearsal import Work, at_any_size, in_parts, share_of
from leapalign.errors import UserError
from leapalign.settings import Adapter, TrainSettings

AUTO = "auto"
LORA = Adapter(rank=128, alpha=256, targets=("to_q", "to_k", "to_v", "to_out.0"))
"""DanceGRPO's adapter, as a way out where all weights do not fit."""

WAYS, MOST_CHANGES = 3, 3
"""How many ways out are named, each of how many changes at most."""

SMALL = 512
"""Pixels: the resolution to fall back to."""


def fitted(settings: TrainSettings, memory: int) -> tuple[TrainSettings, Forecast]:
    """The training with numbers for what it leaves open, and the memory that it will take.

    At the same batch, `micro_batch: auto` is the largest that fits, with as many images decoded at
    once as then fit, unless `image_batch` says how many. Neither changes a result.

    Args:
        settings: the training's.
        memory: bytes on each device.

    Raises:
        UserError: it cannot fit; the message says what would.
    """
    work = at_any_size(settings)

    def take(part: TrainSettings) -> Forecast:
        return forecast(part, work(int(part.training.micro_batch)), memory)

    def fits(part: TrainSettings) -> bool:
        return take(part).peak <= memory

    chosen = smallest(settings) if settings.training.micro_batch == AUTO else settings
    if not fits(chosen):
        would = itertools.islice(ways_out(settings, memory, work(1)), WAYS)
        raise UserError(_refusal(settings, take(chosen), memory, list(would)))
    if settings.training.micro_batch == AUTO:
        chosen = _last(fits, [in_parts(chosen, size) for size in _divisors(share_of(settings))])
        if settings.compute.image_batch is None:
            sizes = _divisors(int(chosen.training.micro_batch))
            chosen = _last(fits, [_with_compute(chosen, image_batch=size) for size in sizes])
    return chosen, take(chosen)


def _last(fits: Callable[[TrainSettings], bool], growing: Sequence[TrainSettings]) -> TrainSettings:
    """The last that fits, of trainings that take more and more, the first of which does."""
    return growing[bisect.bisect_left(growing, True, key=lambda part: not fits(part)) - 1]


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def smallest(settings: TrainSettings) -> TrainSettings:
    """The same training in the smallest parts: image by image."""
    images = settings.compute.image_batch or 1
    return _with_compute(in_parts(settings, 1), image_batch=images)


def _refusal(settings: TrainSettings, found: Forecast, memory: int, ways: Sequence[str]) -> str:
    """One line: what is needed, what is there, what would do."""
    largest = sorted(found.parts.items(), key=lambda part: -part[1])[:2]
    devices = settings.compute.devices
    each = f" on each of {devices} devices" if devices > 1 else ""
    given = settings.training.micro_batch
    at = "even image by image" if given == AUTO else f"at micro_batch {given}"
    most = " and ".join(f"{_gb(size)} of {name}" for name, size in largest)
    would = f"would fit: {'; or '.join(ways)}" if ways else "nothing that these settings allow fits"
    return (
        f"does not fit: {at} the training needs {_gb(found.peak)}{each}, {most} among it, and a "
        f"device has {_gb(memory)}; {would}"
    )


def ways_out(settings: TrainSettings, memory: int, work: Work) -> Iterator[str]:
    """Changes under which a training that does not fit would, the fewest first.

    Args:
        settings: the training's.
        memory: bytes on each device.
        work: what an iteration does, image by image.
    """
    found: list[set[str]] = []
    changes = list(_changes(settings))
    for count in range(1, MOST_CHANGES + 1):
        for chosen in itertools.combinations(changes, count):
            kinds = {change.kind for change in chosen}
            if len(kinds) < count or any(known <= kinds for known in found):
                continue
            changed = functools.reduce(lambda whole, change: change.make(whole), chosen, settings)
            if forecast(smallest(changed), work, memory).peak <= memory:
                found.append(kinds)
                yield " with ".join(change.words for change in chosen)


@dataclass(frozen=True, slots=True)
class _Change:
    """A way to take less memory; of a kind, one is made at a time."""

    kind: str
    words: str
    make: Callable[[TrainSettings], TrainSettings]


def _changes(settings: TrainSettings) -> Iterator[_Change]:
    """What a user could change, beginning with what changes no result."""
    compute, training = settings.compute, settings.training
    if training.micro_batch != AUTO:
        yield _Change("micro_batch", "training.micro_batch: auto", smallest)
    if not compute.recompute:
        yield _Change(
            "recompute", "compute.recompute: true", lambda s: _with_compute(s, recompute=True)
        )
    for count in (2, 4, 8, 16, 32, 64):
        if count > compute.devices and _shared_evenly(settings, count):
            yield _Change(
                "devices",
                f"compute.devices: {count}",
                functools.partial(_with_compute, devices=count),
            )
    if training.adapter is None:
        yield _Change(
            "adapter",
            f"a training.adapter of rank {LORA.rank}",
            lambda s: replace(s, training=replace(s.training, adapter=LORA)),
        )
    if settings.resolution > SMALL:
        yield _Change("resolution", f"resolution: {SMALL}", lambda s: replace(s, resolution=SMALL))


def _with_compute(settings: TrainSettings, **changes: Any) -> TrainSettings:  # noqa: ANN401
    return replace(settings, compute=replace(settings.compute, **changes))


def _shared_evenly(settings: TrainSettings, devices: int) -> bool:
    """Whether so many processes have the same number of an update's images."""
    images: int = settings.method.build().images_per_update(settings.training.batch)
    return images % devices == 0


def _gb(size: float) -> str:
    return f"{size / GIGABYTE:.3g} GB"
