"""The Stable Diffusion 3 backbone does what the stock pipeline does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from leapalign.backbones.flux import Flux
from leapalign.backbones.sd3 import StableDiffusion3
from leapalign.errors import UserError
from leapalign.rollout import rollout
from leapalign.settings import Backbone, TrainSettings
from leapalign.streams import stream
from leapalign.train import train
from pocket import text, vae
from tests import tolerances
from tests.leapalign.problems import PROMPTS

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "pocket/weights/sd3"
STEPS = 8


def tiny_pipeline(**parts: Any) -> StableDiffusion3Pipeline:
    """A stock pipeline with random weights, dual attention and SD3.5's normalised queries."""
    torch.manual_seed(0)
    t5_tokenizer, clip_tokenizer = (
        text.make_t5_tokenizer(PROMPTS),
        text.make_clip_tokenizer(PROMPTS),
    )
    half = text.clip_config(clip_tokenizer, text.WIDTH // 2)
    stock = {
        "transformer": SD3Transformer2DModel(
            sample_size=8,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=text.WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=text.WIDTH,
            pos_embed_max_size=6,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        "vae": vae.make_vae(),
        "text_encoder": CLIPTextModelWithProjection(half),
        "tokenizer": clip_tokenizer,
        "text_encoder_2": CLIPTextModelWithProjection(half),
        "tokenizer_2": clip_tokenizer,
        "text_encoder_3": text.make_t5(t5_tokenizer),
        "tokenizer_3": t5_tokenizer,
    }
    return StableDiffusion3Pipeline(**(stock | parts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sd3")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sd3(folder: Path) -> StableDiffusion3:
    return StableDiffusion3.load(folder, 64)


def stock_pipeline(folder: Path) -> StableDiffusion3Pipeline:
    t5 = () if (folder / "text_encoder_3").is_dir() else ("text_encoder_3", "tokenizer_3")
    pipeline = StableDiffusion3Pipeline.from_pretrained(folder, **dict.fromkeys(t5))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def stock(folder: Path) -> StableDiffusion3Pipeline:
    return stock_pipeline(folder)


@torch.no_grad()
def images(folder: Path, sd3: StableDiffusion3, guidance: float) -> tuple[Tensor, Tensor]:
    """The same prompts and noise through the stock pipeline and through our rollout."""

    def generators() -> list[torch.Generator]:
        return [stream(0, slot, "initial") for slot in range(len(PROMPTS))]

    pipeline = stock_pipeline(folder)
    tokenizer = pipeline.tokenizer_3
    stock = pipeline(
        prompt=PROMPTS,
        height=sd3.resolution,
        width=sd3.resolution,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        generator=generators(),
        max_sequence_length=256 if tokenizer is None else tokenizer.model_max_length,
        output_type="pt",
    ).images
    record = rollout(sd3.field(PROMPTS, guidance), sd3.latents(generators()), sd3.grid(STEPS))
    return stock, sd3.decode(record.states[-1])


@pytest.mark.parametrize("guidance", [1.0, 4.5])
def test_rollout_draws_the_stock_pipelines_images(
    folder: Path, sd3: StableDiffusion3, guidance: float
) -> None:
    stock, ours = images(folder, sd3, guidance)
    assert (stock - ours).abs().max() < tolerances.PIPELINE_IMAGE
    assert not torch.allclose(ours[0], ours[1])


def test_rollout_draws_the_stock_pipelines_images_at_another_resolution(folder: Path) -> None:
    stock, ours = images(folder, StableDiffusion3.load(folder, 96), 4.5)
    assert ours.shape == (3, 3, 96, 96)
    assert (stock - ours).abs().max() < tolerances.PIPELINE_IMAGE


def test_rollout_draws_the_stock_pipelines_images_without_t5(tmp_path: Path) -> None:
    tiny_pipeline(text_encoder_3=None, tokenizer_3=None).save_pretrained(tmp_path)
    stock, ours = images(tmp_path, StableDiffusion3.load(tmp_path, 64), 4.5)
    assert (stock - ours).abs().max() < tolerances.PIPELINE_IMAGE


@pytest.mark.parametrize("guidance", [1.0, 1.5, 4.5])
def test_rollout_draws_the_stock_pipelines_images_on_the_pocket_model(guidance: float) -> None:
    if not SHIPPED.is_dir():
        pytest.skip("the pocket weights are not there")
    stock, ours = images(SHIPPED, StableDiffusion3.load(SHIPPED, 64), guidance)
    assert (stock - ours).abs().max() < tolerances.PIPELINE_IMAGE


def test_guidance_goes_through_both_passes(sd3: StableDiffusion3) -> None:
    """In value and gradient the field is v_negative + g (v_prompt - v_negative)."""
    time = torch.tensor([0.9, 0.5, 0.1])
    x = sd3.latents([stream(0, slot) for slot in range(3)]).requires_grad_()
    prompted, negative = sd3.field(PROMPTS, 1.0)(x, time), sd3.field([""] * 3, 1.0)(x, time)
    expected = negative + 4.5 * (prompted - negative)
    guided = sd3.field(PROMPTS, 4.5)(x, time)
    torch.testing.assert_close(guided, expected)
    gradients = [torch.autograd.grad(v.square().mean(), x)[0] for v in (guided, expected)]
    torch.testing.assert_close(*gradients)


def test_an_evaluation_takes_one_pass_for_each_side_of_the_guidance(sd3: StableDiffusion3) -> None:
    rows: list[int] = []
    hook = sd3.transformer.register_forward_pre_hook(
        lambda _, __, arguments: rows.append(len(arguments["hidden_states"])), with_kwargs=True
    )
    for guidance in (0.0, 1.0, 4.5):
        sd3.field(PROMPTS, guidance)(sd3.latents([stream(0, i) for i in range(3)]), torch.ones(3))
    hook.remove()
    assert rows == [3 * sd3.passes(guidance) for guidance in (0.0, 1.0, 4.5)] == [3, 3, 6]


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        FlowMatchEulerDiscreteScheduler(shift=1.65),
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    ],
    ids=["SD3", "another", "dynamic"],
)
@pytest.mark.parametrize("steps", [1, 8, 25, 50])
def test_the_grid_is_the_stock_schedulers(
    sd3: StableDiffusion3,
    stock: StableDiffusion3Pipeline,
    scheduler: FlowMatchEulerDiscreteScheduler,
    steps: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sd3.pipeline, "scheduler", scheduler)
    stock.scheduler = scheduler
    stock("a ring", height=64, width=64, num_inference_steps=steps, output_type="latent")
    torch.testing.assert_close(torch.tensor(sd3.grid(steps).sigmas), scheduler.sigmas.float())


def test_prompts_are_encoded_as_the_stock_pipeline_does(
    sd3: StableDiffusion3, stock: StableDiffusion3Pipeline
) -> None:
    ours = sd3.encode([*PROMPTS, ""])
    tokens, _, pooled, _ = stock.encode_prompt(
        [*PROMPTS, ""],
        None,
        None,
        do_classifier_free_guidance=False,
        max_sequence_length=text.TOKENS,
    )
    torch.testing.assert_close(ours.tokens, tokens)
    torch.testing.assert_close(ours.pooled, pooled)


@pytest.mark.parametrize("guidance", [1.0, 4.5])
def test_only_the_rows_asked_for_are_evaluated(sd3: StableDiffusion3, guidance: float) -> None:
    x = sd3.latents([stream(0, slot) for slot in range(3)])
    time = torch.tensor([0.9, 0.5, 0.1])
    rows = torch.tensor([2, 0])
    whole = sd3.field(PROMPTS, guidance)(x, time)
    some = sd3.field(PROMPTS, guidance)[rows](x[rows], time[rows])
    torch.testing.assert_close(some, whole[rows])


def test_decoding_is_differentiable(sd3: StableDiffusion3) -> None:
    x = sd3.latents([stream(0, "decode")]).requires_grad_()
    picture = sd3.decode(x)
    assert picture.shape == (1, 3, 64, 64)
    picture.mean().backward()
    assert x.grad.isfinite().all()
    assert x.grad.any()


def test_training_counts_the_passes_of_guided_evaluations(
    folder: Path, settings: TrainSettings, tmp_path: Path
) -> None:
    backbone = Backbone("leapalign.backbones.sd3:StableDiffusion3", str(folder))
    one = dataclasses.replace(settings.training, iterations=1)
    guided = dataclasses.replace(settings, backbone=backbone, training=one)
    tally = train(guided, tmp_path / "out", tmp_path / "checkpoints", "cpu")
    # Two images, each 4 forwards and 2 replays worth 3, all of them in two passes.
    assert tally.evaluations == 2 * 2 * (4 + 2 * 3)
    trained = load_file(tmp_path / "out/transformer.safetensors")
    base = StableDiffusion3.load(folder, 64).transformer.state_dict()
    assert trained.keys() == base.keys()
    assert any(not torch.equal(trained[name], base[name]) for name in base)


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a loadable Stable Diffusion 3 pipeline folder"):
        StableDiffusion3.load(tmp_path, 64)


def test_another_models_folder_is_refused_and_its_loader_named(
    folder: Path, tiny_flux_folder: Path
) -> None:
    with pytest.raises(UserError, match=r"set backbone\.loader to leapalign\.backbones\.flux:Flux"):
        StableDiffusion3.load(tiny_flux_folder, 64)
    with pytest.raises(UserError, match=r"loader to leapalign\.backbones\.sd3:StableDiffusion3"):
        Flux.load(folder, 64)


def test_a_missing_clip_is_refused(tmp_path: Path) -> None:
    tiny_pipeline(text_encoder_2=None, tokenizer_2=None).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"not a loadable Stable Diffusion 3.*'text_encoder_2'"):
        StableDiffusion3.load(tmp_path, 64)


def test_a_resolution_the_model_cannot_make_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"resolution: 65 is not a multiple of 16"):
        StableDiffusion3.load(folder, 65)
    with pytest.raises(UserError, match=r"resolution: 112 is more than 96"):
        StableDiffusion3.load(folder, 112)


def test_weights_of_another_model_are_refused(sd3: StableDiffusion3, tmp_path: Path) -> None:
    weights = tmp_path / "transformer.safetensors"
    weights.write_bytes(b"not safetensors")
    with pytest.raises(UserError, match=r"transformer\.safetensors: not weights of this transf"):
        sd3.load_weights(weights)
