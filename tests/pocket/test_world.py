"""The world's scenes, prompts and judge agree with each other and with GenEval's decision."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from eval.geneval.judge import judge
from eval.geneval.records import check_metadata
from pocket.defects import degrade
from pocket.detector import detect
from pocket.split import meaning, split
from pocket.sprites import SPRITE, mask
from pocket.world import (
    COLORS,
    SHAPES,
    SIZE,
    TAGS,
    Icon,
    Scene,
    all_prompts,
    render,
    sample_metadata,
    sample_scene,
    wrong_caption,
)

PROMPTS = Path("pocket/prompts")


@pytest.mark.parametrize("tag", TAGS)
def test_judge_accepts_renders_and_rejects_wrong_captions(tag: str) -> None:
    rng = np.random.default_rng(TAGS.index(tag))
    right = wrong = 0
    for _ in range(50):
        metadata = sample_metadata(rng, tag)
        found = detect(render(sample_scene(metadata, rng)))
        right += judge(metadata, found).correct
        wrong += judge(wrong_caption(metadata, rng), found).correct
    assert (right, wrong) == (50, 0)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", COLORS)
def test_detector_names_every_icon_and_its_box(shape: str, color: str) -> None:
    (found,) = detect(render(Scene((Icon(shape, color, (24, 40)),))))
    assert (found["label"], found["color"]) == (shape, color)
    rows, columns = np.nonzero(mask(shape, 6.0) > 0.5)
    corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    shift = np.array([24, 40, 24, 40]) - SPRITE // 2
    assert np.allclose(found["box"], corners + shift, atol=1)
    assert found["score"] > 0.9


def test_detector_finds_nothing_on_an_empty_image() -> None:
    assert detect(render(Scene(()))) == []


def test_detector_doubts_what_is_no_shape() -> None:
    image = render(Scene(()))
    image[20:30, 20:26] = COLORS["red"]
    image[20:24, 26:36] = COLORS["red"]
    assert all(found["score"] < 0.3 for found in detect(image))


def test_degrading_lowers_the_share_of_correct_images() -> None:
    rng = np.random.default_rng(0)
    correct = 0
    for _ in range(100):
        metadata = sample_metadata(rng)
        image = degrade(render(sample_scene(metadata, rng)), rng)
        assert image.shape == (SIZE, SIZE, 3)
        assert image.dtype == np.uint8
        correct += judge(metadata, detect(image)).correct
    assert 20 < correct < 95


def test_prompts_are_distinct_and_valid_geneval_cases() -> None:
    prompts = all_prompts()
    assert len({line["prompt"] for line in prompts}) == len(prompts) == 1116
    for line in prompts[::37]:
        assert check_metadata(line)["prompt"] == line["prompt"]


def test_prompt_files_are_the_split_and_share_no_meaning() -> None:
    train, test = (
        [json.loads(line) for line in (PROMPTS / f"{name}.jsonl").read_text().splitlines()]
        for name in ("train", "test")
    )
    assert [train, test] == [json.loads(json.dumps(part)) for part in split()]
    assert not {meaning(line) for line in train} & {meaning(line) for line in test}
    assert len(test) == 100
    assert {line["tag"] for line in test} == set(TAGS)
