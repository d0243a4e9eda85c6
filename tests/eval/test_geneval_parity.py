"""The official scripts' decisions and summary, and their files read by ours and ours by them.

The golden files were made by tests/parity/geneval/judge.py and tests/parity/geneval/summary.py.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.geneval import Options, judge, summarize
from eval.geneval.__main__ import main
from eval.geneval.judge import kept
from eval.geneval.records import read_case
from eval.score import main as score

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"


def test_every_decision_and_its_reason_is_the_official_one() -> None:
    _, *lines = (GOLDEN / "geneval_judge.jsonl").read_text().splitlines()
    verdicts = Counter()
    for number, line in enumerate(lines, start=2):
        golden = json.loads(line)
        official = golden.pop("official")
        case = read_case(json.dumps(golden))
        metadata, detections = case["metadata"], case["detections"]
        verdict = judge(metadata, detections, case.get("options"))
        assert verdict._asdict() == {key: official[key] for key in ("correct", "reason")}, number
        seen = kept(metadata["tag"], detections, case.get("options") or Options())
        counts = {label: len(objects) for label, objects in json.loads(official["details"]).items()}
        assert {label: len(ranked) for label, ranked in seen.items() if ranked} == counts, number
        verdicts[verdict.correct] += 1
    assert min(verdicts.values()) > 50


def test_the_summary_of_official_results_is_the_official_text(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    about, *lines = (GOLDEN / "geneval_summary.jsonl").read_text().splitlines()
    (tmp_path / "results.jsonl").write_text("\n".join(lines) + "\n")
    main(["summarize", str(tmp_path / "results.jsonl")])
    assert capsys.readouterr().out == json.loads(about)["summary"]


def test_our_results_are_read_as_the_official_summary_reads_them(
    images: Path, tmp_path: Path
) -> None:
    out = tmp_path / "geneval.csv"
    arguments = {"--weights": "tests.eval.fakes:detect", "--images": images, "--out": out}
    options = [str(part) for option in arguments.items() for part in option]
    score(["--metric", "geneval", *options])
    ours = out.with_suffix(".jsonl")
    table = pd.read_json(ours, orient="records", lines=True)
    official = json.loads((GOLDEN / "geneval_summary.jsonl").read_text().splitlines()[1])
    assert list(table.columns) == list(official)
    assert table["correct"].dtype == bool
    summary = summarize(map(json.loads, ours.read_text().splitlines()))
    assert summary["total_prompts"] == len(table.groupby("metadata"))
    assert summary["pct_correct_images"] == float(f"{100 * table['correct'].mean():.2f}")
    shares = [task["correct"].mean() for _, task in table.groupby("tag", sort=False)]
    assert summary["overall"] == float(f"{np.mean(shares):.5f}")
    for text in table["details"]:
        for boxes in json.loads(text).values():
            assert {len(box) for box in boxes} == {5}
