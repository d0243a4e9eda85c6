"""How well the pocket rewards order images and captions: `python -m pocket.rewards.check`."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from leapalign.errors import main_guard
from leapalign.rewards import Reward, load_reward
from pocket.rewards.data import Examples, wrong_rows
from pocket.rewards.facts import prompt_table
from pocket.rewards.pool import read_samples, spoil
from pocket.rewards.train import RECIPES
from pocket.world import TAGS, prompts_by_tag, render, sample_scene

SEED = 20_000
BATCH = 64
Scores = NDArray[np.float32]


def scores(reward: Reward, images: NDArray[np.uint8], rows: NDArray[np.int64]) -> Scores:
    """The reward of each image under the prompt of each row."""
    texts = [prompt_table().texts[row] for row in rows]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        parts = [
            reward.score(pixels[i : i + BATCH], texts[i : i + BATCH])
            for i in range(0, len(texts), BATCH)
        ]
    return torch.cat(parts).numpy()


def fresh(tag: str, count: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Clean renders of random prompts of a task, and the prompts' rows."""
    prompts = prompts_by_tag()[tag]
    chosen = [prompts[rng.integers(len(prompts))] for _ in range(count)]
    images = np.stack([render(sample_scene(metadata, rng)) for metadata in chosen])
    return images, np.array([prompt_table().row[metadata["prompt"]] for metadata in chosen])


def accuracies(reward: Reward, count: int, seed: int = SEED) -> dict[str, float]:
    """The shares of fresh renders that score higher than they should be beaten by.

    Per task: under the own prompt than under a minimally wrong one; "degraded": than a spoilt copy.
    """
    rng = np.random.default_rng(seed)
    shares, spoilt = {}, []
    for tag in TAGS:
        images, rows = fresh(tag, count, rng)
        own = scores(reward, images, rows)
        shares[tag] = float((own > scores(reward, images, wrong_rows(rows, rng))).mean())
        worse = np.stack([spoil(image, rng) for image in images])
        spoilt.append(own > scores(reward, worse, rows))
    return shares | {"degraded": float(np.mean(spoilt))}


def generated_accuracy(reward: Reward, examples: Examples) -> tuple[float, int]:
    """How well a reward orders two images of one prompt, one right and one wrong by the judge.

    Returns:
        The share of the pairs in the judge's order, and the number of pairs.
    """
    right = examples.credit == 1
    won = total = 0
    for row in np.unique(examples.prompt):
        own = np.flatnonzero(examples.prompt == row)
        good, bad = own[right[own, row]], own[~right[own, row]]
        if len(good) and len(bad):
            rated = scores(reward, examples.images[own], np.full(len(own), row))
            value = dict(zip(own.tolist(), rated, strict=True))
            pairs = [value[a] > value[b] for a in good for b in bad]
            won, total = won + sum(pairs), total + len(pairs)
    return won / max(total, 1), total


def table(folders: Sequence[Path], metrics: Sequence[str], count: int, unseen: Path | None) -> str:
    """The shares as a Markdown row per folder and reward; `unseen`: samples new to the rewards."""
    examples = read_samples(unseen) if unseen else None
    header = ["folder", "reward", *TAGS, "degraded", *(["generated"] if examples else [])]
    rows = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for metric, folder in itertools.product(metrics, folders):
        reward = load_reward(metric, folder / metric)
        shares = [f"{share:.3f}" for share in accuracies(reward, count).values()]
        if examples is not None:
            share, pairs = generated_accuracy(reward, examples)
            shares.append(f"{share:.3f} ({pairs} pairs)")
        rows.append(f"| {' | '.join([str(folder), metric, *shares])} |")
    return "\n".join(rows)


@main_guard
def main() -> None:
    """Print a table, one row for each folder and reward."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, nargs="+", default=[Path("pocket/weights")])
    parser.add_argument("--metric", choices=RECIPES, nargs="+", default=list(RECIPES))
    parser.add_argument(
        "--samples", type=Path, help="folder of the base's images, unseen in training"
    )
    parser.add_argument("--count", type=int, default=300, help="fresh renders for each task")
    args = parser.parse_args()
    sys.stdout.write(f"{table(args.weights, args.metric, args.count, args.samples)}\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
