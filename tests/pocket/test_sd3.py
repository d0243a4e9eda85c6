"""The shipped SD3 is a stock StableDiffusion3Pipeline folder that paints the world."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel, StableDiffusion3Pipeline

from leapalign.backbones.encodings import EncodedPrompts
from leapalign.backbones.flux import PATCH, FluxVelocity
from leapalign.backbones.sd3 import StableDiffusion3Velocity
from leapalign.weights import SUMS, check_weights, digest, read_sums
from pocket import distill
from pocket.evaluate import choose, load, paint, verdicts
from pocket.sd3 import BASE, GUIDANCE, TAKEN
from pocket.text import TOKENS
from pocket.text import WIDTH as TEXT_WIDTH
from pocket.transformer import GUIDANCE as EMBEDDED
from pocket.transformer import HEADS, WIDTH
from pocket.world import CELLS, all_prompts

SHIPPED = Path("pocket/weights/sd3")
shipped = pytest.mark.skipif(not SHIPPED.is_dir(), reason="the pocket weights are not there")


@shipped
def test_stock_pipeline_runs() -> None:
    pipeline = StableDiffusion3Pipeline.from_pretrained(SHIPPED)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        ["a photo of a red circle", "a photo of a star above a ring"],
        height=64,
        width=64,
        num_inference_steps=2,
        guidance_scale=GUIDANCE,
        max_sequence_length=TOKENS,
        output_type="np",
    ).images
    assert images.shape == (2, 64, 64, 3)
    assert np.isfinite(images).all()


@shipped
def test_every_file_is_under_its_checksum() -> None:
    check_weights(str(SHIPPED), "backbone.path")
    files = {str(p.relative_to(SHIPPED)) for p in SHIPPED.rglob("*") if p.is_file()}
    assert set(read_sums(SHIPPED / SUMS)) == files - {SUMS, "README.md"}


@shipped
def test_what_is_taken_from_the_pocket_flux_is_its_own() -> None:
    for part, source in TAKEN.items():
        for file in (SHIPPED / part).iterdir():
            assert digest(file) == digest(BASE / source / file.name)


@shipped
def test_prompts_are_told_apart_and_from_none() -> None:
    encoded = load(SHIPPED).encode([*(line["prompt"] for line in all_prompts()), ""])
    distance = torch.cdist(encoded.pooled, encoded.pooled)
    assert distance.fill_diagonal_(1e9).min() > 0.05


@shipped
def test_sd3_paints_single_objects() -> None:
    metadata = choose(4, seed=0)[:4]
    prompts = [line["prompt"] for line in metadata]
    images = paint(load(SHIPPED), prompts, steps=10, seed=0, guidance=GUIDANCE)
    assert sum(record["correct"] for record in verdicts(metadata, images)) >= 2


@torch.no_grad()
def test_a_student_starts_as_its_teacher_but_for_positions_and_single_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    teacher = FluxTransformer2DModel(
        in_channels=64,
        num_layers=2,
        num_single_layers=0,
        attention_head_dim=WIDTH // HEADS,
        num_attention_heads=HEADS,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )
    monkeypatch.setattr(distill, "LAYERS", 2)
    monkeypatch.setattr(distill, "SINGLES", ())
    student = distill.make_student()
    student.pos_embed.pos_embed.zero_()
    distill.inherit(student, teacher, (torch.eye(TEXT_WIDTH), torch.zeros(TEXT_WIDTH)))
    prompts = EncodedPrompts(torch.randn(2, TOKENS, TEXT_WIDTH), torch.randn(2, TEXT_WIDTH))
    x, sigma = torch.randn(2, CELLS**2, 64), torch.tensor([0.3, 0.8])
    nowhere = torch.zeros(CELLS**2, 3)
    expected = FluxVelocity(teacher, prompts, EMBEDDED, nowhere, torch.zeros(TOKENS, 3))(x, sigma)
    found = StableDiffusion3Velocity(student, prompts, PATCH)(x, sigma)
    torch.testing.assert_close(found, expected)


def test_pooled_embeddings_are_mapped_by_least_squares() -> None:
    torch.manual_seed(0)
    ours, weight, bias = torch.randn(50, 4), torch.randn(3, 4), torch.randn(3)
    found = distill.pooled_map(ours, ours @ weight.T + bias)
    torch.testing.assert_close(found, (weight, bias))
