"""The time that a training takes: what it does, times what each of that takes on the machine.

The constants are measured with random weights: a few blocks of the transformer, scaled by their
share of its operations, and the whole decoder and reward. On a machine that is not at hand they
follow from its data sheet. Waiting for other devices counts as nothing.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from leapalign.compute import keep_to_flash_attention
from leapalign.doctor.kept import kept
from leapalign.doctor.rehearsal import Work, rehearse
from leapalign.doctor.shapes import Model, model_of, passes_of, rewards_of, sketches_of
from leapalign.doctor.sketch import Passes, Sketch, built
from leapalign.plan import REPLAY_COST
from leapalign.settings import TrainSettings, plain_name

TIMED = 0.3
"""Seconds that each constant is measured for, at least once."""

BLOCKS = 2
"""Blocks of each kind that are timed."""

SHARE = 0.4
"""Of a data sheet's rate, what eager PyTorch reaches on large matrices."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """A device's data sheet: operations a second by precision, bytes a second."""

    bfloat16: float
    float32: float
    bandwidth: float


SHEETS = {
    "A100": Sheet(312e12, 19.5e12, 2.0e12),
    "H100": Sheet(989e12, 67e12, 3.35e12),
    "H200": Sheet(989e12, 67e12, 4.8e12),
    "B200": Sheet(2250e12, 75e12, 8.0e12),
}
"""NVIDIA's, dense, without TF32."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds of each thing that a training does, on one device.

    Args:
        forward: a velocity of one image without gradient.
        replay: one with gradient, its backward pass included.
        score: decoding and rewarding one image.
        graded: the same with gradient.
        update: an optimiser step and the average's.
        basis: where these come from, for people.
    """

    forward: float
    replay: float
    score: float
    graded: float
    update: float
    basis: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a training takes, whole.

    Args:
        evaluations: transformer passes in forward-equivalents, summed over images and devices.
        images: that its rollouts make, on all devices.
        seconds: of its iterations.
        devices: that it holds all the time.
        basis: where the seconds come from.
    """

    evaluations: int
    images: int
    seconds: float
    devices: int
    basis: str

    @property
    def device_hours(self) -> float:
        """Hours times devices."""
        return self.seconds * self.devices / 3600.0


def estimate(settings: TrainSettings, rates: Rates, work: Work | None = None) -> Estimate:
    """What a training will take.

    Args:
        settings: with a number for `micro_batch`.
        rates: of its devices.
        work: what an iteration does, if that is known already.
    """
    work = work or rehearse(settings)
    iterations, devices = settings.training.iterations, settings.compute.devices
    seconds = (
        work.forwards * rates.forward
        + work.replays * rates.replay
        + work.scored * (rates.graded if work.graded else rates.score)
        + work.updates * rates.update
    )
    evaluations = passes_of(settings) * (work.forwards + REPLAY_COST * work.replays)
    return Estimate(
        evaluations=round(iterations * devices * evaluations),
        images=round(iterations * devices * work.images),
        seconds=iterations * seconds,
        devices=devices,
        basis=rates.basis,
    )


def from_sheet(settings: TrainSettings, device: str) -> Rates | None:
    """The rates by a device's data sheet; None for one that has none here."""
    found = [sheet for name, sheet in SHEETS.items() if name in device]
    if not found:
        return None
    (sheet,) = found
    model, rewards = model_of(settings), rewards_of(settings)
    rate = SHARE * getattr(sheet, settings.compute.precision)
    again = REPLAY_COST + settings.compute.recompute
    forward = passes_of(settings) * model.transformer.flops / rate
    scored = model.decoder.flops / rate
    scored += sum(reward.flops for reward in rewards.values() if reward) / (SHARE * sheet.float32)
    # Weights, gradients, two moments and the average are read, and all but gradients written.
    moved = 9 * 4 * model.transformer.trained / settings.compute.devices
    return Rates(
        forward=forward,
        replay=again * forward,
        score=scored,
        graded=again * scored,
        update=moved / sheet.bandwidth,
        basis=f"{SHARE:.0%} of the data sheet's rate{_uncounted(rewards)}",
    )


def _uncounted(rewards: Mapping[str, Passes | None]) -> str:
    """The rewards whose passes cannot be told, as the end of a sentence."""
    names = [plain_name(name) for name, reward in rewards.items() if reward is None]
    return f", without the time of {' and '.join(names)}" if names else ""


def measured(settings: TrainSettings, device: str) -> Rates:
    """The rates on this machine, measured once and kept.

    Args:
        settings: with a number for `micro_batch`.
        device: "cpu" or a CUDA device.
    """
    model, rewards = model_of(settings), rewards_of(settings)
    batch, compute = int(settings.training.micro_batch), settings.compute
    key = _name(device), model, rewards, passes_of(settings), compute.precision, batch
    rates = kept(Rates, lambda: _measure(settings, model, rewards, device), *key, _images(settings))
    if device != "cpu":  # the training is to have all of the memory
        gc.collect()
        torch.cuda.empty_cache()
    return rates


def _images(settings: TrainSettings) -> int:
    """How many are decoded at once."""
    batch = int(settings.training.micro_batch)
    return min(settings.compute.image_batch or batch, batch)


def _measure(
    settings: TrainSettings, model: Model, rewards: Mapping[str, Passes | None], device: str
) -> Rates:
    keep_to_flash_attention()
    batch, images = int(settings.training.micro_batch), _images(settings)
    transformer, decoder, raters = sketches_of(settings)
    devices = [device] if device != "cpu" else []
    with torch.random.fork_rng(devices), torch.device(device):
        rows = passes_of(settings) * batch
        velocity = _time(transformer, rows, model.transformer, device)
        decoded = _time(decoder, images, model.decoder, device)
        rewarded = [
            _time(rater, images, reward, device)
            for rater, reward in zip(raters.values(), rewards.values(), strict=True)
            if rater and reward
        ]
        scored = [decoded, *rewarded]
    return Rates(
        forward=velocity.forward / batch,
        replay=velocity.replay / batch,
        score=sum(times.forward for times in scored) / images,
        graded=sum(times.replay for times in scored) / images,
        update=velocity.update / settings.compute.devices,
        basis=f"measured on {_name(device)}{_uncounted(rewards)}",
    )


@dataclass(frozen=True, slots=True)
class _Times:
    """Seconds of a whole network's passes over a batch, and of one update."""

    forward: float
    replay: float
    update: float


def _time(sketch: Sketch, batch: int, whole: Passes, device: str) -> _Times:
    """A few blocks' times, as many times over as the whole has operations or weights."""
    few = {kind: min(count, BLOCKS) for kind, count in sketch.counts.items()}
    with built(sketch.dtype):
        network = sketch.build(few)

        def forward() -> None:
            with torch.no_grad():
                sketch.call(network, batch)

        def replay() -> None:
            result = sketch.call(network, batch)
            result.backward(torch.ones_like(result))

        with FlopCounterMode(display=False) as counter:
            forward()
        more = batch * whole.flops / max(counter.get_total_flops(), 1)
        times = more * _seconds(forward, device), more * _seconds(replay, device)
        return _Times(*times, _update(network, whole, device))


def _update(network: nn.Module, whole: Passes, device: str) -> float:
    """Seconds of AdamW's step and the average's, on as many weights as the whole trains."""
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    if not trained:
        return 0.0
    masters = [nn.Parameter(weight.detach().float()) for weight in trained]
    average = [weight.detach().clone() for weight in masters]
    for weight in masters:
        weight.grad = torch.zeros_like(weight)
    optimizer = torch.optim.AdamW(masters, fused=True)

    def update() -> None:
        optimizer.step()
        torch._foreach_lerp_(average, [weight.detach() for weight in masters], 0.1)

    there = sum(weight.numel() for weight in masters)
    return whole.trained / there * _seconds(update, device)


def _seconds(run: Callable[[], None], device: str) -> float:
    """The median of a few runs, after one that warms up."""
    run()
    taken: list[float] = []
    while not taken or (sum(taken) < TIMED and len(taken) < 20):
        _wait(device)
        started = time.perf_counter()
        run()
        _wait(device)
        taken.append(time.perf_counter() - started)
    return median(taken)


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _name(device: str) -> str:
    if device == "cpu":
        threads = torch.get_num_threads()
        return f"this {platform.machine()} CPU, {os.cpu_count()} cores, {threads} threads"
    return torch.cuda.get_device_name(device)
