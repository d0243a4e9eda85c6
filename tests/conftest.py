"""Fixtures that all tests share; one thread each, so that two workers do not slow each other."""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
os.environ.update(HF_HUB_OFFLINE="1", MPLBACKEND="Agg")
# Triton decides at its import whether it interprets. The kernels are for the tests that switch them
# on (the `kernels` fixture); all others run on the references, as they would on any CPU.
os.environ.update(TRITON_INTERPRET="1", LEAPALIGN_KERNELS="0")

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.fields import AnalyticField

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A cache of the tests' own, which begins empty."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def analytic_field() -> Callable[..., AnalyticField]:
    """Makes an analytic float64 velocity field for a batch."""
    return AnalyticField


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels take what they can, on the CPU through Triton's interpreter."""
    from leapalign.kernels import dispatch

    assert dispatch.INTERPRETED, "Triton was imported before tests/conftest.py set TRITON_INTERPRET"
    monkeypatch.setattr(dispatch, "ENABLED", True)
    monkeypatch.setattr(dispatch, "IN_BLOCKS", True)


@pytest.fixture(scope="session")
def tiny_flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock FluxPipeline folder with a tiny transformer and random weights (64x64 images)."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    from pocket import text, vae

    torch.manual_seed(0)
    prompts = ["a red circle", "two blue squares", "a green star left of a pink heart"]
    t5_tokenizer, clip_tokenizer = (
        text.make_t5_tokenizer(prompts),
        text.make_clip_tokenizer(prompts),
    )
    transformer = FluxTransformer2DModel(
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=text.WIDTH,
        pooled_projection_dim=text.WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae.make_vae(),
        text_encoder=text.make_clip(clip_tokenizer),
        tokenizer=clip_tokenizer,
        text_encoder_2=text.make_t5(t5_tokenizer),
        tokenizer_2=t5_tokenizer,
        transformer=transformer,
    )
    folder = tmp_path_factory.mktemp("flux")
    pipeline.save_pretrained(folder)
    return folder
