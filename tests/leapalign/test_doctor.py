"""The doctor's forecasts: memory beside what is measured, passes beside what is counted."""

from __future__ import annotations

import dataclasses
import gc
from pathlib import Path

import pytest
import torch

from leapalign.doctor.fit import AUTO, fitted
from leapalign.doctor.memory import forecast
from leapalign.doctor.meter import Meter
from leapalign.doctor.rehearsal import at_any_size, in_parts, rehearse
from leapalign.errors import UserError
from leapalign.settings import Backbone, Compute, Method, TrainSettings
from leapalign.train import Training, prepare
from tests import tolerances

ROOT = Path(__file__).parents[2]
LEAPALIGN, REFL = "leapalign.leap:LeapAlign", "baselines.refl:ReFL"
DANCE, MIX = "baselines.dance_grpo:DanceGRPO", "baselines.mix_grpo:MixGRPO"
GROUPS = {"group": 4, "updates_per_iteration": 2}
GIGABYTE = 10**9


def with_training(settings: TrainSettings, **changes: object) -> TrainSettings:
    return dataclasses.replace(settings, training=dataclasses.replace(settings.training, **changes))


@pytest.fixture
def pocket(settings: TrainSettings) -> TrainSettings:
    """A short training of the shipped pocket model, whose parts are all of some size."""
    base = Backbone("leapalign.backbones.flux:Flux", str(ROOT / "pocket/weights/base"))
    return with_training(dataclasses.replace(settings, backbone=base), batch=8)


def alive() -> list[torch.Tensor]:
    gc.collect()
    return [
        found for found in gc.get_objects() if type(found) in (torch.Tensor, torch.nn.Parameter)
    ]


def bytes_of(tensors: list[torch.Tensor]) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def measured_peak(settings: TrainSettings) -> int:
    """Bytes of all tensors at the fullest moment of a training's second iteration."""
    others = bytes_of(alive())
    run: Training = prepare(settings, "cpu")
    run.iterate()  # from here on the optimiser has its moments
    there = alive()
    with Meter(there) as meter:
        run.iterate()
    return bytes_of(there) - others + meter.peak


@pytest.mark.parametrize(
    ("method", "own", "resolution", "micro_batch"),
    [
        (LEAPALIGN, {}, 64, 4),
        (LEAPALIGN, {}, 96, 2),
        (REFL, {"last": 2}, 64, 8),
        (DANCE, GROUPS, 64, 4),
        (MIX, GROUPS | {"window": 2}, 96, 2),
    ],
)
def test_the_memory_of_a_training_is_foretold(
    pocket: TrainSettings, method: str, own: dict, resolution: int, micro_batch: int
) -> None:
    settings = dataclasses.replace(
        in_parts(pocket, micro_batch), method=Method(method, own), resolution=resolution
    )
    measured = measured_peak(settings)
    assert forecast(settings).peak == pytest.approx(measured, rel=tolerances.FORECAST)


def test_a_training_of_stable_diffusion_3_is_foretold(pocket: TrainSettings) -> None:
    base = Backbone("leapalign.backbones.sd3:StableDiffusion3", str(ROOT / "pocket/weights/sd3"))
    settings = dataclasses.replace(in_parts(pocket, 2), backbone=base)
    assert forecast(settings).peak == pytest.approx(
        measured_peak(settings), rel=tolerances.FORECAST
    )


def test_the_passes_of_a_training_are_foretold(settings: TrainSettings) -> None:
    short = with_training(settings, batch=8, iterations=2)
    for method, own in ((LEAPALIGN, {}), (DANCE, GROUPS), (MIX, GROUPS | {"window": 2})):
        chosen = dataclasses.replace(short, method=Method(method, own))
        run, work = prepare(chosen, "cpu"), rehearse(chosen)
        for _ in range(2):
            run.iterate()
        assert 2 * (work.forwards + 3 * work.replays) == run.tally.evaluations
        assert 2 * work.images == run.tally.images


def test_two_rehearsals_tell_what_a_third_would(settings: TrainSettings) -> None:
    whole = with_training(settings, batch=8)
    for method, own in ((LEAPALIGN, {}), (DANCE, GROUPS)):
        chosen = dataclasses.replace(whole, method=Method(method, own))
        told, seen = at_any_size(chosen)(1), rehearse(in_parts(chosen, 1), iterations=2)
        assert (told.rows, told.calls, told.chunks) == (seen.rows, seen.calls, seen.chunks)
        assert told.paths == pytest.approx(seen.paths, rel=tolerances.FORECAST)


def flux(**compute: object) -> TrainSettings:
    """The paper's training of FLUX.1-dev, whose weights are not here."""
    from leapalign.config import resolve_run
    from leapalign.experiments import load_experiments

    settings = resolve_run("leapalign", load_experiments().runs["leapalign"], "flux", 0).train
    assert settings is not None
    chosen = Compute(precision="bfloat16", **compute)
    return with_training(dataclasses.replace(settings, compute=chosen), micro_batch=AUTO)


def test_the_full_size_model_has_its_published_sizes() -> None:
    from leapalign.doctor.shapes import model_of

    model = model_of(flux(devices=8))
    assert model.transformer.parameters == pytest.approx(11.9e9, rel=0.01)  # "12B"
    assert model.encoders == pytest.approx(4.76e9 + 0.123e9, rel=0.01)  # T5-XXL's and CLIP-L's
    # 2,025 image and 512 text tokens: 37 TFLOP a pass, and 22 GB an image without recomputation.
    assert model.transformer.flops == pytest.approx(37e12, rel=0.02)
    assert model.transformer.replay.each == pytest.approx(22e9, rel=0.1)


def test_eight_devices_of_80_gigabytes_train_flux_and_one_says_what_would() -> None:
    settings = flux(devices=8, recompute=True)
    chosen, found = fitted(settings, 80 * GIGABYTE)
    assert found.peak <= 80 * GIGABYTE
    assert chosen.training.micro_batch > 1
    assert settings.training.batch // 8 % chosen.training.micro_batch == 0
    with pytest.raises(UserError, match=r"does not fit: even image by image") as refusal:
        fitted(flux(devices=1, recompute=True), 80 * GIGABYTE)
    assert "compute.devices: 4" in str(refusal.value) or "compute.devices: 8" in str(refusal.value)
    assert "training.adapter" in str(refusal.value)
