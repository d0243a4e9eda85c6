"""The pocket rewards order captions and spoilt renders; facts agree with the judge."""

from pathlib import Path

import numpy as np
import pytest

from eval.geneval.judge import judge
from leapalign.rewards import load_reward
from pocket.detector import detect
from pocket.rewards.check import accuracies
from pocket.rewards.facts import certain, credit, facts_of_detections
from pocket.rewards.train import RECIPES
from pocket.world import TAGS, all_prompts, render, sample_metadata, sample_scene

WEIGHTS = Path(__file__).parents[2] / "pocket" / "weights"
ORDERED, DEGRADED = 0.90, 0.95


@pytest.fixture(scope="module", params=RECIPES)
def shares(request):
    reward = load_reward(request.param, WEIGHTS / request.param)
    return accuracies(reward, count=80, seed=31)


@pytest.mark.parametrize("tag", TAGS)
def test_minimally_wrong_captions_score_lower(shares, tag):
    assert shares[tag] >= ORDERED


def test_spoilt_renders_score_lower(shares):
    assert shares["degraded"] >= DEGRADED


def test_full_credit_is_the_judges_decision():
    rng = np.random.default_rng(5)
    for _ in range(6):
        found = detect(render(sample_scene(sample_metadata(rng), rng)))
        facts = facts_of_detections(found)
        verdicts = np.array([judge(metadata, found).correct for metadata in all_prompts()])
        plain = certain(facts)
        assert np.array_equal((credit(facts) == 1)[plain], verdicts[plain])
