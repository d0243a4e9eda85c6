"""A training that is watched: its snapshots' scores, and the larger images."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from eval.track import main, snapshots_in
from leapalign.errors import UserError
from leapalign.settings import (
    Backbone,
    Evaluation,
    GenerateSettings,
    ScoreSettings,
    TrackSettings,
)

COLOURFULNESS = "docs/examples/colourfulness.py"


@pytest.fixture
def settings(tmp_path: Path) -> TrackSettings:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red cube\na ball\n")
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")
    evaluation = Evaluation(str(prompts), 3, 3.5, images_per_prompt=1, batch=4, seed=5)
    backbone = Backbone("tests.eval.fakes:Backbone", str(base))
    generate = GenerateSettings("smoke", backbone, 4, evaluation)
    score = ScoreSettings("smoke", {f"{COLOURFULNESS}:Colourfulness": COLOURFULNESS}, None)
    return TrackSettings(generate, score, enlarged=8)


def snapshots(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_text("0.5")
    return folder


def test_every_snapshot_is_scored_on_every_prompt(settings: TrackSettings, tmp_path: Path) -> None:
    watched = snapshots(tmp_path / "s", "iteration-000002", "iteration-000010")
    folders = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    main(["--settings", settings.json(), "--snapshots", str(watched), *folders])
    progress = pd.read_csv(tmp_path / "out" / "progress.csv")
    assert progress["iteration"].tolist() == [2, 2, 10, 10]
    assert progress["prompt"].tolist() == ["a red cube", "a ball"] * 2
    assert set(progress["evaluator"]) == {"Colourfulness"}
    assert (progress["image_index"] == 0).all()
    assert progress["score"].notna().all()


def test_without_snapshots_there_are_the_larger_images_alone(
    settings: TrackSettings, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    main(
        [
            "--settings",
            settings.json(),
            "--snapshots",
            "--work",
            str(tmp_path / "w"),
            "--out",
            str(out),
        ]
    )
    progress = pd.read_csv(out / "progress.csv")
    assert progress.empty
    assert next(iter(progress)) == "iteration"
    described = json.loads((out / "enlarged.json").read_text())
    assert [sample["prompt"] for sample in described["samples"]] == ["a red cube", "a ball"]
    assert described["tile"] == [8, 8]
    assert Image.open(out / "enlarged.png").size == (16, 8)


def test_a_file_that_is_no_snapshot_is_named(tmp_path: Path) -> None:
    folder = snapshots(tmp_path / "s", "notes.txt")
    with pytest.raises(UserError, match=r"notes\.txt: no snapshot of a training; remove it"):
        snapshots_in(folder)
    assert snapshots_in(None) == {}
