"""Our scorers give what the official code gave on the same checkpoints, images and prompts."""

import pytest

from tests import tolerances
from tests.parity.compare import DEVIATIONS, GOLDEN, METRICS, compare


@pytest.mark.parametrize("metric", METRICS)
def test_scores_are_the_official_ones(metric):
    parity = compare(metric)
    assert len(parity.compared) >= 50
    assert max(parity.compared.values()) <= tolerances.OFFICIAL_SCORE[metric], parity.compared


@pytest.mark.parametrize("metric", METRICS)
def test_what_the_official_code_scores_is_scored_or_listed_as_a_deviation(metric):
    for row in compare(metric).rows:
        if not isinstance(row.official, str) and isinstance(row.ours, str):
            assert (metric, row.case) in DEVIATIONS, row


@pytest.mark.parametrize("metric", METRICS)
def test_a_refusal_names_scorer_and_reason(metric):
    for row in compare(metric).rows:
        if isinstance(row.ours, str):
            assert row.ours.startswith(f"{metric}: ")


@pytest.mark.parametrize("metric", METRICS)
def test_the_training_path_stays_near_the_evaluation_path(metric):
    gaps = compare(metric).gaps
    assert len(gaps) >= 30
    assert max(gaps.values()) <= tolerances.PATH_GAP[metric], gaps


def test_the_committed_table_shows_every_case_of_every_scorer():
    committed = (GOLDEN / "TABLE.md").read_text(encoding="utf-8")
    for metric in METRICS:
        assert f"| {metric} |" in committed
        for row in compare(metric).rows:
            assert f"| {row.case} |" in committed, (metric, row.case)
