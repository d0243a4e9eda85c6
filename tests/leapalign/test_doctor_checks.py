"""Mistakes that are found before anything is loaded, each with its fix."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from leapalign.backbones.flux import Flux
from leapalign.config import resolve_run
from leapalign.doctor import __main__ as doctor
from leapalign.doctor import checks
from leapalign.doctor.admission import refuse_gradless
from leapalign.doctor.machine import Device, named_machine, this_machine
from leapalign.doctor.plan import plan, table
from leapalign.errors import UserError
from leapalign.experiments import load_experiments
from leapalign.settings import Backbone, Compute, Method, Reward, TrainSettings
from leapalign.training import prepare
from leapalign.user import HANDED_DOWN
from leapalign.workflow import Suite, load_suite
from tests.disks import read_only


def with_training(settings: TrainSettings, **changes: object) -> TrainSettings:
    return dataclasses.replace(settings, training=dataclasses.replace(settings.training, **changes))


def on(settings: TrainSettings, devices: int) -> TrainSettings:
    return dataclasses.replace(settings, compute=Compute(devices=devices))


@pytest.fixture
def copied(settings: TrainSettings, tmp_path: Path) -> TrainSettings:
    """A training of a folder that the test may damage."""
    folder = tmp_path / "model"
    shutil.copytree(settings.backbone.path, folder)
    return dataclasses.replace(settings, backbone=Backbone(settings.backbone.loader, str(folder)))


def test_a_training_of_what_is_there_is_not_refused(settings: TrainSettings) -> None:
    checks.refuse(settings)


def test_a_resolution_between_tokens_is_refused_with_its_neighbours(
    settings: TrainSettings,
) -> None:
    with pytest.raises(UserError, match=r"resolution: 72 is not a multiple of 16.*64 or 80"):
        prepare(dataclasses.replace(settings, resolution=72), "cpu")


def test_more_processes_than_prompts_are_refused(settings: TrainSettings) -> None:
    with pytest.raises(UserError, match=r"compute\.devices: 4 processes.*set it to 2, or raise"):
        checks.refuse(on(settings, 4))


def test_a_batch_that_processes_cannot_share_is_refused(settings: TrainSettings) -> None:
    with pytest.raises(
        UserError, match=r"training\.batch: .*3 processes; set compute\.devices to 2"
    ):
        checks.refuse(on(with_training(settings, batch=8), 3))
    grouped = Method("baselines.dance_grpo:DanceGRPO", {"group": 4, "updates_per_iteration": 4})
    with pytest.raises(UserError, match=r"3 images an update.*or training\.batch to 16"):
        checks.refuse(on(dataclasses.replace(with_training(settings, batch=12), method=grouped), 2))


def test_guidance_of_a_model_without_it_is_refused(copied: TrainSettings) -> None:
    file = Path(copied.backbone.path) / "transformer/config.json"
    config = json.loads(file.read_text()) | {"guidance_embeds": False}
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"training\.guidance: 3\.5, but this model has none"):
        checks.refuse(copied)
    checks.refuse(with_training(copied, guidance=1.0))


def test_a_folder_that_lacks_a_part_or_a_shard_is_refused_by_name(copied: TrainSettings) -> None:
    folder = Path(copied.backbone.path)
    index = {"weight_map": {"a": "diffusion-1.safetensors", "b": "diffusion-2.safetensors"}}
    (folder / "transformer/diffusion.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"transformer/diffusion-1\.safetensors: missing, one of 2"):
        checks.refuse(copied)
    shutil.rmtree(folder / "vae")
    (folder / "transformer/diffusion.safetensors.index.json").unlink()
    with pytest.raises(UserError, match=r"model/vae: missing, though model_index\.json names it"):
        checks.refuse(copied)


def test_weights_are_whole_in_either_of_the_forms_that_diffusers_reads(
    copied: TrainSettings,
) -> None:
    file = Path(copied.backbone.path) / "vae/diffusion_pytorch_model.safetensors"
    pickled = file.rename(file.with_suffix(".bin"))
    checks.refuse(copied)
    pickled.unlink()
    with pytest.raises(UserError, match=r"model/vae: no \.safetensors in it"):
        checks.refuse(copied)


def test_a_reward_without_gradient_is_refused_with_a_direct_gradient_method_alone(
    settings: TrainSettings,
) -> None:
    gradless = with_training(settings, reward=Reward("unifiedreward-alignment", "nowhere", 5.0))
    with pytest.raises(UserError, match=r"unifiedreward-alignment has no gradient in the images"):
        prepare(gradless, "cpu")
    grouped = Method("baselines.dance_grpo:DanceGRPO", {"group": 2})
    refuse_gradless(dataclasses.replace(gradless, method=grouped))


def test_a_cache_that_cannot_be_written_is_a_warning_that_says_what_it_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert checks.cache().level == "ok"
    with read_only(tmp_path):
        found = checks.cache()
    assert found.level == "warning"
    assert "XDG_CACHE_HOME to a writable folder" in found.text


@pytest.mark.parametrize(("seconds", "told"), [(3600, "behind"), (-3600, "ahead")])
def test_a_clock_that_differs_from_the_disks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, told: str
) -> None:
    assert checks.writable("results", tmp_path).level == "ok"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + seconds)
    found = checks.writable("results", tmp_path)
    assert found.level == "warning"
    assert re.search(rf"clock is 3(600|599) s {told} .*one time server", found.text)


def test_a_disk_that_is_too_small_is_refused_before_the_work(tmp_path: Path) -> None:
    assert checks.disk(tmp_path / "results", 1e6).level == "ok"
    found = checks.disk(tmp_path / "results", 1e18)
    assert found.level == "refused"
    assert "1e+09 GB needed" in found.text


def test_the_kept_encodings_are_as_large_as_their_files(tmp_path: Path) -> None:
    run = resolve_run("leapalign", load_experiments().runs["leapalign"], "pocket", 0)
    assert run.train is not None
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo of a blue circle\na photo of a red ring\n", encoding="utf-8")
    few = dataclasses.replace(run, train=with_training(run.train, prompts=str(prompts)))
    path = run.train.backbone.path
    encoded = Flux.load(path, 64).encode(prompts.read_text(encoding="utf-8").splitlines())
    assert checks.encoded([few, few]) == encoded.tokens.nbytes
    grouped = Method("baselines.dance_grpo:DanceGRPO", {"group": 4})
    short = dataclasses.replace(
        with_training(run.train, prompts=str(prompts), iterations=1, batch=4), method=grouped
    )
    one = dataclasses.replace(run, train=short)
    assert checks.encoded([one]) == encoded.tokens.nbytes / 2


def test_a_training_needs_room_for_what_it_has_yet_to_write_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = resolve_run("leapalign", load_experiments().runs["leapalign"], "smoke", 0)
    assert run.train is not None
    size = checks.stored(
        Path(run.train.backbone.path) / "transformer/diffusion_pytorch_model.safetensors"
    )
    run = dataclasses.replace(run, train=with_training(run.train, iterations=10))
    every = {"leapalign": 4}  # after the fourth and the eighth iteration
    images = checks.written([run], tmp_path, {}) - (3 * 4 + 1) * 4 * size
    assert images > 0
    # Snapshots are copied from among the checkpoints to the results.
    watched = (3 * 4 + 1 + 2 * 2) * 4 * size + images
    assert checks.written([run], tmp_path, every) == watched
    narrow = dataclasses.replace(run.train, compute=Compute(precision="bfloat16"))
    half = dataclasses.replace(run, train=narrow)
    assert checks.written([half], tmp_path, every) == watched - 5 * 2 * size
    for kind, there in (("checkpoints/leapalign/seed0/a", 70), ("train/leapalign/seed0", 7)):
        (tmp_path / kind).mkdir(parents=True)
        (tmp_path / kind / "state").write_bytes(bytes(there))
    assert checks.written([run], tmp_path, every) == watched - 77
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (found,) = checks.disks([run], tmp_path, every)
    assert found.level == "ok"
    together = watched - 77 + checks.encoded([run])
    assert f": {together / 10**9:.3g} GB needed" in found.text


def test_a_file_of_weights_says_how_many_numbers_it_holds() -> None:
    file = Path("pocket/weights/base/transformer/diffusion_pytorch_model.safetensors")
    assert checks.stored(file) == sum(weight.numel() for weight in load_file(file).values())


def test_the_terms_of_a_base_models_licence_are_a_warning() -> None:
    found = checks.licence("weights/flux")
    assert found is not None
    assert (found.level, "no commercial use" in found.text) == ("warning", True)
    published = checks.licence("black-forest-labs/FLUX.1-dev")
    assert published is not None
    assert published.text == found.text
    assert checks.licence("weights/hpsv2").level == "ok"
    assert checks.licence("pocket/weights/base") is None


def test_a_machine_is_named_by_its_devices_and_their_memory() -> None:
    machine = named_machine("8x80")
    assert (len(machine.devices), machine.memory, machine.here) == (8, 80 * 10**9, False)
    with pytest.raises(UserError, match=r"--machine: `eight` must read DEVICESxGIGABYTES"):
        named_machine("eight")


def test_this_machine_has_its_ram(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAPALIGN_DEVICES", "")
    machine = this_machine()
    assert not machine.cuda
    assert 0 < machine.memory < machine.ram


def test_a_plan_has_a_row_a_training_and_says_why_one_cannot_be_made() -> None:
    runs = [
        resolve_run(run, load_experiments().runs[run], "smoke", 0)
        for run in ("base", "leapalign", "drtune")
    ]
    far = dataclasses.replace(runs[2].train, resolution=72)
    rows = list(plan([*runs[:2], dataclasses.replace(runs[2], train=far)], named_machine("2x80")))
    assert [row.run for row in rows] == ["leapalign", "drtune"]
    made, refused = rows
    assert made.settings.training.micro_batch == 4
    # Two iterations of four images: four steps each, two of them replayed.
    assert (made.cost.images, made.cost.evaluations) == (8, 8 * (4 + 3 * 2))
    assert "data sheet" in made.cost.basis
    assert "resolution: 72 is not a multiple of 16" in refused.refusal
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table(rows, named_machine("2x80")))
    text = console.export_text()
    assert "Trainings on 2 x H100, 80 GB" in text
    assert re.search(r"drtune .* refused", text)


def test_the_doctor_asks_what_config_yaml_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[dict] = []
    config = {"scale": "flux", "results": "elsewhere"}

    def load(config: dict) -> Suite:
        asked.append(config)
        return load_suite(config | {"scale": "smoke"})

    monkeypatch.setenv(HANDED_DOWN, "{}")
    monkeypatch.setattr(doctor, "read_yaml", lambda _: config)
    monkeypatch.setattr(doctor, "load_suite", load)
    for arguments in ([], ["--scale", "sd35"]):
        with pytest.raises(SystemExit):
            doctor.main([*arguments, "--machine", "1x80", "--runs", "leapaling"])
        error = capsys.readouterr().err
        assert "--runs: no `leapaling` at scale smoke; did you mean `leapalign`?" in error
    assert asked == [config, config | {"scale": "sd35"}]


def test_devices_that_nvidia_smi_does_not_list_are_torchs_to_tell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEAPALIGN_DEVICES", "MIG-0123")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H100 MIG 3g.40gb")
    slice_of = SimpleNamespace(total_memory=40 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: slice_of)
    assert this_machine().devices == (Device("H100 MIG 3g.40gb", 38 * 10**9),)
