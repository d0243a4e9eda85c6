"""The ledger holds what was measured, whole, and nothing that does not fit together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from eval.ledger import main
from eval.manifest import read_manifest


@pytest.fixture
def stages(images: Path, tmp_path: Path) -> dict[str, Path]:
    """The finished stages of a run: images, scores of two evaluators, a training."""
    scores, train = tmp_path / "scores", tmp_path / "train"
    scores.mkdir()
    train.mkdir()
    samples = read_manifest(images)
    for offset, name in enumerate(("geneval", "hpsv2")):
        table = pd.DataFrame(
            {
                "image": [sample.image for sample in samples],
                "prompt_index": [sample.prompt_index for sample in samples],
                "image_index": 0,
                "prompt": [sample.prompt for sample in samples],
                "tag": "",
                "score": [offset + n / 3 for n in range(3)],
            }
        )
        table.to_csv(scores / f"{name}.csv", index=False)
    log = [{"iteration": n, "reward": n / 3, "d_j": None} for n in range(2)]
    (train / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    folders = {"images": images, "scores": scores, "train": train}
    for name, folder in folders.items():
        (folder / "provenance.json").write_text(json.dumps({"of": name}))
    return folders


def arguments(folders: dict[str, Path], out: Path) -> list[str]:
    options = [part for name, folder in folders.items() for part in (f"--{name}", str(folder))]
    return [*options, "--out", str(out)]


def test_the_ledger_of_a_trained_run(stages: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "ledger"
    main(arguments(stages, out))
    scores = pd.read_csv(out / "scores.csv")
    assert scores.groupby("evaluator")["score"].apply(list).to_dict() == {
        "geneval": [0, 1 / 3, 2 / 3],
        "hpsv2": [1, 1 + 1 / 3, 1 + 2 / 3],
    }
    train = pd.read_csv(out / "train.csv")
    assert train["reward"].tolist() == [0, 1 / 3]
    assert train["d_j"].isna().all()
    assert json.loads((out / "provenance.json").read_text()) == {
        "train": {"of": "train"},
        "generate": {"of": "images"},
        "score": {"of": "scores"},
    }


def test_the_base_has_no_training(stages: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "ledger"
    del stages["train"]
    main(arguments(stages, out))
    assert not (out / "train.csv").exists()
    assert set(json.loads((out / "provenance.json").read_text())) == {"generate", "score"}


def test_the_contact_sheet_shows_each_prompts_first_image(
    stages: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "ledger"
    main(arguments(stages, out))
    shown = json.loads((out / "samples.json").read_text())["samples"]
    assert [one["prompt"] for one in shown] == ["a red cube", "a green cube", "a blue cube"]
    sheet = Image.open(out / "samples.png")
    colors = [sheet.crop(one["box"]).getcolors() for one in shown]
    assert colors == [[(16, color)] for color in ((255, 0, 0), (0, 128, 0), (0, 0, 255))]


def test_a_short_contact_sheet_spans_all_prompts(
    stages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.ledger.SHOWN", 2)
    out = tmp_path / "ledger"
    main(arguments(stages, out))
    shown = json.loads((out / "samples.json").read_text())["samples"]
    assert [one["prompt"] for one in shown] == ["a red cube", "a blue cube"]


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        ("scores/hpsv2.csv", "image,score\n00000.png,1.0\n", "not the images of the manifest"),
        ("scores/provenance.json", None, "run that stage again"),
        ("scores/provenance.json", "{", "run that stage again"),
        ("train/log.jsonl", '{"iteration": 0}\n{"iter', "train the run again"),
        ("images/manifest.jsonl", None, "generate the images first"),
    ],
)
def test_a_stage_that_does_not_fit_is_named(
    place: str,
    content: str | None,
    message: str,
    stages: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    stage, file = place.split("/")
    path = stages[stage] / file
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(SystemExit):
        main(arguments(stages, tmp_path / "ledger"))
    printed = capsys.readouterr().err
    assert str(path) in printed
    assert message in printed


def test_ledger_and_statistics_need_no_torch() -> None:
    code = "import sys, eval.ledger, eval.stats; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
