"""Judges a base model folder: GenEval's tasks with the pocket world's detector.

    python -m pocket.evaluate pocket/weights/base --per-tag 200

prints the share of correct images per task. `--out` keeps the images (images.npz), with the prompts
and verdicts (images.jsonl): the samples that the pocket rewards' preferences are made of.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline

from eval.geneval.judge import judge
from eval.geneval.summary import Summary, summarize
from leapalign.backbones.backbone import Backbone
from leapalign.backbones.pipeline import LOADERS
from leapalign.errors import main_guard
from leapalign.parsing import resolve
from leapalign.rollout import rollout
from leapalign.streams import stream
from pocket.detector import detect
from pocket.transformer import GUIDANCE
from pocket.world import SIZE, TAGS, Image, Metadata, prompts_by_tag, sample_metadata

BATCH = 100

log = logging.getLogger(__name__)


def choose(per_tag: int, seed: int) -> list[Metadata]:
    """`per_tag` random prompts of each tag."""
    rng = np.random.default_rng(seed)
    return [sample_metadata(rng, tag) for tag in prompts_by_tag() for _ in range(per_tag)]


def load(folder: Path) -> Backbone:
    """The backbone of a pipeline folder, whichever it is."""
    loader = LOADERS[DiffusionPipeline.load_config(folder)["_class_name"]]
    backbone: Backbone = resolve(loader, str(folder)).load(folder, SIZE)
    return backbone


@torch.no_grad()
def paint(
    backbone: Backbone, prompts: list[str], steps: int, seed: int, guidance: float = GUIDANCE
) -> Image:
    """An image per prompt, uint8 [n, 64, 64, 3], by `steps` Euler steps."""
    images = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        noise = backbone.latents([stream(seed, start + i) for i in range(len(batch))])
        path = rollout(backbone.field(batch, guidance), noise, backbone.grid(steps))
        pixels = backbone.decode(path.states[-1]).mul(255).round().byte()
        images.append(pixels.permute(0, 2, 3, 1).numpy())
        log.info("images %d/%d", start + len(batch), len(prompts))
    return np.concatenate(images)


def verdicts(metadata: list[Metadata], images: Image) -> list[dict[str, Any]]:
    """GenEval's record of each image."""
    records = []
    for line, image in zip(metadata, images, strict=True):
        detections = detect(image)
        verdict = judge(line, detections)
        records.append(
            {
                "tag": line["tag"],
                "prompt": line["prompt"],
                "correct": verdict.correct,
                "reason": verdict.reason,
                "metadata": line,
                "detections": detections,
            }
        )
    return records


def keep(folder: Path, images: Image, records: list[dict[str, Any]]) -> None:
    """Write images and records."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "images.npz", images=images)
    lines = "".join(f"{json.dumps(record)}\n" for record in records)
    (folder / "images.jsonl").write_text(lines)


def table(summaries: dict[str, Summary]) -> str:
    """The share of correct images, in percent: a Markdown row per folder."""
    rows = [f"| folder | overall | {' | '.join(TAGS)} |", f"|---|{'---|' * (1 + len(TAGS))}"]
    for name, summary in summaries.items():
        shares = " | ".join(f"{summary['tasks'][tag]['pct']:.1f}" for tag in TAGS)
        rows.append(f"| {name} | {100 * summary['overall']:.1f} | {shares} |")
    return "\n".join(rows)


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Judge one or more folders with the same prompts and noise."""
    parser = argparse.ArgumentParser(prog="python -m pocket.evaluate", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="pipeline folders")
    parser.add_argument("--per-tag", type=int, default=100, help="images per task")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the images of the first folder here")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(1)
    metadata = choose(arguments.per_tag, arguments.seed)
    prompts = [line["prompt"] for line in metadata]
    summaries = {}
    for folder in arguments.folders:
        images = paint(load(folder), prompts, arguments.steps, arguments.seed, arguments.guidance)
        records = verdicts(metadata, images)
        summaries[str(folder)] = summarize(records)
        if arguments.out and folder == arguments.folders[0]:
            keep(arguments.out, images, records)
    sys.stdout.write(f"{table(summaries)}\n")


if __name__ == "__main__":
    main()
