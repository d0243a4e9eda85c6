"""Generation: the same noise for every run and batch, resumable, and never mixed."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor

from eval.generate import generate, main, planned, to_pil
from eval.manifest import read_manifest
from leapalign.errors import UserError
from leapalign.settings import Backbone, Evaluation, GenerateSettings
from tests import tolerances
from tests.disks import no_room_for, read_only
from tests.eval import fakes


@pytest.fixture
def settings(tmp_path: Path) -> GenerateSettings:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red cube\na ball\nthree green cones\n")
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")
    evaluation = Evaluation(str(prompts), 3, 3.5, images_per_prompt=2, batch=4, seed=5)
    return GenerateSettings(
        "smoke", Backbone("tests.eval.fakes:Backbone", str(base)), 4, evaluation
    )


def pixels(folder: Path) -> dict[str, bytes]:
    return {path.name: np.asarray(Image.open(path)).tobytes() for path in folder.glob("*.png")}


def test_every_prompt_gets_its_images(settings: GenerateSettings, tmp_path: Path) -> None:
    generate(settings, None, tmp_path / "out")
    samples = read_manifest(tmp_path / "out")
    assert [(one.image, one.prompt_index, one.image_index, one.seed) for one in samples] == [
        (f"{n:05d}.png", n // 2, n % 2, 5) for n in range(6)
    ]
    assert len(set(pixels(tmp_path / "out").values())) == 6


def test_images_are_those_that_diffusers_makes_of_the_same_pixels() -> None:
    images = torch.rand(3, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    stock = VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(images))
    assert [image.tobytes() for image in to_pil(images)] == [image.tobytes() for image in stock]


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_the_batch_does_not_change_an_image(
    batch: int, settings: GenerateSettings, tmp_path: Path
) -> None:
    generate(settings, None, tmp_path / "one")
    other = replace(settings, evaluation=replace(settings.evaluation, batch=batch))
    generate(other, None, tmp_path / "other")
    assert pixels(tmp_path / "one") == pixels(tmp_path / "other")


def test_an_image_is_the_same_whatever_else_is_made(
    settings: GenerateSettings, tmp_path: Path
) -> None:
    generate(settings, None, tmp_path / "all")
    few = replace(settings, evaluation=replace(settings.evaluation, images_per_prompt=1, limit=2))
    generate(few, None, tmp_path / "few")
    everything, first = pixels(tmp_path / "all"), pixels(tmp_path / "few")
    assert first == {
        "00000.png": everything["00000.png"],
        "00001.png": everything["00002.png"],
    }


def test_flux_makes_the_same_image_in_any_batch(
    settings: GenerateSettings, tiny_flux_folder: Path, tmp_path: Path
) -> None:
    flux = Backbone("leapalign.backbones.flux:Flux", str(tiny_flux_folder))
    settings = replace(settings, backbone=flux, resolution=64)
    for batch, name in ((1, "one"), (6, "all")):
        evaluation = replace(settings.evaluation, batch=batch)
        generate(replace(settings, evaluation=evaluation), None, tmp_path / name)
    for image in planned(settings.evaluation):
        pair = (Image.open(tmp_path / name / image.image) for name in ("one", "all"))
        one, other = (np.asarray(image, dtype=int) for image in pair)
        assert one.std() > 0
        assert np.abs(one - other).max() <= tolerances.PIXEL_LEVEL


def test_a_bfloat16_transformer_makes_nearly_the_same_images(
    settings: GenerateSettings, tiny_flux_folder: Path, tmp_path: Path
) -> None:
    flux = Backbone("leapalign.backbones.flux:Flux", str(tiny_flux_folder))
    settings = replace(settings, backbone=flux, resolution=64)
    for precision in ("float32", "bfloat16"):
        generate(replace(settings, precision=precision), None, tmp_path / precision)
    one, other = (
        np.stack([np.asarray(Image.open(path), dtype=int) for path in sorted(folder.glob("*.png"))])
        for folder in (tmp_path / "float32", tmp_path / "bfloat16")
    )
    assert (one != other).any()
    assert np.abs(one - other).mean() < tolerances.BFLOAT16_PIXELS * one.std()


def test_only_missing_images_are_made(settings: GenerateSettings, tmp_path: Path) -> None:
    out = tmp_path / "out"
    generate(settings, None, out)
    whole = pixels(out)
    kept = (out / "00001.png").stat().st_mtime_ns
    (out / "00004.png").unlink()
    (out / "manifest.jsonl").unlink()
    generate(settings, None, out)
    assert pixels(out) == whole
    assert (out / "00001.png").stat().st_mtime_ns == kept
    assert len(read_manifest(out)) == 6


def test_a_complete_folder_loads_no_model(settings: GenerateSettings, tmp_path: Path) -> None:
    generate(settings, None, tmp_path / "out")
    before = fakes.Backbone.loaded
    generate(settings, None, tmp_path / "out")
    assert fakes.Backbone.loaded == before


def test_other_settings_or_weights_replace_every_image(
    settings: GenerateSettings, tmp_path: Path
) -> None:
    out, weights = tmp_path / "out", tmp_path / "transformer.safetensors"
    generate(settings, None, out)
    base = pixels(out)
    weights.write_text("1.5")
    generate(settings, weights, out)
    assert all(base[name] != image for name, image in pixels(out).items())
    fewer = replace(settings, evaluation=replace(settings.evaluation, images_per_prompt=1))
    generate(fewer, None, out)
    assert sorted(pixels(out)) == ["00000.png", "00001.png", "00002.png"]


def test_weights_that_make_no_image_are_refused(settings: GenerateSettings, tmp_path: Path) -> None:
    weights = tmp_path / "transformer.safetensors"
    weights.write_text("nan")
    with pytest.raises(UserError, match="not finite"):
        generate(settings, weights, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.jsonl").exists()


def test_an_interrupted_job_leaves_whole_images_only(
    settings: GenerateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, save = tmp_path / "out", Image.Image.save

    def failing(image: Image.Image, path: Path) -> None:
        save(image, path)
        if path.name.endswith("00003.png"):
            path.write_bytes(path.read_bytes()[:20])
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", failing)
    with pytest.raises(KeyboardInterrupt):
        generate(settings, None, out)
    assert sorted(path.name for path in out.iterdir()) == [
        *(f"{n:05d}.png" for n in (0, 1, 2, 4, 5)),
        "fingerprint.txt",
    ]
    assert all(len(image) == 4 * 4 * 3 for image in pixels(out).values())


def test_a_batch_is_sampled_while_the_one_before_is_written(
    settings: GenerateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no third one begins before the first is written: memory holds two."""
    out, save, latents = tmp_path / "out", Image.Image.save, fakes.Backbone.latents
    begun: list[set[str]] = []  # for each batch, the images that there were when it began
    second = threading.Event()

    def sampling(self: fakes.Backbone, generators: Sequence[torch.Generator]) -> Tensor:
        begun.append({path.name for path in out.glob("[0-9]*.png")})
        if len(begun) == 2:
            second.set()
        return latents(self, generators)

    def writing(image: Image.Image, path: Path) -> None:
        assert second.wait(timeout=60)
        save(image, path)

    monkeypatch.setattr(fakes.Backbone, "latents", sampling)
    monkeypatch.setattr(Image.Image, "save", writing)
    generate(replace(settings, evaluation=replace(settings.evaluation, batch=2)), None, out)
    assert begun[:2] == [set(), set()]
    assert begun[2] >= {"00000.png", "00001.png"}
    assert len(begun) == 3


def test_an_image_that_cannot_be_written_is_named(
    settings: GenerateSettings, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with no_room_for(70), pytest.raises(OSError, match="File too large") as error:
        generate(settings, None, out)
    assert error.value.filename == str(out / "00000.png")
    assert [path.name for path in out.iterdir()] == ["fingerprint.txt"]


def test_images_that_were_sampled_are_kept_when_the_next_batch_fails(
    settings: GenerateSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, latents = tmp_path / "out", fakes.Backbone.latents

    def failing(self: fakes.Backbone, generators: Sequence[torch.Generator]) -> Tensor:
        if len(generators) < settings.evaluation.batch:
            raise torch.OutOfMemoryError
        return latents(self, generators)

    monkeypatch.setattr(fakes.Backbone, "latents", failing)
    with pytest.raises(torch.OutOfMemoryError):
        generate(settings, None, out)
    assert sorted(pixels(out)) == [f"{n:05d}.png" for n in range(4)]
    assert not (out / "manifest.jsonl").exists()


def test_a_full_disk_is_named_and_loses_no_image(
    settings: GenerateSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--settings", settings.json(), "--out", str(tmp_path / "out")]
    with no_room_for(200), pytest.raises(SystemExit) as end:  # an image fits, the manifest does not
        main(command)
    assert end.value.code == 1
    manifest = tmp_path / "out" / "manifest.jsonl"
    assert f"error: File too large: {manifest}; raise the limit" in capsys.readouterr().err
    before = fakes.Backbone.loaded
    main(command)
    assert fakes.Backbone.loaded == before
    assert len(pixels(tmp_path / "out")) == 6


def test_a_read_only_folder_is_refused_before_any_work(
    settings: GenerateSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = fakes.Backbone.loaded
    with read_only(tmp_path / "out"), pytest.raises(SystemExit) as end:
        main(["--settings", settings.json(), "--out", str(tmp_path / "out")])
    assert end.value.code == 1
    assert f"error: Permission denied: {tmp_path / 'out'}; set" in capsys.readouterr().err
    assert fakes.Backbone.loaded == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb\n", "line 2"),
        (b"a\nb\na\n", "line 3"),
        (b"caf\xe9\n", "UTF-8"),
        (b"", "no prompts"),
    ],
)
def test_a_bad_prompts_file_is_named(
    content: bytes, message: str, settings: GenerateSettings
) -> None:
    prompts = Path(settings.evaluation.prompts)
    prompts.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        planned(settings.evaluation)
    assert str(prompts) in str(error.value)


def test_the_command_line_records_provenance(settings: GenerateSettings, tmp_path: Path) -> None:
    main(["--settings", settings.json(), "--out", str(tmp_path / "out")])
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["settings_hash"] == settings.hash()
    assert provenance["weights"]["base"].keys() == {"model.safetensors"}


def test_missing_weights_are_named_before_any_work(
    settings: GenerateSettings, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        main(["--settings", settings.json(), "--transformer", "none.pt", "--out", str(out)])
    assert "none.pt: no such weights; train the run first" in capsys.readouterr().err
    assert not out.exists()
