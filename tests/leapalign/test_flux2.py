"""The FLUX.2 [klein] backbone does what the stock pipeline does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from leapalign.backbones.flux import Flux
from leapalign.backbones.flux2 import Flux2Klein
from leapalign.errors import UserError
from leapalign.rollout import rollout
from leapalign.settings import Backbone, TrainSettings
from leapalign.streams import stream
from leapalign.train import train
from pocket.rewards.tokenizer import train_tokenizer
from tests import tolerances
from tests.leapalign.problems import PROMPTS

STEPS = 6
WIDTH = 8


def make_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(["<pad>", "<start>"]),
        pad_token="<pad>",
        padding_side="right",
        chat_template="{% for one in messages %}<start>{{ one.content }}{% endfor %}",
    )


def make_text_encoder(words: int) -> Qwen3ForCausalLM:
    """As deep as the stock pipeline looks, which reads layers 9, 18 and 27."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=words,
            hidden_size=WIDTH,
            intermediate_size=WIDTH,
            num_hidden_layers=27,
            num_attention_heads=1,
            num_key_value_heads=1,
            head_dim=WIDTH,
        )
    )


def make_vae() -> AutoencoderKLFlux2:
    """With statistics of the batch norm as if it had seen latents."""
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    return vae


def save_pipeline(folder: Path, *, is_distilled: bool) -> Path:
    """A stock pipeline with random weights."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=make_vae(),
        text_encoder=make_text_encoder(len(tokenizer)),
        tokenizer=tokenizer,
        transformer=Flux2Transformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=3 * WIDTH,
            timestep_guidance_channels=16,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        is_distilled=is_distilled,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("klein"), is_distilled=False)


@pytest.fixture(scope="module")
def klein(folder: Path) -> Flux2Klein:
    return Flux2Klein.load(folder, 64)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("resolution", [64, 96])
def test_rollout_draws_the_stock_pipelines_images(
    folder: Path, guidance: float, resolution: int
) -> None:
    """Sigmas, prompts, noise, guidance and the decoder's statistics, all at once."""

    def generators() -> list[torch.Generator]:
        return [stream(0, slot, "initial") for slot in range(len(PROMPTS))]

    klein = Flux2Klein.load(folder, resolution)
    pipeline = Flux2KleinPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    stock = pipeline(
        prompt=PROMPTS,
        height=resolution,
        width=resolution,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        generator=generators(),
        output_type="pt",
    ).images
    sigmas = pipeline.scheduler.sigmas.float()
    torch.testing.assert_close(torch.tensor(klein.grid(STEPS).sigmas), sigmas)
    velocity = klein.field(PROMPTS, guidance)
    record = rollout(velocity, klein.latents(generators()), klein.grid(STEPS))
    ours = klein.decode(record.states[-1])
    assert (stock - ours).abs().max() < tolerances.PIPELINE_IMAGE
    assert not torch.allclose(ours[0], ours[1])


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_only_the_rows_asked_for_are_evaluated(klein: Flux2Klein, guidance: float) -> None:
    x = klein.latents([stream(0, slot) for slot in range(3)])
    time, rows = torch.tensor([0.9, 0.5, 0.1]), torch.tensor([2, 0])
    whole = klein.field(PROMPTS, guidance)(x, time)
    some = klein.field(PROMPTS, guidance)[rows](x[rows], time[rows])
    torch.testing.assert_close(some, whole[rows])


def test_decoding_is_differentiable(klein: Flux2Klein) -> None:
    x = klein.latents([stream(0, "decode")]).requires_grad_()
    picture = klein.decode(x)
    assert picture.shape == (1, 3, 64, 64)
    (slope,) = torch.autograd.grad(picture.mean(), x)
    assert slope.isfinite().all()
    assert slope.any()


def test_leapalign_trains_it(folder: Path, settings: TrainSettings, tmp_path: Path) -> None:
    """One step, both passes of the guidance counted."""
    backbone = Backbone("leapalign.backbones.flux2:Flux2Klein", str(folder))
    one = dataclasses.replace(settings.training, iterations=1)
    guided = dataclasses.replace(settings, backbone=backbone, training=one)
    tally = train(guided, tmp_path / "out", tmp_path / "checkpoints", "cpu")
    assert tally.evaluations == 2 * 2 * (4 + 2 * 3)
    trained = load_file(tmp_path / "out/weights/transformer/diffusion_pytorch_model.safetensors")
    base: dict[str, Tensor] = Flux2Klein.load(folder, 64).transformer.state_dict()
    assert trained.keys() == base.keys()
    assert all(value.isfinite().all() for value in trained.values())
    assert any(not torch.equal(trained[name], base[name]) for name in base)


def test_a_distilled_model_takes_no_guidance(tmp_path: Path) -> None:
    klein = Flux2Klein.load(save_pipeline(tmp_path, is_distilled=True), 64)
    with pytest.raises(UserError, match=r"guidance: 4, but this FLUX\.2 model is distilled"):
        klein.prefetch(PROMPTS, 4.0)
    klein.prefetch(PROMPTS, 1.0)


def test_its_folder_names_its_loader(folder: Path) -> None:
    with pytest.raises(UserError, match=r"loader to leapalign\.backbones\.flux2:Flux2Klein"):
        Flux.load(folder, 64)
