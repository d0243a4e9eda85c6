"""The command line judges and summarises files in the official formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.geneval import summarize
from eval.geneval.__main__ import main

GOOD = {
    "metadata": {"tag": "counting", "include": [{"class": "cube", "count": 1}], "prompt": "a cube"},
    "detections": [{"label": "cube", "box": [0, 0, 1, 1], "score": 0.5, "color": None}],
    "options": {"counting_threshold": 0.4},
}


def record(tag: str, correct: bool, prompt: str) -> dict[str, Any]:
    return {"tag": tag, "correct": correct, "metadata": json.dumps({"prompt": prompt})}


RECORDS = [
    record("position", False, "a"),
    record("position", True, "a"),
    record("position", False, "b"),
    record("colors", True, "c"),
]


def write(path: Path, *lines: str) -> str:
    path.write_text("".join(line + "\n" for line in lines))
    return str(path)


def edited(*path: str | int, value: object) -> str:
    case = json.loads(json.dumps(GOOD))
    place = case
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(case)


def test_judge_prints_a_verdict_a_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    default = {key: GOOD[key] for key in ("metadata", "detections")}
    main(["judge", write(tmp_path / "cases.jsonl", json.dumps(GOOD), json.dumps(default))])
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"correct": True, "reason": ""},
        {"correct": False, "reason": "expected cube>=1, found 0"},
    ]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("", "json_invalid"),
        ('{"metadata": ', "json_invalid"),
        ("[]", "dict_type"),
        ('{"metadata": {"include": []}, "detections": []}', "missing"),
        (edited("metadata", "include", 0, "position", value=["above", 0]), "forward_reference"),
        (edited("metadata", "include", 0, "position", value=["near", 0]), "literal_error"),
        (edited("metadata", "include", 0, "count", value=True), "int_type"),
        (edited("detections", 0, "box", value=[0, 0, 1]), "missing"),
        (edited("detections", 0, "score", value=float("nan")), "finite_number"),
        (edited("detections", 0, "score", value="0.5"), "float_type"),
        (edited("options", "treshold", value=0.5), "unexpected_keyword_argument"),
    ],
)
def test_a_bad_line_is_reported_and_the_rest_judged(
    line: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["judge", write(tmp_path / "cases.jsonl", line, json.dumps(GOOD))])
    assert end.value.code == 1
    bad, good = (json.loads(text) for text in capsys.readouterr().out.splitlines())
    assert bad == {"error": kind, "line": 1}
    assert good["correct"] is True


def test_the_summary_is_the_official_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    lines = [json.dumps(one) for one in RECORDS]
    main(["summarize", write(tmp_path / "results.jsonl", *lines), "--json"])
    assert json.loads(capsys.readouterr().out) == {
        "total_images": 4,
        "total_prompts": 3,
        "pct_correct_images": 50.0,
        "pct_correct_prompts": 66.67,
        "overall": 0.66667,
        "tasks": {
            "position": {"pct": 33.33, "correct": 1, "total": 3},
            "colors": {"pct": 100.0, "correct": 1, "total": 1},
        },
    }


def test_the_summary_as_text(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    main(["summarize", write(tmp_path / "r.jsonl", *[json.dumps(one) for one in RECORDS])])
    printed = capsys.readouterr().out
    assert "% correct prompts: 66.67%" in printed
    assert "position         = 33.33% (1 / 3)" in printed
    assert "Overall score (avg. over tasks): 0.66667" in printed


def test_metadata_may_be_text_or_an_object() -> None:
    as_object = [one | {"metadata": json.loads(one["metadata"])} for one in RECORDS]
    assert summarize(as_object) == summarize(RECORDS)


@pytest.mark.parametrize("line", ["{}", "[1]", "no json", '{"tag": "a", "correct": true}'])
def test_a_bad_result_names_its_line(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["summarize", write(tmp_path / "r.jsonl", json.dumps(RECORDS[0]), line)])
    assert end.value.code == 1
    assert "line 2" in capsys.readouterr().err


def test_no_result_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["summarize", write(tmp_path / "empty.jsonl")])
    assert "no result in it" in capsys.readouterr().err
