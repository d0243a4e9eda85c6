"""Files of scores: one evaluator's, a row an image."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from eval.manifest import Sample
from leapalign.files import write_text

COLUMNS = ["image", "prompt_index", "image_index", "prompt", "tag", "score"]


def write_scores(out: Path, samples: Sequence[Sample], scores: Sequence[float | None]) -> None:
    """Write a file of scores, a row a sample."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for sample, score in zip(samples, scores, strict=True):
        row = [getattr(sample, column) for column in COLUMNS[:-1]]
        # repr keeps every digit of a float32 score; a missing one is left empty, never 0.
        writer.writerow([*row, "" if score is None else repr(score)])
    write_text(out, text.getvalue())
