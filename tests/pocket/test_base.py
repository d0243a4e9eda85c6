"""The shipped base model is a stock FluxPipeline folder that paints the world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, FluxPipeline

from eval.geneval.judge import judge
from leapalign.backbones.flux import Flux
from pocket.base import load_texts
from pocket.detector import detect
from pocket.evaluate import choose, paint, verdicts
from pocket.transformer import SHIFT
from pocket.vae import decode, encode
from pocket.world import CELLS, all_prompts, render, sample_metadata, sample_scene

BASE = "pocket/weights/base"


@pytest.fixture(scope="module")
def pipeline() -> FluxPipeline:
    pipeline = FluxPipeline.from_pretrained(BASE)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_stock_pipeline_runs(pipeline: FluxPipeline) -> None:
    images = pipeline(
        ["a photo of a red circle", "a photo of a star above a ring"],
        height=64,
        width=64,
        num_inference_steps=2,
        max_sequence_length=16,
        output_type="np",
    ).images
    assert images.shape == (2, 64, 64, 3)
    assert np.isfinite(images).all()


def test_every_prompt_fits_both_tokenizers(pipeline: FluxPipeline) -> None:
    for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2):
        ids = tokenizer([line["prompt"] for line in all_prompts()]).input_ids
        assert max(map(len, ids)) <= tokenizer.model_max_length == CELLS * CELLS
        assert len({tuple(row) for row in ids}) == len(ids)


def test_dynamic_shift_is_the_training_shift(pipeline: FluxPipeline) -> None:
    config = pipeline.scheduler.config
    assert config.base_image_seq_len == CELLS * CELLS
    assert np.exp(config.base_shift) == pytest.approx(SHIFT, abs=0.01)


def test_autoencoder_keeps_what_the_judge_sees() -> None:
    rng = np.random.default_rng(0)
    vae = AutoencoderKL.from_pretrained(f"{BASE}/vae").eval()
    metadata = [sample_metadata(rng) for _ in range(40)]
    with torch.no_grad():
        latents = encode(vae, [render(sample_scene(line, rng)) for line in metadata])
        images = decode(vae, latents)
    assert latents.std().item() == pytest.approx(1, abs=0.2)
    correct = [judge(m, detect(i)).correct for m, i in zip(metadata, images, strict=True)]
    assert np.mean(correct) > 0.9


def test_texts_are_told_apart() -> None:
    encoded = load_texts(Path(BASE)).encoded
    distance = torch.cdist(encoded.pooled, encoded.pooled)
    assert distance.fill_diagonal_(1e9).min() > 0.05


def test_base_paints_single_objects() -> None:
    metadata = choose(4, seed=0)[:4]
    images = paint(Flux.load(BASE, 64), [line["prompt"] for line in metadata], steps=10, seed=0)
    assert sum(record["correct"] for record in verdicts(metadata, images)) >= 2
