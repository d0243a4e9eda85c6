"""Any folder of images with any prompts gets the official scores, or an error naming the file."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from eval.score import main
from leapalign.rewards import load_reward
from tests.parity.cases import EXIF_ORIENTATION, PROMPTS, in_mode, picture

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "pocket" / "weights"
COMMIT = "0" * 40
PROMPTS_OF_EIGHT = [f"a photo of {n} stars" for n in range(8)]
TRAINING = {
    "leapalign.train",
    "leapalign.training",
    "leapalign.problem",
    "leapalign.method",
    "leapalign.surrogate",
}


def arguments(metric: str, folder: Path) -> list[str]:
    """The command line for FOLDER/images and FOLDER/prompts.txt, into FOLDER/out.csv."""
    options = {
        "--metric": metric,
        "--weights": WEIGHTS / metric,
        "--images": folder / "images",
        "--prompts": folder / "prompts.txt",
        "--out": folder / "out.csv",
    }
    return [str(part) for option in options.items() for part in option]


def scores(folder: Path) -> list[float]:
    with (folder / "out.csv").open(newline="", encoding="utf-8") as file:
        return [float(row["score"]) for row in csv.DictReader(file)]


def write_prompts(folder: Path, *texts: str) -> None:
    (folder / "prompts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """FOLDER/images with one image of each mode that is scored, named in their order."""
    (tmp_path / "images").mkdir()
    turned = Image.Exif()
    turned[EXIF_ORIENTATION] = 6
    saved = {
        "0-rgb.png": (picture("64x64"), {}),
        "1-grey.jpg": (in_mode(picture("90x60"), "L"), {}),
        "2-alpha.png": (in_mode(picture("64x64"), "RGBA"), {}),
        "3-ink.tif": (in_mode(picture("65x63"), "CMYK"), {}),
        "4-turned.jpg": (picture("80x64"), {"exif": turned}),
        "5-palette.png": (in_mode(picture("30x50"), "P"), {"transparency": 3}),
        "6-bit.bmp": (in_mode(picture("77x64"), "1"), {}),
        "7-web.webp": (picture("64x64"), {"lossless": True}),
    }
    for name, (image, options) in saved.items():
        image.save(tmp_path / "images" / name, **options)
    write_prompts(tmp_path, *(f"a red star {n}" for n in range(len(saved))))
    return tmp_path


@pytest.mark.parametrize("metric", ["hpsv2", "pickscore", "hpsv3"])
def test_every_mode_scores_as_the_official_path_does(metric: str, folder: Path) -> None:
    main(arguments(metric, folder))
    reward = load_reward(metric, WEIGHTS / metric)
    expected = []
    for n, file in enumerate(sorted((folder / "images").iterdir())):
        with Image.open(file) as image:
            expected.append(reward.score_pil([image], [f"a red star {n}"]).item())
    assert scores(folder) == pytest.approx(expected, abs=1e-4)


def test_the_command_imports_no_training_code(folder: Path) -> None:
    code = (
        "import runpy, sys; runpy.run_module('eval.score', run_name='__main__', alter_sys=True); "
        f"loaded = {TRAINING!r} | {{'baselines', 'pocket', 'paper'}}; "
        "sys.exit(sorted(loaded & set(sys.modules)) or 0)"
    )
    command = [sys.executable, "-c", code, *arguments("pickscore", folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(scores(folder)) == 8


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b""), "not a readable image"),
        (lambda path: path.write_bytes(path.read_bytes()[:400]), "not a readable image"),
        (lambda path: path.write_bytes(b"GIF89a, they say"), "not a readable image"),
        (lambda path: in_mode(picture("64x64"), "I;16").save(path, "png"), "8 bits a channel"),
    ],
    ids=["zero-byte", "truncated", "no image", "16-bit"],
)
def test_a_bad_image_is_named_and_the_others_are_scored_once(
    damage, reason: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    bad = folder / "images" / "1-grey.jpg"
    whole = bad.read_bytes()
    damage(bad)
    with pytest.raises(SystemExit) as end:
        main(arguments("pickscore", folder))
    assert end.value.code == 1
    assert f"{bad}: " in (said := capsys.readouterr().err)
    assert reason in said
    bad.write_bytes(whole)
    main(arguments("pickscore", folder))
    assert len(scores(folder)) == 8


def test_a_jpeg_that_breaks_off_costs_no_other_score(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    bad = folder / "images" / "4-turned.jpg"
    bad.write_bytes(bad.read_bytes()[:-300])
    with pytest.raises(SystemExit):
        main(arguments("pickscore", folder))
    said = capsys.readouterr().err
    assert f"{bad}: not a readable image" in said
    assert "finished scores are kept" in said
    assert len((folder / "out.journal.jsonl").read_text().splitlines()) == 7


TEXTS = {name: text.strip() for name, text in PROMPTS.items() if text and "\n" not in text}


@pytest.mark.parametrize("metric", ["hpsv2", "pickscore"])
def test_prompts_reach_the_scorer_as_they_are(metric: str, folder: Path) -> None:
    for file in (folder / "images").iterdir():
        file.unlink()
    for n in range(len(TEXTS)):
        picture("64x64").save(folder / "images" / f"{n:02}.png")
    write_prompts(folder, *TEXTS.values())
    main(arguments(metric, folder))
    reward = load_reward(metric, WEIGHTS / metric)
    expected = reward.score_pil([picture("64x64")] * len(TEXTS), list(TEXTS.values()))
    assert scores(folder) == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize("token", ["<|Reward|>", "<|image_pad|>"])
def test_a_prompt_that_hpsv3_would_obey_is_named_and_the_others_are_scored(
    token: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    texts = [f"a red star {n}" for n in range(8)]
    write_prompts(folder, *texts[:3], f"a {token}", *texts[4:])
    with pytest.raises(SystemExit):
        main(arguments("hpsv3", folder))
    said = capsys.readouterr().err
    assert f"{folder / 'images' / '3-ink.tif'}: hpsv3: the prompt contains {token}" in said
    journal = folder / "out.journal.jsonl"
    kept = journal.read_text().splitlines()
    assert len(kept) == 7
    write_prompts(folder, *texts)
    main(arguments("hpsv3", folder))
    assert len(scores(folder)) == 8
    assert journal.read_text().splitlines()[:7] == kept


def test_an_empty_prompt_is_named_by_its_line(folder: Path, capsys: pytest.CaptureFixture) -> None:
    write_prompts(folder, "a", "b", "", "d", "e", "f", "g", "h")
    with pytest.raises(SystemExit):
        main(arguments("pickscore", folder))
    assert f"{folder / 'prompts.txt'}, line 3: empty" in capsys.readouterr().err


def test_a_prompt_may_stand_for_several_images(folder: Path) -> None:
    write_prompts(folder, *["a photo of a star"] * 8)
    main(arguments("hpsv2", folder))
    assert len(scores(folder)) == 8


@pytest.fixture
def hub_cache(tmp_path: Path) -> Path:
    """A hub cache in which owner/name is the pocket PickScore, as a download leaves it."""
    model = tmp_path / "hub" / "models--owner--name"
    (model / "snapshots").mkdir(parents=True)
    (model / "snapshots" / COMMIT).symlink_to(WEIGHTS / "pickscore")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    return tmp_path / "hub"


@pytest.mark.parametrize(("name", "code"), [("owner/name", 0), ("owner/other", 1)])
def test_weights_may_be_a_hub_id(name: str, code: int, folder: Path, hub_cache: Path) -> None:
    write_prompts(folder, *PROMPTS_OF_EIGHT)
    command = arguments("pickscore", folder)
    command[command.index("--weights") + 1] = name
    done = subprocess.run(
        [sys.executable, "-m", "eval.score", *command],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_CACHE": str(hub_cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    if code:
        assert done.stderr.startswith("error: owner/other: no such folder, and the hub's model")
        assert "Traceback" not in done.stderr
        return
    found = scores(folder)
    (folder / "out.journal.jsonl").unlink()
    main(arguments("pickscore", folder))
    assert found == scores(folder)
