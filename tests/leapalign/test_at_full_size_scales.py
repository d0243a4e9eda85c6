"""The full-size scales' settings and code path under every method, on tiny models."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from leapalign.config import load_method, resolve_run
from leapalign.experiments import load_experiments
from leapalign.settings import Backbone, Reward, TrainSettings
from leapalign.training import prepare
from tests.leapalign.conftest import ROOT
from tests.leapalign.problems import PROMPTS
from tests.leapalign.test_sd3 import tiny_pipeline

EXPERIMENTS = load_experiments()
RUNS = {
    load_method(run.method).method: name
    for name, run in reversed(EXPERIMENTS.runs.items())
    if run.method and not (run.reward or run.task or run.backbone)
}
"""The first run of each method, by the method's class."""

SMALLER = {"group": 2, "updates_per_iteration": 2, "window": 2, "last": 2, "active": 2}
"""Settings of the methods that must fit a short path and a small batch."""


@pytest.fixture(scope="module")
def folders(tiny_flux_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    sd3 = tmp_path_factory.mktemp("sd3")
    tiny_pipeline().save_pretrained(sd3)
    return {"flux": tiny_flux_folder, "flux-lora": tiny_flux_folder, "sd35": sd3}


def in_miniature(settings: TrainSettings, folder: Path, prompts: Path) -> TrainSettings:
    """A scale's training on a tiny model, in one process."""
    smaller = {
        name: min(value, SMALLER[name]) if name in SMALLER else value
        for name, value in settings.method.settings.items()
    }
    return dataclasses.replace(
        settings,
        backbone=Backbone(settings.backbone.loader, str(folder)),
        resolution=64,
        method=dataclasses.replace(settings.method, settings=smaller),
        training=dataclasses.replace(
            settings.training,
            prompts=str(prompts),
            steps=5,
            batch=4,
            micro_batch=2,
            reward=Reward("hpsv2", str(ROOT / "pocket/weights/hpsv2"), 0.55),
            rewards_beside={},
        ),
        compute=dataclasses.replace(settings.compute, devices=1, compile=False),
    )


@pytest.mark.parametrize("run", RUNS.values())
@pytest.mark.parametrize("scale", ["flux", "flux-lora", "sd35"])
def test_every_method_trains_at_every_full_size_scale(
    scale: str, run: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """bfloat16 passes, recomputed blocks, images one by one; an adapter, or all weights."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    resolved = resolve_run(run, EXPERIMENTS.runs[run], scale, 0).train
    assert resolved is not None
    assert resolved.compute.precision == "bfloat16"
    training = prepare(in_miniature(resolved, folders[scale], prompts), "cpu")
    trained = dict(training.average.trained)
    assert all(("lora" in name) == (scale == "flux-lora") for name in trained)
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    before = {name: weight.detach().clone() for name, weight in trained.items()}
    line = training.iterate()
    assert line["grad_norm"] > 0.0
    assert math.isfinite(line["loss"])
    assert any(not torch.equal(before[name], weight) for name, weight in trained.items())
