"""How fast the authors' own code scores a folder of images, one at a time as it does.

    python -m tests.parity.timing METRIC IMAGES PROMPTS REPEATS

prints the seconds of each pass, on the clock and of the processor, as JSON. It runs in the
official packages' environment.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image

from tests.parity.official import OFFICIAL, Score

Seconds = tuple[float, float]


def timed(work: Callable[[], object]) -> Seconds:
    """Seconds on the clock, and of the processor in all threads."""
    started = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def one_by_one(score: Score, images: list[Path], prompts: list[str]) -> None:
    """Open and score every image."""
    for path, prompt in zip(images, prompts, strict=True):
        with Image.open(path) as image, torch.no_grad():
            score(image, prompt)


def main() -> None:
    """Run the command line."""
    metric, folder, prompts, repeats = sys.argv[1:]
    torch.set_num_threads(1)
    images = sorted(Path(folder).iterdir())
    texts = Path(prompts).read_text(encoding="utf-8").splitlines()
    # hpsv2 reads its checkpoint anew for every prompt; that is left out, once is enough.
    vars(torch)["load"] = functools.cache(torch.load)
    with tempfile.TemporaryDirectory() as weights:
        _, score = OFFICIAL[metric](Path(weights))
        one_by_one(score, images[:4], texts[:4])
        passes = [timed(lambda: one_by_one(score, images, texts)) for _ in range(int(repeats))]
    sys.stdout.write(json.dumps(passes) + "\n")


if __name__ == "__main__":
    main()
