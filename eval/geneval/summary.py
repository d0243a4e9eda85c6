"""GenEval's summary: the share of correct images per task, and the mean over the tasks."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from eval.geneval.records import Result


class Task(TypedDict):
    """One tag's images: the percentage that is correct, and its counts."""

    pct: float
    correct: int
    total: int


class Summary(TypedDict):
    """What the official script prints; percentages to 2 decimals, the overall score to 5."""

    total_images: int
    total_prompts: int
    pct_correct_images: float
    pct_correct_prompts: float
    overall: float
    tasks: dict[str, Task]


def summarize(records: Iterable[Result]) -> Summary:
    """Summarise the records of judged images (`tag`, `correct`, `metadata`).

    A prompt is one metadata text; it is correct where any of its images is. The overall score is
    the unweighted mean, over the tags that are present, of the share of correct *images*.

    Raises:
        ValueError: There is no record.
    """
    tasks: dict[str, list[bool]] = defaultdict(list)
    prompts: dict[str, list[bool]] = defaultdict(list)
    for record in records:
        tasks[record["tag"]].append(record["correct"])
        prompts[_text(record["metadata"])].append(record["correct"])
    if not tasks:
        raise ValueError("no record to summarise")
    images = [correct for task in tasks.values() for correct in task]
    return {
        "total_images": len(images),
        "total_prompts": len(prompts),
        "pct_correct_images": _percent(np.mean(images)),
        "pct_correct_prompts": _percent(np.mean([any(prompt) for prompt in prompts.values()])),
        "overall": float(f"{np.mean([np.mean(task) for task in tasks.values()]):.5f}"),
        "tasks": {
            tag: {"pct": _percent(np.mean(task)), "correct": sum(task), "total": len(task)}
            for tag, task in tasks.items()
        },
    }


def _text(metadata: str | Mapping[str, Any]) -> str:
    """The official records hold the metadata as JSON text; ours may hold the object."""
    return metadata if isinstance(metadata, str) else json.dumps(metadata)


def _percent(share: np.floating) -> float:
    """As the official script prints it: the `%` format multiplies before it rounds."""
    return float(f"{share:.2%}".removesuffix("%"))
