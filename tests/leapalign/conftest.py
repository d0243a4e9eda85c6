"""Tiny FLUX models and a short training, shared by the core's tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch

from leapalign.settings import Backbone, Method, Optimizer, Reward, Training, TrainSettings
from tests.leapalign.problems import PROMPTS

if TYPE_CHECKING:
    from leapalign.backbones.flux import Flux
    from leapalign.training import Training

# No deadline: a busy machine is no error. Derandomised: a failure shows again.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def flux(tiny_flux_folder: Path) -> Flux:
    """The tiny FLUX in float32, as training runs it."""
    from leapalign.backbones.flux import Flux

    return Flux.load(tiny_flux_folder, 64)


@pytest.fixture(scope="session")
def flux64(tiny_flux_folder: Path) -> Flux:
    """The tiny FLUX in float64, for exact comparisons."""
    from leapalign.backbones.flux import Flux

    return Flux.load(tiny_flux_folder, 64, dtype=torch.float64)


@pytest.fixture
def settings(tiny_flux_folder: Path, tmp_path: Path) -> TrainSettings:
    """A training of a few seconds on the tiny FLUX, under the shipped HPSv2.1."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    return TrainSettings(
        scale="test",
        seed=3,
        backbone=Backbone("leapalign.backbones.flux:Flux", str(tiny_flux_folder)),
        resolution=64,
        method=Method("leapalign.leap:LeapAlign"),
        training=Training(
            prompts=str(prompts),
            steps=4,
            guidance=3.5,
            iterations=16,
            batch=2,
            optimizer=Optimizer(lr=1e-3),
            clip=1.0,
            ema=0.9,
            reward=Reward("hpsv2", str(ROOT / "pocket/weights/hpsv2"), 0.55),
            micro_batch=2,
            checkpoint_every=2,
        ),
    )


@pytest.fixture
def run(settings: TrainSettings) -> Training:
    """A training that is about to begin."""
    from leapalign.training import prepare

    return prepare(settings, "cpu")
