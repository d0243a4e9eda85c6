"""The doctor's forecasts: memory beside what is measured, passes beside what is counted."""

from __future__ import annotations

import dataclasses
import gc
import json
from pathlib import Path

import pytest
import torch

from leapalign.doctor import admission, cost, fit
from leapalign.doctor.admission import admitted, predicted
from leapalign.doctor.cost import SHARE, SHEETS, Rates, estimate, from_sheet, measured
from leapalign.doctor.fit import AUTO, LORA, fitted, smallest
from leapalign.doctor.memory import forecast
from leapalign.doctor.meter import Meter
from leapalign.doctor.rehearsal import at_any_size, in_parts, rehearse
from leapalign.doctor.shapes import model_of, rewards_of
from leapalign.errors import UserError
from leapalign.parallel import Processes
from leapalign.settings import Adapter, Backbone, Compute, Method, Reward, TrainSettings
from leapalign.training import Training, prepare
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
        (MIX, GROUPS | {"window": 2}, 64, 2),
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


def test_a_trainings_time_is_what_it_does_times_what_each_takes(settings: TrainSettings) -> None:
    group = dataclasses.replace(
        with_training(settings, batch=8, iterations=10), method=Method(DANCE, GROUPS)
    )
    rates = Rates(forward=1.0, replay=10.0, score=100.0, graded=7e7, update=1000.0, basis="made up")
    # Of 4 steps all are rolled out, 3 are stochastic, and int(0.6 · 3) = 1 of them trains.
    found = estimate(group, rates)
    assert found.seconds == 10 * (8 * 4 * 1.0 + 8 * 1 * 10.0 + 8 * 100.0 + 2 * 1000.0)
    assert (found.evaluations, found.images) == (10 * 8 * (4 + 3 * 1), 80)
    shared = estimate(dataclasses.replace(group, compute=Compute(devices=2)), rates)
    assert (shared.evaluations, shared.images) == (found.evaluations, found.images)
    assert shared.device_hours == 2 * shared.seconds / 3600


def test_all_rewards_count_or_are_said_not_to(pocket: TrainSettings) -> None:
    alone, weights = in_parts(pocket, 1), ROOT / "pocket/weights"
    beside = {"pickscore": str(weights / "pickscore"), "imagereward": str(weights / "hpsv2")}
    several = with_training(alone, rewards_beside=beside)
    told = rewards_of(several)
    assert told["imagereward"] is None
    one, more = from_sheet(alone, "H100"), from_sheet(several, "H100")
    seconds = told["pickscore"].flops / (SHARE * SHEETS["H100"].float32)
    assert more.score - one.score == pytest.approx(seconds)
    assert more.basis == f"{one.basis}, without the time of imagereward"
    held, holds = (forecast(settings).resident["reward weights"] for settings in (alone, several))
    files = [file.stat().st_size for file in (weights / "hpsv2").rglob("*.safetensors")]
    files += [file.stat().st_size for file in (weights / "hpsv2").rglob("*.pt")]
    assert holds - held == 4 * told["pickscore"].parameters + sum(files)


def test_a_machines_rates_are_measured_once(
    pocket: TrainSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cost, "TIMED", 0.05)
    rates = measured(pocket, "cpu")
    assert 0.0 < rates.forward < rates.replay
    assert 0.0 < rates.score < rates.graded
    assert rates.basis.startswith("measured on this")
    monkeypatch.setattr(cost, "_measure", None)
    assert measured(pocket, "cpu") == rates
    with pytest.raises(TypeError):  # of other chunks it would be measured anew
        measured(computed(pocket, image_batch=1), "cpu")


def test_forecasting_leaves_the_global_random_numbers_alone(pocket: TrainSettings) -> None:
    before = torch.get_rng_state()
    predicted(pocket, "cpu")
    assert torch.equal(torch.get_rng_state(), before)


def flux(**compute: object) -> TrainSettings:
    """The paper's training of FLUX.1-dev, whose weights are not here."""
    from leapalign.config import resolve_run
    from leapalign.experiments import load_experiments

    settings = resolve_run("leapalign", load_experiments().runs["leapalign"], "flux", 0).train
    assert settings is not None
    chosen = Compute(precision="bfloat16", **compute)
    return with_training(dataclasses.replace(settings, compute=chosen), micro_batch=AUTO)


def test_the_full_size_model_has_its_published_sizes() -> None:
    model = model_of(flux(devices=8))
    assert model.transformer.parameters == pytest.approx(11.9e9, rel=0.01)  # "12B"
    assert model.encoders == pytest.approx(4.76e9 + 0.123e9, rel=0.01)  # T5-XXL's and CLIP-L's
    # 2,025 image and 512 text tokens: 37 TFLOP a pass, and 22 GB an image without recomputation.
    assert model.transformer.flops == pytest.approx(37e12, rel=0.02)
    assert model.transformer.replay.each == pytest.approx(22e9, rel=0.1)


def test_eight_devices_of_80_gigabytes_train_all_of_flux() -> None:
    settings = flux(devices=8, recompute=True)
    chosen, found = fitted(settings, 80 * GIGABYTE)
    assert found.peak <= 80 * GIGABYTE
    assert chosen.training.micro_batch > 1
    assert settings.training.batch // 8 % chosen.training.micro_batch == 0
    assert sum(found.parts.values()) > found.peak  # they are not all there at once
    # Float32 weights, gradients, both moments and the average of 12 billion, by eight.
    state = sum(found.parts[name] for name in ("weights", "gradients", "optimiser", "average"))
    assert state == pytest.approx(5 * 4 * 11.9e9 / 8, rel=0.01)


@pytest.mark.parametrize(("adapter", "width"), [(None, 4), (LORA, 2)])
def test_every_device_loads_the_whole_model_before_it_is_sharded(
    pocket: TrainSettings, adapter: Adapter | None, width: int
) -> None:
    shared = computed(in_parts(pocket, 1), devices=8, precision="bfloat16")
    weightless = Reward("own:Reward", "nowhere", 1.0)
    settings = with_training(shared, adapter=adapter, reward=weightless)
    model, found = model_of(settings), forecast(settings)
    encoding = sum(found.resident.values()) + sum(found.phases["encoding"].values())
    needed = width * model.transformer.parameters + 2 * model.encoders
    assert encoding == needed + 4 * model.decoder.parameters


def test_what_cannot_fit_is_refused_with_changes_under_which_it_would(
    pocket: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "WAYS", 2)
    room = forecast(in_parts(pocket, 1)).peak
    for needed in (int(1.2 * room), int(0.8 * room)):
        with pytest.raises(UserError, match=r"does not fit: at micro_batch 8") as refusal:
            fitted(in_parts(pocket, 8), needed)
        ways = str(refusal.value).partition("would fit: ")[2].split("; or ")
        assert ways
        for way in ways:
            changed = pocket
            for change in way.split(" with "):
                changed = CHANGES[change](changed)
            assert forecast(smallest(changed)).peak <= needed, way
        assert any("micro_batch: auto" in way for way in ways) == (needed > room)


CHANGES = {
    "training.micro_batch: auto": lambda settings: settings,
    "compute.recompute: true": lambda settings: computed(settings, recompute=True),
    "compute.devices: 2": lambda settings: computed(settings, devices=2),
    "compute.devices: 4": lambda settings: computed(settings, devices=4),
    "compute.devices: 8": lambda settings: computed(settings, devices=8),
    "a training.adapter of rank 128": lambda settings: with_training(settings, adapter=LORA),
}


def computed(settings: TrainSettings, **changes: object) -> TrainSettings:
    return dataclasses.replace(settings, compute=dataclasses.replace(settings.compute, **changes))


def test_auto_becomes_a_number_before_a_training_loads_anything(
    pocket: TrainSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = with_training(pocket, micro_batch=AUTO)
    assert admitted(auto, "cpu").training.micro_batch == 8
    room = forecast(computed(in_parts(pocket, 2), image_batch=1)).peak
    monkeypatch.setattr(admission, "memory_of", lambda *_: room)
    assert prepare(auto, "cpu").problem.budget.micro_batch == 2
    monkeypatch.setattr(admission, "memory_of", lambda *_: room // 4)
    with pytest.raises(UserError, match="does not fit: even image by image"):
        prepare(auto, "cpu")


def unknown(settings: TrainSettings, folder: Path) -> TrainSettings:
    """A training of a model that a loader of the user's own makes of a folder."""
    folder.mkdir()
    loader = settings.backbone.loader
    return dataclasses.replace(settings, backbone=Backbone(loader, str(folder)))


def test_a_model_that_cannot_be_foretold_trains_under_a_number_alone(
    pocket: TrainSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(admission, "memory_of", lambda *_: 80 * GIGABYTE)
    own = unknown(pocket, tmp_path / "own")
    there = dataclasses.replace(pocket, backbone=Backbone("own:Loader", "owner/of-the-hub"))
    other = unknown(pocket, tmp_path / "other")
    index = {"_class_name": "OtherPipeline"}
    (tmp_path / "other/model_index.json").write_text(json.dumps(index))
    for settings in (own, there, other):
        assert admitted(settings, "cuda:0") == settings
        assert "cannot be told beforehand" in capsys.readouterr().err
        with pytest.raises(UserError, match=r"set training\.micro_batch to a number"):
            admitted(with_training(settings, micro_batch=AUTO), "cuda:0")


@dataclasses.dataclass(frozen=True)
class Second(Processes):
    """The second of two processes, whose device is the larger."""

    rank: int = 1
    count: int = 2
    others: int = 0

    def collect(self, value: int) -> list[int]:
        return [self.others, value]


def test_all_processes_choose_by_the_smallest_device_and_one_says_so(
    pocket: TrainSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = with_training(pocket, micro_batch=AUTO)
    room = forecast(computed(in_parts(auto, 2), image_batch=1)).peak
    monkeypatch.setattr(admission, "memory_of", lambda *_: 100 * room)
    assert admitted(auto, "cpu").training.micro_batch == 8
    assert "micro-batch 8" in capsys.readouterr().err
    monkeypatch.setattr(admission, "present", lambda: Second(others=room))
    assert admitted(auto, "cpu").training.micro_batch == 2
    assert not capsys.readouterr().err
