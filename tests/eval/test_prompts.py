"""The paper's prompts from their sources: complete, apart from each other, fixed, on record."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from eval import prompts
from eval.geneval.prompts import OFFICIAL_SHA256
from eval.prompts import main
from leapalign import registry
from leapalign.data import read_prompts

ODD = ["a “quoted” cat", "rain &amp; snow", "two\nlines", "\u2028 and <|image_pad|>", "  cat  "]


@pytest.fixture(autouse=True)
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Small files in the published forms; the sizes asked for are as small."""
    monkeypatch.chdir(tmp_path)
    for size, value in {"HPDV2_TEST": 4, "HPDV2_TRAIN": 30, "MJHQ_TEST": 5}.items():
        monkeypatch.setattr(prompts, size, value)
    folder = tmp_path / "prompts" / "sources"
    rows = [{"prompt": f"test {n % 4}", "image_path": [], "rank": []} for n in range(6)]
    save(folder / "hpdv2" / "test.json", rows)
    texts = [*ODD, *(f"train {n}" for n in range(60)), "test 1", "train 7", " "]
    save(
        folder / "hpdv2" / "train.json",
        [{"prompt": text, "human_preference": [1, 0], "file_path": []} for text in texts],
    )
    images = {f"{n:02}": {"category": "food", "prompt": f"image {n % 20}"} for n in range(22)}
    save(folder / "mjhq" / "meta_data.json", images)
    return folder


def save(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def texts(name: str) -> list[str]:
    return [prompt.text for prompt in read_prompts(f"prompts/{name}.jsonl")]


def test_every_set_is_written_and_read_as_any_file_of_prompts() -> None:
    main([])
    assert texts("hpdv2_test") == ["test 0", "test 1", "test 2", "test 3"]
    assert len(texts("hpdv2_train")) == 30
    assert not set(texts("hpdv2_train")) & set(texts("hpdv2_test"))
    assert len(texts("mjhq_test")) == 5
    assert sorted([*texts("mjhq_test"), *texts("mjhq_train")]) == sorted(
        f"image {n}" for n in range(20)
    )
    assert len(texts("geneval")) == 553
    assert len(read_prompts("prompts/geneval_train.jsonl", repeats=True)) == 50_000


def test_odd_prompts_keep_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "HPDV2_TRAIN", len(ODD) + 60)
    main(["hpdv2_train"])
    assert texts("hpdv2_train")[: len(ODD)] == [odd.strip() for odd in ODD]


def test_a_sample_is_fixed() -> None:
    main(["hpdv2_train"])
    first = texts("hpdv2_train")
    Path("prompts/hpdv2_train.jsonl").unlink()
    random.seed(1)
    main(["hpdv2_train"])
    assert texts("hpdv2_train") == first


def test_the_record_says_what_each_was_made_from(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "LOCK", tmp_path / "lock.json")
    commits = {"playgroundai/MJHQ-30K": "c" * 40}
    registry.LOCK.write_text(json.dumps({"mjhq": {"revisions": commits}}))
    main(["geneval"])
    main(["mjhq_test"])
    record = json.loads(Path("prompts/record.json").read_text())
    assert record["geneval"]["sha256"] == OFFICIAL_SHA256
    assert record["geneval"]["prompts"] == 553
    made = record["mjhq_test"]
    digest = hashlib.sha256((sources / "mjhq" / "meta_data.json").read_bytes()).hexdigest()
    assert made["sources"] == {"meta_data.json": digest}
    assert made["revisions"] == commits
    written = Path("prompts/mjhq_test.jsonl").read_bytes()
    assert made["sha256"] == hashlib.sha256(written).hexdigest()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "train.json: missing; get it with `snakemake --cores 1 fetch_weights"),
        ("{", "train.json: not the file that was published"),
        ('{"a": 1}', "train.json: not the file that was published"),
        ('[{"text": "a"}]', "train.json: not the file that was published"),
        ('[{"prompt": 3}]', "train.json: not the file that was published"),
        ('[{"prompt": "a"}]', "train.json: has 1 different prompts, 30 are needed"),
    ],
)
def test_a_bad_source_is_named(
    content: str | None, message: str, sources: Path, capsys: pytest.CaptureFixture
) -> None:
    path = sources / "hpdv2" / "train.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(SystemExit):
        main(["hpdv2_train"])
    assert message in capsys.readouterr().err


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["hpdv2"])
    assert "no prompts `hpdv2`; did you mean `hpdv2_" in capsys.readouterr().err
