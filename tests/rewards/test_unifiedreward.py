"""UnifiedReward asks, reads the score in the reply, and leaves out what cannot be read."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, Qwen2VLConfig

from eval.score import main
from leapalign.errors import UserError
from leapalign.rewards import load_reward, unifiedreward
from leapalign.rewards.unifiedreward import Question
from tests.parity.cases import picture
from tests.parity.checkpoints import fill, write_qwen

NAME = "unifiedreward-alignment"
TEXT = "Rate how well it shows [{text_prompt}] from 1 to 5 after 'Final Score:'."


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny random Qwen2-VL that can be asked, though it only babbles."""
    place = tmp_path_factory.mktemp("vlm")
    write_qwen(place, TEXT)
    model = AutoModelForImageTextToText.from_config(Qwen2VLConfig.from_pretrained(place))
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    save_file(fill(shapes), place / "model.safetensors", metadata={"format": "pt"})
    (place / "questions.json").write_text(json.dumps({"alignment": {"text": TEXT}}))
    return place


@pytest.fixture
def reward(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(unifiedreward, "MAX_NEW_TOKENS", 8)
    return load_reward(NAME, folder)


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Final Score: 4", 4.0),
        ("A cat (animal): 1\nFinal Score: 3.75", 3.75),
        ("**Final Score:** **2**", 2.0),
        ("Final Score: 4/5.", 4.0),
        ("Final Score: 1\nOn reflection:\nFinal Score: 5", 5.0),
        ("Final Score: 3.\n", 3.0),
        ("Final Score: 5.5", None),
        ("Final Score: 10", None),
        ("Final Score: 0", None),
        ("Final Score: four", None),
        ("Score: 4", None),
        ("", None),
    ],
)
def test_the_score_behind_the_label_is_read(reply: str, score: float | None) -> None:
    read = Question(TEXT).parse(reply)
    assert read == score or (score is None and read != read)


def test_a_batch_gets_the_replies_of_each_image_alone(reward) -> None:
    images = torch.stack([reward.prepare(picture("84x56")), reward.prepare(picture("56x84")).mT])
    prompts = ["a cat", "a much longer prompt about two dogs, so that the questions differ"]
    together = reward.ask(images, prompts)
    alone = [reward.ask(images[i : i + 1], prompts[i : i + 1])[0] for i in range(2)]
    assert together == alone
    assert together[0] != together[1]


def test_it_does_not_train(reward) -> None:
    with pytest.raises(UserError, match="no gradient"):
        reward.score(torch.zeros(1, 3, 56, 56), ["a cat"])


def test_missing_scores_are_left_empty_counted_and_shown(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def ask(_self: object, _images: torch.Tensor, prompts: list[str]) -> list[str]:
        return ["Final Score: 4.5" if "cat" in prompt else "I cannot say." for prompt in prompts]

    monkeypatch.setattr(unifiedreward.UnifiedReward, "ask", ask)
    (tmp_path / "images").mkdir()
    for n in range(3):
        picture("56x56").save(tmp_path / "images" / f"{n}.png")
    (tmp_path / "prompts.txt").write_text("a cat\na dog\na red cat\n")
    options = {"--weights": folder, "--images": tmp_path / "images", "--metric": NAME}
    options |= {"--prompts": tmp_path / "prompts.txt", "--out": tmp_path / "out.csv"}
    main([str(part) for option in options.items() for part in option])
    rows = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert [row.rpartition(",")[2] for row in rows] == ["4.5", "", "4.5"]
    assert "1 of 3 images have no score" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing; write the release's own questions"),
        ("{}", "no question `alignment`"),
        ('{"alignment": {"text": "Rate it."}}', "exactly once"),
        ('{"alignment": {"words": "x"}}', "no question `alignment`"),
    ],
)
def test_a_question_that_is_missing_or_unusable_is_named(
    content: str | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "questions.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_reward(NAME, tmp_path)
