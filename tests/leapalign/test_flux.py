"""The FLUX backbone does what the stock pipeline does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from safetensors.torch import save_file

from leapalign.backbones.flux import Flux
from leapalign.errors import UserError
from leapalign.rollout import rollout
from leapalign.streams import stream
from tests import tolerances
from tests.leapalign.problems import PROMPTS

ROOT = Path(__file__).parents[2]
STEPS, GUIDANCE = 8, 3.5


def stock_pipeline(folder: Path) -> FluxPipeline:
    pipeline = FluxPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def images(folder: Path, flux: Flux) -> tuple[torch.Tensor, torch.Tensor]:
    """The same prompts and noise through the stock pipeline and through our rollout."""

    def generators() -> list[torch.Generator]:
        return [stream(0, slot, "initial") for slot in range(len(PROMPTS))]

    pipeline = stock_pipeline(folder)
    stock = pipeline(
        prompt=PROMPTS,
        height=flux.resolution,
        width=flux.resolution,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=generators(),
        max_sequence_length=min(512, pipeline.tokenizer_2.model_max_length),
        output_type="pt",
    ).images
    record = rollout(flux.field(PROMPTS, GUIDANCE), flux.latents(generators()), flux.grid(STEPS))
    return stock, flux.decode(record.states[-1])


def test_rollout_draws_the_stock_pipelines_images(tiny_flux_folder: Path, flux: Flux) -> None:
    stock, ours = images(tiny_flux_folder, flux)
    assert (stock - ours).abs().max() < tolerances.PIPELINE_IMAGE
    assert not torch.allclose(ours[0], ours[1])


def test_rollout_draws_the_stock_pipelines_images_on_the_pocket_model() -> None:
    folder = ROOT / "pocket/weights/base"
    if not folder.is_dir():
        pytest.skip("the pocket weights are not there")
    stock, ours = images(folder, Flux.load(folder, 64))
    assert (stock - ours).abs().max() < tolerances.PIPELINE_IMAGE


@pytest.mark.parametrize("steps", [1, 8, 25])
def test_the_grid_is_the_stock_schedulers(flux: Flux, steps: int) -> None:
    sigmas = np.linspace(1.0, 1 / steps, steps)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(flux.pipeline.scheduler.config)
    shift = {"base_seq_len": 256, "max_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
    scheduler.set_timesteps(sigmas=sigmas, mu=calculate_shift(flux.side**2, **shift))
    torch.testing.assert_close(torch.tensor(flux.grid(steps).sigmas), scheduler.sigmas.float())


def test_guidance_is_refused_where_none_is_embedded(flux: Flux, tiny_flux_folder: Path) -> None:
    """FLUX.1-schnell embeds none."""
    config = tiny_flux_folder / "transformer/config.json"
    without = Flux.load(tiny_flux_folder, 64)
    without.pipeline.transformer = FluxTransformer2DModel.from_config(
        {**json.loads(config.read_text()), "guidance_embeds": False}
    )
    with pytest.raises(UserError, match=r"guidance: 3\.5, .*guidance_embeds is false"):
        without.prefetch(PROMPTS, 3.5)
    with pytest.raises(UserError, match=r"set guidance to 1"):
        without.field(PROMPTS, 3.5)
    x, time = flux.latents([stream(0, slot) for slot in range(3)]), torch.ones(3)
    assert without.field(PROMPTS, 1.0)(x, time).shape == x.shape


def test_only_the_rows_asked_for_are_evaluated(flux: Flux) -> None:
    x = flux.latents([stream(0, slot) for slot in range(3)])
    time = torch.tensor([0.9, 0.5, 0.1])
    rows = torch.tensor([2, 0])
    whole = flux.field(PROMPTS, GUIDANCE)(x, time)
    some = flux.field(PROMPTS, GUIDANCE)[rows](x[rows], time[rows])
    torch.testing.assert_close(some, whole[rows])


def test_decoding_is_differentiable(flux: Flux) -> None:
    x = flux.latents([stream(0, "decode")]).requires_grad_()
    picture = flux.decode(x)
    assert picture.shape == (1, 3, 64, 64)
    assert picture.min() >= 0.0
    assert picture.max() <= 1.0
    picture.mean().backward()
    assert x.grad.isfinite().all()
    assert x.grad.any()


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a loadable FLUX pipeline folder"):
        Flux.load(tmp_path, 64)


def test_a_resolution_between_tokens_is_refused(tiny_flux_folder: Path) -> None:
    with pytest.raises(UserError, match=r"resolution: 65 is not a multiple of"):
        Flux.load(tiny_flux_folder, 65)


def test_weights_of_another_model_are_refused(flux: Flux, tmp_path: Path) -> None:
    weights = tmp_path / "transformer.safetensors"
    weights.write_bytes(b"not safetensors")
    with pytest.raises(UserError, match=r"transformer\.safetensors: not weights of this transf"):
        flux.load_weights(weights)


def test_sharded_weights_of_a_folder_are_those_of_one_file(flux: Flux, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in flux.transformer.state_dict().items()}
    other = {name: value + 1 for name, value in before.items()}
    names = sorted(other)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: other[name].contiguous() for name in part}, tmp_path / file)
    index = {name: file for file, part in shards.items() for name in part}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    # Not in the index: another precision's file beside it is not read.
    save_file({names[0]: before[names[0]].contiguous()}, tmp_path / "other.safetensors")
    try:
        flux.load_weights(tmp_path)
        loaded = flux.transformer.state_dict()
        assert all(torch.equal(loaded[name], other[name]) for name in other)
    finally:
        flux.transformer.load_state_dict(before)


def test_weights_that_lack_or_add_tensors_are_refused_by_name_and_load_nothing(
    flux: Flux, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in flux.transformer.state_dict().items()}
    missing, narrow, *_ = sorted(before)
    other = {name: value.contiguous() + 1 for name, value in before.items() if name != missing}
    save_file(
        {**other, narrow: other[narrow][:1], "lora.up": torch.zeros(1)}, tmp_path / "w.safetensors"
    )
    with pytest.raises(UserError) as error:
        flux.load_weights(tmp_path)
    assert f"1 missing ({missing})" in str(error.value)
    assert "1 unexpected (lora.up)" in str(error.value)
    assert f"1 of another shape ({narrow})" in str(error.value)
    after = flux.transformer.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_folder_without_weights_is_refused(flux: Flux, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.safetensors in it"):
        flux.load_weights(tmp_path)
