"""What is asked as a training starts: can it be, in which parts, and what will it cost."""

from __future__ import annotations

import sys
from typing import Any

from leapalign.direct import DirectGradient
from leapalign.doctor.checks import refuse
from leapalign.doctor.cost import estimate, measured
from leapalign.doctor.fit import AUTO, fitted
from leapalign.doctor.folders import Unforetold
from leapalign.doctor.machine import GIGABYTE, memory_of
from leapalign.doctor.memory import forecast
from leapalign.doctor.rehearsal import rehearse
from leapalign.errors import UserError
from leapalign.parallel import present
from leapalign.parsing import resolve
from leapalign.rewards import REWARDS
from leapalign.settings import TrainSettings


def admitted(settings: TrainSettings, device: str) -> TrainSettings:
    """The training with a number for `micro_batch: auto`, if it can be made on this device.

    On a CPU a training with numbers of its own is not foretold: the operating system shares memory
    out there, and small models take little. All of a training's processes come here, and choose
    alike: by the smallest of their devices.

    Raises:
        UserError: settings, model and reward do not fit each other, the device is too small, or
            `auto` is asked of a model whose needs cannot be told.
    """
    refuse(settings)
    refuse_gradless(settings)
    if device == "cpu" and settings.training.micro_batch != AUTO:
        return settings
    processes = present()
    memory = min(processes.collect(memory_of(device, settings.compute.devices)))
    try:
        chosen, found = fitted(settings, memory)
        expected = (
            f"at most {found.peak / GIGABYTE:.3g} of {memory / GIGABYTE:.3g} GB of memory "
            f"expected, while in {found.phase}"
        )
    except Unforetold as error:
        if settings.training.micro_batch == AUTO:
            raise UserError(f"{error}; set training.micro_batch to a number") from None
        chosen, expected = settings, str(error)
    if processes.main:
        sys.stderr.write(f"micro-batch {chosen.training.micro_batch}: {expected}\n")
    return chosen


def refuse_gradless(settings: TrainSettings) -> None:
    """Refuse a direct-gradient method under a reward without gradient in the images.

    Raises:
        UserError: naming both.
    """
    name = settings.training.reward.name
    graded = isinstance(settings.method.build(), DirectGradient)
    if graded and not getattr(resolve(REWARDS.get(name, name), "reward"), "differentiable", True):
        able = ", ".join(n for n, cls in REWARDS.items() if resolve(cls, n).differentiable)
        raise UserError(
            f"training.reward.name: {name} has no gradient in the images, which "
            f"{settings.method.reference} needs; train on one of {able}, or by a policy gradient"
        )


def predicted(settings: TrainSettings, device: str) -> dict[str, Any] | None:
    """What a training is expected to take, for its provenance; None where that cannot be told.

    Args:
        settings: the training's.
        device: "cpu" or a CUDA device.
    """
    try:
        if settings.training.micro_batch == AUTO:
            settings, _ = fitted(settings, memory_of(device, settings.compute.devices))
        work = rehearse(settings)
        found = estimate(settings, measured(settings, device), work)
        peak = forecast(settings, work).peak
    except Exception as error:
        sys.stderr.write(f"no forecast: {type(error).__name__}: {error}\n")
        return None
    return {
        "nfe": found.evaluations,
        "images": found.images,
        "seconds": round(found.seconds, 2),
        "devices": found.devices,
        "peak_memory_mb": round(peak / 1e6, 1),
        "basis": found.basis,
    }
