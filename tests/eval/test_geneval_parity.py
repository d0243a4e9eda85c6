"""The official script's decisions on random detections, made by tests/parity/geneval_judge.py."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from eval.geneval import Options, judge
from eval.geneval.judge import kept
from eval.geneval.records import read_case

GOLDEN = Path(__file__).parents[1] / "golden" / "geneval_judge.jsonl"


def test_every_decision_and_its_reason_is_the_official_one() -> None:
    _, *lines = GOLDEN.read_text().splitlines()
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
