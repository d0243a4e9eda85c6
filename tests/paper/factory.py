"""Makes a small ledger whose means and differences are known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from leapalign.config import resolve_run
from leapalign.experiments import load_experiments
from leapalign.parsing import dump

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
LEVELS = {"hpsv2": 0.27, "pickscore": 20.0, "hpsv3": 5.0}
SPREADS = {"hpsv2": 0.02, "pickscore": 0.8, "hpsv3": 2.0}
SKILL = dict(zip(TASKS, (0.98, 0.8, 0.6, 0.85, 0.25, 0.4), strict=True))
STEP = 0.25
"""A run's gain of 1 raises a reward by a quarter of its spread on every image."""


@dataclass(frozen=True)
class Maker:
    """Writes ledger entries of runs whose every image scores `gain` quarter-spreads above base."""

    root: Path
    prompts: int = 24
    images: int = 2
    iterations: int = 12
    scale: str = "pocket"
    snapshots: Mapping[int, float] = field(default_factory=dict)
    """Iteration → share of its gain that a training has by then; without any, none is watched."""

    def write(self, gains: Mapping[str, float], seeds: Iterable[int] = (0,)) -> Path:
        """One entry per run and seed; the untrained base only for the first seed."""
        for run, gain in gains.items():
            for seed in list(seeds)[: 1 if run == "base" else None]:
                self.entry(run, gain, seed)
        return self.root

    def entry(self, run: str, gain: float, seed: int) -> Path:
        """One run and seed; `base` is untrained and has no training log."""
        folder = self.root / run / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        self.scores(gain).to_csv(folder / "scores.csv", index=False)
        if run != "base":
            self.log(gain, seed).to_csv(folder / "train.csv", index=False)
        if self.snapshots:
            self.progress(0.0 if run == "base" else gain).to_csv(
                folder / "progress.csv", index=False
            )
        (folder / "provenance.json").write_text(json.dumps(self.provenance(run, seed)))
        self.samples(folder, gain)
        return folder

    def scores(self, gain: float) -> pd.DataFrame:
        """All evaluators; the same noise for every run, so that differences are exact."""
        rng = np.random.default_rng(7)
        count = self.prompts * self.images
        prompt = np.repeat(np.arange(self.prompts), self.images)
        frame = pd.DataFrame({
            "image": [f"{index:05d}.png" for index in range(count)],
            "prompt_index": prompt,
            "image_index": np.tile(np.arange(self.images), self.prompts),
            "prompt": [f"a photo of scene {index}" for index in prompt],
            "tag": [TASKS[index % len(TASKS)] for index in prompt],
        })  # fmt: skip
        noise = {name: rng.normal(size=count) for name in LEVELS}
        rewards = [
            frame.assign(
                evaluator=name, score=LEVELS[name] + SPREADS[name] * (noise[name] + STEP * gain)
            )
            for name in LEVELS
        ]
        skill = frame["tag"].map(SKILL).to_numpy() + 0.02 * gain
        judged = frame.assign(evaluator="geneval", score=(rng.random(count) < skill).astype(int))
        return pd.concat([*rewards, judged], ignore_index=True)

    def progress(self, gain: float) -> pd.DataFrame:
        """Scores of the first image of every prompt at each snapshot."""
        frames = [
            self.scores(gain * share).query("image_index == 0").assign(iteration=iteration)
            for iteration, share in self.snapshots.items()
        ]
        return pd.concat(frames, ignore_index=True)

    def log(self, gain: float, seed: int) -> pd.DataFrame:
        """A training log that rises to the run's gain."""
        rng = np.random.default_rng(seed)
        iteration = np.arange(1, self.iterations + 1)
        rise = 1 - np.exp(-3 * iteration / self.iterations)
        reward = 0.27 + 0.02 * STEP * gain * rise + 0.001 * rng.normal(size=self.iterations)
        return pd.DataFrame({
            "iteration": iteration,
            "reward": reward,
            "reward_std": 0.02,
            "loss": 0.55 - reward,
            "grad_norm": np.exp(rng.normal(size=self.iterations) * 0.3) * (2 + gain),
            "d_j": 0.05,
            "d_0": 0.06,
            "clip_fraction": np.nan,
            "nfe": iteration * 16 * 31,
            "images": iteration * 16,
            "seconds": iteration * 0.75,
            "peak_memory_mb": 900.0 + gain,
            "skipped_groups": 0,
        })  # fmt: skip

    def provenance(self, run: str, seed: int) -> dict[str, object]:
        """What each stage records, with the run's settings as they resolve today."""
        settings = resolve_run(run, load_experiments().runs[run], self.scale, seed)
        stages = {"train": settings.train, "generate": settings.generate, "score": settings.score}
        return {
            stage: {
                "settings": dump(part),
                "settings_hash": part.hash(),
                "git": {"revision": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
                "python": "3.11.7",
                "packages": {"torch": "2.15.0", "diffusers": "0.42.1"},
                "weights": {"pocket/weights/base": {"vae.safetensors": "ab" * 32}},
                "device": "cpu (x86_64)",
                "cores": 2,
                "threads": 1,
                "started": "2026-01-02T03:04:05+00:00",
                "seconds": 75.5,
                "peak_memory_mb": 912.5,
            }
            for stage, part in stages.items()
            if part is not None
        }

    def samples(self, folder: Path, gain: float, tile: int = 64, count: int = 12) -> None:
        """A contact sheet of coloured tiles, one per prompt, and where each tile is."""
        sheet = Image.new("RGB", (tile * count, tile), "white")
        draw = ImageDraw.Draw(sheet)
        for index in range(count):
            left, size = index * tile, 10 + 4 * gain
            draw.rectangle((left, 0, left + tile, tile), fill=(235, 238 - 6 * (index % 3), 230))
            box = (left + 32 - size, 32 - size, left + 32 + size, 32 + size)
            draw.ellipse(box, fill=(20 * index, 90, 220 - 15 * index))
        sheet.save(folder / "samples.png")
        described = [
            {
                "prompt_index": index,
                "prompt": f"a photo of scene {index}",
                "tag": TASKS[index % len(TASKS)],
                "box": [index * tile, 0, (index + 1) * tile, tile],
            }
            for index in range(count)
        ]
        text = json.dumps({"tile": [tile, tile], "samples": described})
        (folder / "samples.json").write_text(text)
