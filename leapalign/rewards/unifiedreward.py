"""UnifiedReward (Wang et al., 2025): a vision-language model is asked and replies with a score."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NoReturn

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from leapalign.errors import UserError
from leapalign.rewards.images import to_rgb
from leapalign.rewards.reward import Reward
from leapalign.rewards.weights import verify

QUESTIONS = "questions.json"
PROMPT = "{text_prompt}"
LABEL = "Final Score:"
MAX_NEW_TOKENS = 4096  # the authors' own limit


@dataclass(frozen=True, slots=True)
class Question:
    """What the model is asked about an image, and the words before the score in its reply."""

    text: str
    label: str = LABEL

    def fill(self, prompt: str) -> str:
        """The question about an image of one prompt."""
        return self.text.replace(PROMPT, prompt)

    def parse(self, reply: str) -> float:
        """The last score from 1 to 5 behind the label; NaN if there is none."""
        found = re.findall(rf"{re.escape(self.label)}[\s*]*([1-5](?:\.\d+)?)(?!\.?\d)", reply)
        score = float(found[-1]) if found else torch.nan
        return score if score <= UnifiedReward.range[1] else torch.nan


def read_question(folder: Path, axis: str) -> Question:
    """The question of an axis from the folder's questions.json.

    The authors' releases differ in their wording, and no package ships it: the file holds
    {"alignment": {"text": "... {text_prompt} ...", "label": "Final Score:"}, "quality": ...}.

    Raises:
        UserError: There is no such file or question, or it has no place for the prompt.
    """
    file = folder / QUESTIONS
    try:
        question = Question(**json.loads(file.read_text(encoding="utf-8"))[axis])
    except OSError:
        raise UserError(
            f"{file}: missing; write the release's own questions there, as "
            f'{{"{axis}": {{"text": "... {PROMPT} ...", "label": "{LABEL}"}}}}'
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: no question `{axis}` with text and label: {error}") from None
    if question.text.count(PROMPT) != 1:
        raise UserError(f"{file}: the text of `{axis}` must contain {PROMPT} exactly once")
    return question


class UnifiedReward(Reward):
    """One axis of UnifiedReward, from a folder with a transformers model and its questions.

    A score is NaN where the reply has none that can be read: missing, never 0. There is no
    gradient through words, so it evaluates and does not train.
    """

    axis: ClassVar[str]
    range: ClassVar[tuple[float, float]] = (1.0, 5.0)
    batch: ClassVar[int] = 8
    differentiable: ClassVar[bool] = False

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, question: Question
    ) -> None:
        """Ask a frozen `model`."""
        self.model = model.eval().requires_grad_(False)
        self.device = model.device
        self.processor = processor
        self.processor.tokenizer.padding_side = "left"  # replies begin where the questions end
        self.question = question

    @classmethod
    def load(cls, path: Path, device: torch.device) -> UnifiedReward:
        """Load from a folder with model, processor and questions.json.

        Raises:
            UserError: The weights are missing or damaged, or there is no question.
        """
        verify(path)
        question = read_question(path, cls.axis)
        try:
            model = AutoModelForImageTextToText.from_pretrained(
                path, dtype="auto", local_files_only=True
            )
            processor = AutoProcessor.from_pretrained(path, local_files_only=True)
        except (ValueError, OSError, RuntimeError) as error:
            raise UserError(f"{path}: no vision-language model: {error}") from error
        return cls(model.to(device), processor, question)

    def transform(self, images: Float[Tensor, "batch 3 h w"]) -> NoReturn:  # noqa: ARG002
        """Refuse.

        Raises:
            UserError: Always.
        """
        raise UserError(
            f"{self.name}: its scores are read from words and have no gradient; it scores image "
            "files, train with another reward"
        )

    def prepare(self, image: Image.Image) -> UInt8[Tensor, "3 h w"]:
        """The pixels; the model's own processor does the rest."""
        return functional.pil_to_tensor(to_rgb(image))

    def rate(
        self, prepared: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """The scores in the replies."""
        return torch.tensor([self.question.parse(reply) for reply in self.ask(prepared, prompts)])

    def ask(self, images: UInt8[Tensor, "batch 3 h w"], prompts: Sequence[str]) -> list[str]:
        """The model's replies, greedily decoded."""
        inputs = self.processor(
            text=[self._chat(prompt) for prompt in prompts],
            images=list(images),
            padding=True,
            return_tensors="pt",
        ).to(self.device, self.model.dtype)
        replies = self.model.generate(**inputs, do_sample=False, max_new_tokens=MAX_NEW_TOKENS)
        said = replies[:, inputs["input_ids"].shape[1] :]
        return list(self.processor.batch_decode(said, skip_special_tokens=True))

    def checked(
        self, scores: Float[Tensor, " batch"], prompts: Sequence[str]
    ) -> Float[Tensor, " batch"]:
        """The scores; those that are missing are left NaN."""
        read = [i for i, score in enumerate(scores.tolist()) if score == score]
        super().checked(scores[read], [prompts[i] for i in read])
        return scores

    def _chat(self, prompt: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": self.question.fill(prompt)}]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )


class Alignment(UnifiedReward):
    """How well the image shows what the prompt says."""

    name: ClassVar[str] = "unifiedreward-alignment"
    quantity: ClassVar[str] = "score from 1 to 5 in the model's reply, about 3 to 4"
    axis: ClassVar[str] = "alignment"


class Quality(UnifiedReward):
    """How good the image looks."""

    name: ClassVar[str] = "unifiedreward-quality"
    quantity: ClassVar[str] = "score from 1 to 5 in the model's reply, about 3 to 4"
    axis: ClassVar[str] = "quality"
