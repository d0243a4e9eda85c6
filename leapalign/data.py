"""Prompts: files of them, and which ones an iteration trains on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from leapalign.errors import UserError
from leapalign.streams import choices

# Flow-GRPO's training mix of GenEval's tasks (arXiv 2505.05470).
GENEVAL_MIX = {
    "position": 7,
    "counting": 5,
    "color_attr": 3,
    "colors": 1,
    "two_object": 1,
    "single_object": 0,
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, and its GenEval metadata where it has any."""

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        """GenEval's task, or the empty string."""
        return str(self.metadata.get("tag", ""))


def read_prompts(path: str | Path, *, repeats: bool = False) -> tuple[Prompt, ...]:
    """The prompts of a file: one a line, or JSON objects with a "prompt" if it ends in .jsonl.

    Args:
        path: the user's own file or one of those that `snakemake fetch_prompts` makes.
        repeats: whether a prompt may stand on several lines, as in a mix to train on.

    Raises:
        UserError: the file is missing or not UTF-8, or a line is empty, a duplicate, or not
            metadata with a prompt.
    """
    try:
        # Not splitlines(): prompts may hold separators that are no line's end to anyone else.
        lines = Path(path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except FileNotFoundError:
        fetched = Path("prompts") in Path(path).parents
        hint = "; make it with `snakemake --cores 1 fetch_prompts`" if fetched else ""
        raise UserError(f"{path}: no such prompts file{hint}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if lines == [""]:
        raise UserError(f"{path}: no prompts in it; write one a line")
    seen: dict[str, int] = {}
    prompts = []
    for number, line in enumerate(lines, 1):
        prompt = _parse(line, f"{path}, line {number}", structured=str(path).endswith(".jsonl"))
        if prompt.text in seen and not repeats:
            raise UserError(f"{path}, line {number}: repeats line {seen[prompt.text]}; remove one")
        seen[prompt.text] = number
        prompts.append(prompt)
    return tuple(prompts)


def _parse(line: str, where: str, *, structured: bool) -> Prompt:
    if not line.strip():
        raise UserError(f"{where}: empty; remove the line")
    if not structured:
        return Prompt(line.strip())
    try:
        metadata = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON: {error.msg} at column {error.colno}") from None
    text = metadata.get("prompt") if isinstance(metadata, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise UserError(f'{where}: needs a "prompt" with text in it')
    return Prompt(text, metadata)


class Sampler:
    """Which prompt each slot trains on, a function of (seed, iteration, slot) alone.

    Prompts with GenEval tags are drawn at Flow-GRPO's mix, others uniformly.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int) -> None:
        """Weigh the prompts so that each tag gets its share of the mix."""
        self.prompts = prompts
        self.seed = seed
        tags = [prompt.tag for prompt in prompts]
        counts = Counter(tags)
        shares = [GENEVAL_MIX.get(tag, 1) / counts[tag] for tag in tags]
        if not any(shares):
            shares = [1.0] * len(tags)
        total = sum(shares)
        self.weights = np.array([share / total for share in shares])

    def draw(self, iteration: int, slot: int) -> Prompt:
        """The prompt of one slot."""
        rng = choices(self.seed, iteration, slot, "prompt")
        return self.prompts[int(rng.choice(len(self.prompts), p=self.weights))]
