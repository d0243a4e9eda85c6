"""The official prompts regenerated, and the training set that shares none with them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

from eval.geneval.coco import CLASSES
from eval.geneval.prompts import OFFICIAL_SHA256, benchmark, lines, shares, training
from eval.geneval.records import check_metadata


def test_the_official_prompts_are_regenerated() -> None:
    prompts = benchmark()
    tags = Counter(prompt["tag"] for prompt in prompts)
    assert tags == {
        "single_object": 80,
        "two_object": 99,
        "counting": 80,
        "colors": 94,
        "position": 100,
        "color_attr": 100,
    }
    assert hashlib.sha256(lines(prompts).encode()).hexdigest() == OFFICIAL_SHA256


def test_they_hold_the_published_lines() -> None:
    published = [
        '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], '
        '"prompt": "a photo of a bench"}',
        '{"tag": "counting", "include": [{"class": "toothbrush", "count": 2}], "exclude": '
        '[{"class": "toothbrush", "count": 3}], "prompt": "a photo of two toothbrushs"}',
        '{"tag": "position", "include": [{"class": "scissors", "count": 1}, {"class": '
        '"refrigerator", "count": 1, "position": ["below", 0]}], "prompt": "a photo of a '
        'refrigerator below a scissors"}',
        '{"tag": "color_attr", "include": [{"class": "skis", "count": 1, "color": "green"}, '
        '{"class": "airplane", "count": 1, "color": "brown"}], "prompt": "a photo of a green skis '
        'and a brown airplane"}',
    ]
    assert set(published) <= set(lines(benchmark()).splitlines())


def test_every_regenerated_line_is_valid_metadata_over_known_names() -> None:
    for line in lines(benchmark()).splitlines():
        metadata = check_metadata(json.loads(line))
        assert {clause["class"] for clause in metadata["include"]} <= set(CLASSES)


def test_the_training_set_has_flow_grpos_ratio() -> None:
    # 50,000 in the ratio 7 : 5 : 3 : 1 : 1, worked out by hand.
    expected = dict(position=20_588, counting=14_706, color_attr=8_824, two_object=2_941)
    assert shares(50_000) == expected | {"colors": 2_941}
    assert Counter(prompt["tag"] for prompt in training(170)) == {
        tag: 10 * share
        for tag, share in dict(position=7, counting=5, color_attr=3, two_object=1, colors=1).items()
    }


def test_the_training_set_shares_no_prompt_with_the_benchmark() -> None:
    def content(prompt: dict) -> tuple:
        clauses = [json.dumps(clause, sort_keys=True) for clause in prompt["include"]]
        return prompt["tag"], *sorted(clauses)

    # Two objects and two coloured objects are the same prompt in either order.
    held_out = {content(prompt) for prompt in benchmark()}
    prompts = training(5_000)
    assert not held_out & {content(prompt) for prompt in prompts}
    assert len({prompt["prompt"] for prompt in prompts}) > 3_000


def test_the_training_set_is_fixed_by_its_seed() -> None:
    assert training(200) == training(200)
    assert training(200) != training(200, seed=1)
