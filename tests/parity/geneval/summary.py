"""Golden results as GenEval's official script writes them, and its official summary of them.

    python -m tests.parity.geneval.summary CLONE > tests/parity/golden/geneval_summary.jsonl

CLONE is a clone of the official repository. The results are random; the summary is the output of
the official script, with the pandas that runs this. Imports nothing of this project.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

TAGS = {"single_object": 0.98, "two_object": 0.8, "counting": 0.7, "colors": 0.77, "position": 0.2}
IMAGES = 4


def results() -> pd.DataFrame:
    """Four images of a few prompts of each task, as the official script holds them."""
    rng = random.Random(0)
    rows = []
    for tag, chance in TAGS.items():
        for prompt in range(rng.choice([3, 7, 11])):
            metadata = {"tag": tag, "include": [], "prompt": f"a {tag}/{prompt} “photo”"}
            for image in range(IMAGES):
                correct = rng.random() < chance
                rows.append(
                    {
                        "filename": f"images/{prompt:05}/samples/{image:04}.png",
                        "tag": tag,
                        "prompt": metadata["prompt"],
                        "correct": correct,
                        "reason": "" if correct else "expected bench>=1, found 0",
                        "metadata": json.dumps(metadata),
                        "details": json.dumps({"bench": [[0.0, 1.5, 2.0, 3.0, 0.3]]}),
                    }
                )
    return pd.DataFrame(rows)


def main() -> None:
    """Print the summary, then one result a line."""
    folder = Path(sys.argv[1]) / "evaluation"
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "results.jsonl"
        results().to_json(file, orient="records", lines=True)
        script = [sys.executable, "summary_scores.py", str(file)]
        summary = subprocess.run(script, cwd=folder, capture_output=True, text=True, check=True)
        about = {"versions": {"pandas": pd.__version__}, "summary": summary.stdout}
        sys.stdout.write(json.dumps(about) + "\n" + file.read_text())


if __name__ == "__main__":
    main()
