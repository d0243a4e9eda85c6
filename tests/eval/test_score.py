"""Scoring: one row an image, nothing lost, nothing computed twice, and faults named."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eval import scorers
from eval.geneval import summarize
from eval.manifest import read_manifest, write_manifest
from eval.score import main
from leapalign.settings import ScoreSettings
from tests.disks import no_room_for, read_only
from tests.eval import fakes

DETECTOR = "tests.eval.fakes:detect"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_text("2.0")
    return folder


@pytest.fixture(autouse=True)
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Use the stand-in reward; returns the prompts it is asked to score."""
    asked: list[str] = []

    class Spy(fakes.Reward):
        @classmethod
        def load(cls, path: Path, _device: torch.device) -> fakes.Reward:
            return cls(path)

        def rate(self, prepared: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
            asked.extend(prompts)
            return super().rate(prepared, prompts)

    monkeypatch.setattr(scorers, "load_reward", lambda _name, path, _device: Spy(Path(path)))
    scorers.weights_fingerprint.cache_clear()
    return asked


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def metric(name: str, weights: Path | str, images: Path, out: Path) -> list[str]:
    options = {"--metric": name, "--weights": weights, "--images": images, "--out": out}
    return [str(part) for option in options.items() for part in option]


def test_a_scales_evaluators_each_write_one_row_an_image(
    images: Path, weights: Path, tmp_path: Path
) -> None:
    out = tmp_path / "scores"
    settings = ScoreSettings("smoke", {"hpsv2": str(weights), "hpsv3": str(weights)}, DETECTOR)
    main(["--settings", settings.json(), "--images", str(images), "--out", str(out)])
    assert [float(row["score"]) for row in rows(out / "hpsv2.csv")] == [2.0, 0.0, 0.0]
    assert rows(out / "hpsv2.csv") == rows(out / "hpsv3.csv")
    assert rows(out / "geneval.csv")[1] == {
        "image": "00001.png",
        "prompt_index": "1",
        "image_index": "0",
        "prompt": "a green cube",
        "tag": "colors",
        "score": "0.0",
    }
    assert json.loads((out / "provenance.json").read_text())["settings_hash"] == settings.hash()


def test_geneval_writes_the_official_records(images: Path, tmp_path: Path) -> None:
    main(metric("geneval", DETECTOR, images, tmp_path / "geneval.csv"))
    records = [json.loads(line) for line in (tmp_path / "geneval.jsonl").read_text().splitlines()]
    assert records[0] == {
        "filename": "00000.png",
        "tag": "colors",
        "prompt": "a red cube",
        "correct": True,
        "reason": "",
        "metadata": json.dumps(read_manifest(images)[0].metadata),
        "details": '{"cube": [[0, 0, 2, 2, 0.95]]}',
    }
    assert records[1]["reason"] == "expected cube>=1, found 0"
    assert summarize(records)["overall"] == 0.33333


def test_a_score_keeps_every_digit(images: Path, weights: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(images / "00000.png")
    main(metric("hpsv2", weights, images, tmp_path / "out.csv"))
    mean = pixels.astype(np.float32).mean(axis=(0, 1))
    assert np.float32(rows(tmp_path / "out.csv")[0]["score"]) == np.float32(
        2 * mean[0] / mean.sum()
    )


def test_only_what_is_missing_is_scored(
    images: Path, weights: Path, tmp_path: Path, scored: list[str]
) -> None:
    out = tmp_path / "out.csv"
    main(metric("hpsv2", weights, images, out))
    first = rows(out)
    out.unlink()
    Image.new("RGB", (4, 4), "yellow").save(images / "00001.png")
    main(metric("hpsv2", weights, images, out))
    assert scored == ["a red cube", "a green cube", "a blue cube", "a green cube"]
    assert [float(row["score"]) for row in rows(out)] == [2.0, 1.0, 0.0]
    assert rows(out)[::2] == first[::2]


def test_a_full_disk_is_named_and_loses_no_score(
    images: Path, weights: Path, tmp_path: Path, scored: list[str], capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "scores"
    settings = ScoreSettings("smoke", {"hpsv2": str(weights)}, DETECTOR)
    command = ["--settings", settings.json(), "--images", str(images), "--out", str(out)]
    # Both journals fit, GenEval's official records do not.
    with no_room_for(800), pytest.raises(SystemExit) as end:
        main(command)
    assert end.value.code == 1
    assert f"error: File too large: {out / 'geneval.jsonl'}; raise" in capsys.readouterr().err
    assert len(scored) == 3
    main(command)
    assert len(scored) == 3
    assert [float(row["score"]) for row in rows(out / "hpsv2.csv")] == [2.0, 0.0, 0.0]


def test_a_read_only_folder_is_refused_before_any_score(
    images: Path, weights: Path, tmp_path: Path, scored: list[str], capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "scores"
    settings = ScoreSettings("smoke", {"hpsv2": str(weights)}, DETECTOR)
    with read_only(out), pytest.raises(SystemExit) as end:
        main(["--settings", settings.json(), "--images", str(images), "--out", str(out)])
    assert end.value.code == 1
    assert f"error: Permission denied: {out}; set `results:`" in capsys.readouterr().err
    assert scored == []


def test_other_weights_score_everything_again(
    images: Path, weights: Path, tmp_path: Path, scored: list[str]
) -> None:
    for scale in ("2.0", "3.0"):
        (weights / "model.safetensors").write_text(scale)
        scorers.weights_fingerprint.cache_clear()
        main(metric("hpsv2", weights, images, tmp_path / "out.csv"))
    assert len(scored) == 6
    assert float(rows(tmp_path / "out.csv")[0]["score"]) == 3.0


def test_a_half_written_journal_is_read_as_far_as_it_goes(
    images: Path, weights: Path, tmp_path: Path, scored: list[str]
) -> None:
    out, journal = tmp_path / "out.csv", tmp_path / "out.journal.jsonl"
    main(metric("hpsv2", weights, images, out))
    whole = out.read_text()
    journal.write_bytes(journal.read_bytes()[:-20])
    main(metric("hpsv2", weights, images, out))
    assert scored[3:] == ["a blue cube"]
    assert out.read_text() == whole


def test_a_score_that_is_not_finite_names_its_image_and_keeps_the_others(
    images: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture, scored: list[str]
) -> None:
    out = tmp_path / "out.csv"
    Image.new("RGB", (4, 4), "black").save(images / "00001.png")
    with np.errstate(invalid="ignore"), pytest.raises(SystemExit):
        main(metric("hpsv2", weights, images, out))
    assert f"{images / '00001.png'}: hpsv2 gave nan" in capsys.readouterr().err
    assert not out.exists()
    Image.new("RGB", (4, 4), "green").save(images / "00001.png")
    main(metric("hpsv2", weights, images, out))
    assert scored[6:] == ["a green cube"]  # after the batch of three, and each of its images alone
    assert [float(row["score"]) for row in rows(out)] == [2.0, 0.0, 0.0]


def test_a_scorer_that_raises_names_its_image(
    images: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rate(_self: object, prepared: torch.Tensor, _prompts: list[str]) -> torch.Tensor:
        if (prepared[:, 2] == 255).any():
            raise ValueError("too blue")
        return torch.zeros(len(prepared))

    monkeypatch.setattr(fakes.Reward, "rate", rate)
    with pytest.raises(SystemExit):
        main(metric("hpsv2", weights, images, tmp_path / "out.csv"))
    assert f"{images / '00002.png'}: hpsv2 failed: too blue" in capsys.readouterr().err


def test_a_wrong_number_of_scores_is_refused(
    images: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fakes.Reward, "score_prepared", lambda *_: torch.zeros(2))
    with pytest.raises(SystemExit):
        main(metric("hpsv2", weights, images, tmp_path / "out.csv"))
    assert "00000.png: hpsv2 failed: 2 scores for 3 images" in capsys.readouterr().err


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    deep = np.full((4, 4), 60_000, dtype=np.uint16)
    {
        "missing": path.unlink,
        "empty": lambda: path.write_bytes(b""),
        "truncated": lambda: path.write_bytes(data[:-20]),
        "flipped": lambda: path.write_bytes(data[:45] + bytes([data[45] ^ 1]) + data[46:]),
        "16-bit": lambda: Image.fromarray(deep).save(path),
    }[how]()


@pytest.mark.parametrize("how", ["missing", "empty", "truncated", "flipped", "16-bit"])
def test_a_bad_image_is_named_before_anything_is_scored(
    how: str,
    images: Path,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    scored: list[str],
) -> None:
    damage(images / "00002.png", how)
    with pytest.raises(SystemExit) as end:
        main(metric("hpsv2", weights, images, tmp_path / "out.csv"))
    assert end.value.code == 1
    assert str(images / "00002.png") in capsys.readouterr().err
    assert scored == []


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "LA", "1"])
def test_images_of_any_mode_are_scored(
    mode: str, images: Path, weights: Path, tmp_path: Path
) -> None:
    path = images / "00000.png"
    if mode == "CMYK":
        path.unlink()
        path = images / "00000.tif"
        first, *rest = read_manifest(images)
        write_manifest(images, [type(first)("00000.tif", *first_fields(first)), *rest])
    Image.new("RGB", (4, 4), "white").convert(mode).save(path)
    main(metric("hpsv2", weights, images, tmp_path / "out.csv"))
    assert float(rows(tmp_path / "out.csv")[0]["score"]) == pytest.approx(2 / 3)


def first_fields(sample: object) -> list[object]:
    return [getattr(sample, name) for name in type(sample).__slots__[1:]]


def test_a_folder_of_other_origin_takes_prompts_by_file_name(
    images: Path, weights: Path, tmp_path: Path
) -> None:
    (images / "manifest.jsonl").unlink()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red\ngreen\nblue\n")
    arguments = metric("hpsv2", weights, images, tmp_path / "out.csv")
    main([*arguments, "--prompts", str(prompts)])
    assert [row["prompt"] for row in rows(tmp_path / "out.csv")] == ["red", "green", "blue"]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [("red\ngreen\n", "3 images"), ("red\ngreen\nblue\npink\n", "4 prompts")],
)
def test_prompts_and_images_must_be_as_many(
    prompts: str, message: str, images: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    (images / "manifest.jsonl").unlink()
    refused_prompts(prompts, images, weights)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("prompts", ["a red cube\na blue cube\na green cube\n", "a red cube\n"])
def test_prompts_must_be_those_of_the_manifest(
    prompts: str, images: Path, weights: Path, capsys: pytest.CaptureFixture
) -> None:
    refused_prompts(prompts, images, weights)
    assert "00001.png shows 'a green cube'" in capsys.readouterr().err


def refused_prompts(prompts: str, images: Path, weights: Path) -> None:
    path = images.parent / "prompts.txt"
    path.write_text(prompts)
    arguments = metric("hpsv2", weights, images, images.parent / "out.csv")
    with pytest.raises(SystemExit):
        main([*arguments, "--prompts", str(path)])


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("pikscore", "w", "unknown evaluator `pikscore`; did you mean `pickscore`?"),
        ("hpsv2", "nowhere", "no weights at nowhere"),
        ("geneval", "tests.eval.fakes:detekt", "did you mean `detect`?"),
    ],
)
def test_an_unusable_evaluator_is_named(
    name: str,
    weights: str,
    message: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    with pytest.raises(SystemExit):
        main(metric(name, weights, images, tmp_path / "out.csv"))
    assert message in capsys.readouterr().err


def test_geneval_needs_metadata(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (images / "manifest.jsonl").unlink()
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red\ngreen\nblue\n")
    arguments = metric("geneval", DETECTOR, images, tmp_path / "out.csv")
    with pytest.raises(SystemExit):
        main([*arguments, "--prompts", str(prompts)])
    assert "00000.png: no GenEval metadata (tag: Field required)" in capsys.readouterr().err
