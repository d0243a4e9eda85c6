"""Images per second of each scorer, beside the authors' own code on the same tiny weights.

    python -m benchmarks.score --environment FOLDER --out results/benchmarks/score.json

Ours is all that `eval.score` does but loading the weights: reading, hashing, decoding, preparing,
scoring, the journal and the table. Theirs opens and scores one image after the other, in the
environment that `python -m tests.parity` makes. Both run on one thread of computation; ours decodes
in threads of its own. Beside the ratio of the clock's seconds stands that of the processor's, which
says what the same work costs and hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.machine import provenance
from eval.inputs import read_samples
from eval.score import BATCH, score_folder
from eval.scorers import Scorer, make_scorer
from leapalign.errors import UserError, main_guard
from leapalign.files import write_json
from tests.parity.cases import picture
from tests.parity.compare import METRICS, write_weights
from tests.parity.timing import Seconds, timed

ROOT = Path(__file__).parents[1]
REPEATS = 3


def make_folder(folder: Path, count: int, size: str) -> tuple[Path, Path]:
    """Images of one size, and a file with a prompt for each."""
    images, prompts = folder / "images", folder / "prompts.txt"
    images.mkdir()
    for index in range(count):
        picture(size).save(images / f"{index:05}.png")
    prompts.write_text("".join(f"a photo of {n} red apples on a table\n" for n in range(count)))
    return images, prompts


def ours(metric: str, images: Path, prompts: Path, repeats: int) -> list[Seconds]:
    """Seconds of each pass over the folder, its journal thrown away."""
    with tempfile.TemporaryDirectory() as place:
        weights = Path(place, "weights")
        weights.mkdir()
        write_weights(metric, weights)
        scorer = make_scorer(metric, str(weights))
        model = scorer.load()
        loaded = dataclasses.replace(scorer, load=lambda: model)
        score_anew(loaded, images, prompts)
        anew = functools.partial(score_anew, loaded, images, prompts)
        return [timed(anew) for _ in range(repeats)]


def score_anew(scorer: Scorer, images: Path, prompts: Path) -> None:
    """Score the folder from nothing."""
    with tempfile.TemporaryDirectory() as place:
        score_folder(images, read_samples(images, prompts), {Path(place, "out.csv"): scorer})


def official(
    environment: Path, metric: str, images: Path, prompts: Path, repeats: int
) -> list[Seconds]:
    """Seconds of each pass of the authors' code, in its own environment."""
    python = environment.absolute() / "bin/python"
    command = [python, "-m", "tests.parity.timing", metric, images, prompts, repeats]
    settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        list(map(str, command)),
        cwd=ROOT,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [tuple(one) for one in json.loads(done.stdout.splitlines()[-1])]


def medians(passes: Sequence[Seconds]) -> Seconds:
    """The median of the passes' seconds, of either kind."""
    clock, processor = zip(*passes, strict=True)
    return median(clock), median(processor)


def measure(environment: Path, metrics: Sequence[str], count: int, size: str) -> dict[str, Any]:
    """All that this benchmark measures, with what it was measured on."""
    rates = {}
    with tempfile.TemporaryDirectory() as place:
        images, prompts = make_folder(Path(place), count, size)
        for metric in metrics:
            theirs = medians(official(environment, metric, images, prompts, REPEATS))
            mine = medians(ours(metric, images, prompts, REPEATS))
            rates[metric] = {
                "ours": count / mine[0],
                "official": count / theirs[0],
                "multiple": theirs[0] / mine[0],
                "processor_multiple": theirs[1] / mine[1],
            }
            sys.stdout.write(
                "{:12} {ours:7.1f} images/s, official {official:7.1f}: {multiple:5.2f} times, "
                "by the processor's time {processor_multiple:5.2f}\n".format(
                    metric, **rates[metric]
                )
            )
    return {
        "images": count,
        "size": size,
        "batch": BATCH,
        **provenance(torch.device("cpu")),
        "images_per_second": rates,
    }


@main_guard
def main() -> None:
    """Command line: measure every scorer, write JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--metrics", nargs="+", default=METRICS, choices=METRICS)
    parser.add_argument("--count", type=int, default=100, help="images")
    parser.add_argument("--size", default="512x512", help="their width x height")
    parser.add_argument("--environment", type=Path, default=ROOT / "results/parity")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args()
    if not (arguments.environment / "bin/python").exists():
        raise UserError(
            f"--environment: no {arguments.environment}/bin/python; `python -m tests.parity` makes "
            "the official packages' environment"
        )
    torch.set_num_threads(1)
    write_json(
        arguments.out,
        measure(arguments.environment, arguments.metrics, arguments.count, arguments.size),
    )


if __name__ == "__main__":
    main()
