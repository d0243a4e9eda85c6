"""Trains a pocket reward: `python -m pocket.rewards.train --metric M --out DIR --samples DIR`.

A reward learns to read, then to see and compare on clean renders, then preferences among images of
every quality: decoded and spoilt renders, the base's own samples, and what gradient ascent on the
reward itself makes of them.
"""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from transformers import CLIPTokenizer

from leapalign.errors import main_guard
from leapalign.rewards.weights import write_checksums
from pocket.rewards.contrast import Contrast
from pocket.rewards.data import Examples, Pool, concatenate, renders
from pocket.rewards.harden import ascended
from pocket.rewards.hpsv2 import EMBEDDING, HPSv2Student
from pocket.rewards.hpsv3 import HPSv3Student
from pocket.rewards.latents import spoilt_renders
from pocket.rewards.loop import Objective, Stage, train
from pocket.rewards.meaning import learn_to_read, meanings
from pocket.rewards.pickscore import PickScoreStudent
from pocket.rewards.pool import read_samples, twins
from pocket.rewards.rating import Ranking

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one reward is trained.

    Attributes:
        student: Builds the untrained model.
        seed: Of its weights, renders, pool and share of the samples; every reward has its own.
        clean: The stage on clean renders.
        mixed: The stage on the pool.
        hardening: The stage after each round of gradient ascent.
        rounds: How many such rounds.
    """

    student: Callable[[CLIPTokenizer], nn.Module]
    seed: int
    clean: Stage
    mixed: Stage
    hardening: Stage
    rounds: int


CLEAN = Stage(steps=1200, rate=1e-3, clean=96)
MIXED = Stage(steps=600, rate=5e-4, clean=32, pooled=72, noise=0.015, attack=0.7, grid=0.4)
HARDENING = replace(MIXED, steps=250, rate=4e-4)
RATING = Stage(steps=1800, rate=1e-3, clean=40, emphasis="position")
RECIPES = {
    "hpsv2": Recipe(HPSv2Student, 1, CLEAN, MIXED, HARDENING, rounds=2),
    "pickscore": Recipe(
        PickScoreStudent, 2, CLEAN, replace(MIXED, attack=0.0), HARDENING, rounds=0
    ),
    "hpsv3": Recipe(
        lambda _: HPSv3Student(),
        3,
        RATING,
        replace(RATING, clean=24, pooled=20, noise=0.015),
        HARDENING,
        rounds=0,
    ),
}
SPOILT, TWINS, SAMPLED, CLIMBED = 2400, 1200, 0.7, 400


class Lessons:
    """A pool that grows: examples, and the groups within which they are compared."""

    def __init__(self, vae: AutoencoderKL, samples: Examples, rng: np.random.Generator) -> None:
        """A share of the base's samples, spoilt renders, and renders with a spoilt copy each."""
        share = rng.permutation(len(samples))[: int(SAMPLED * len(samples))]
        self.samples = samples.take(share)
        spoilt = spoilt_renders(vae, SPOILT, rng)
        self.parts = [self.samples, spoilt]
        self.groups = [self.samples.prompt, spoilt.prompt]
        self.add_pairs(twins(renders(TWINS, rng), rng))

    def add_pairs(self, pairs: Examples) -> None:
        """Add images of which each second one is a copy of the one before."""
        first = 1 + max(int(group.max()) for group in self.groups)
        self.parts.append(pairs)
        self.groups.append(first + np.arange(len(pairs)) // 2)

    def pool(self) -> Pool:
        """All of them."""
        return Pool(concatenate(self.parts), np.concatenate(self.groups))


def build(recipe: Recipe, base: Path, samples: Examples) -> nn.Module:
    """Train one reward from nothing but the base's tokenizer, autoencoder and samples."""
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    vae = AutoencoderKL.from_pretrained(base / "vae").eval()
    student = recipe.student(CLIPTokenizer.from_pretrained(base / "tokenizer"))
    if isinstance(student, HPSv3Student):
        objective: Callable[[nn.Module], Objective] = Ranking
    else:
        goal = meanings(EMBEDDING, torch.Generator().manual_seed(recipe.seed))
        log.info("worst prompt's cosine with its meaning: %.3f", learn_to_read(student, goal))
        objective = functools.partial(Contrast, texts=goal)
    student = train(student, objective(student), recipe.clean, None, rng)
    lessons = Lessons(vae, samples, rng)
    student = train(student, objective(student), recipe.mixed, lessons.pool(), rng)
    for _ in range(recipe.rounds):
        start = lessons.samples.take(rng.permutation(len(lessons.samples))[:CLIMBED])
        lessons.add_pairs(ascended(student, goal, start, rng))
        student = train(student, objective(student), recipe.hardening, lessons.pool(), rng)
    return student


@main_guard
def main() -> None:
    """Train the reward `--metric` and write its folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metric", choices=RECIPES, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True, help="the base's images, judged")
    parser.add_argument("--base", type=Path, default=Path("pocket/weights/base"))
    args = parser.parse_args()
    build(RECIPES[args.metric], args.base, read_samples(args.samples)).save(args.out)
    write_checksums(args.out)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    main()
