"""A FLUX or SD3 on the fused operations is the stock one: weights, outputs and gradients."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel, SD3Transformer2DModel
from torch import Tensor, nn

from leapalign import compute
from leapalign.backbones.flux import Flux
from leapalign.backbones.sd3 import StableDiffusion3
from leapalign.kernels.fuse import FUSED, fuse
from tests import tolerances
from tests.leapalign.test_sd3 import tiny_pipeline

BATCH, TEXT, SIDE = 2, 7, 3
TIME = torch.tensor([0.9, 0.3])

Transformer = FluxTransformer2DModel | SD3Transformer2DModel


@pytest.fixture(scope="module", params=[Flux, StableDiffusion3], ids=["FLUX", "SD3"])
def loader(request: pytest.FixtureRequest) -> type[Flux | StableDiffusion3]:
    """The backbone that loads `folder`."""
    return request.param


@pytest.fixture(scope="module")
def folder(loader: type, tiny_flux_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline; SD3's first block has two attentions, its last one no text."""
    if loader is Flux:
        return tiny_flux_folder
    folder = tmp_path_factory.mktemp("sd3")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def stock(loader: type[Flux | StableDiffusion3], folder: Path) -> Transformer:
    """The transformer as diffusers loads it."""
    kind = FluxTransformer2DModel if loader is Flux else SD3Transformer2DModel
    return kind.from_pretrained(folder, subfolder="transformer")


@pytest.fixture
def fused(stock: Transformer) -> Transformer:
    """The same with the operations fitted in."""
    transformer = copy.deepcopy(stock)
    fuse(transformer)
    return transformer


def outcome(transformer: Transformer) -> dict[str, Tensor]:
    """The velocity, and the gradients to the latents and to every parameter that has one."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    config = transformer.config
    inputs: dict[str, Any] = {
        "encoder_hidden_states": normal(BATCH, TEXT, config.joint_attention_dim),
        "pooled_projections": normal(BATCH, config.pooled_projection_dim),
    }
    if isinstance(transformer, FluxTransformer2DModel):
        rows, columns = torch.meshgrid(*[torch.arange(float(SIDE))] * 2, indexing="ij")
        x = normal(BATCH, SIDE**2, config.in_channels)
        inputs["timestep"], inputs["guidance"] = TIME, torch.full((BATCH,), 3.5)
        inputs["img_ids"] = torch.stack([0 * rows, rows, columns], dim=-1).view(SIDE**2, 3)
        inputs["txt_ids"] = torch.zeros(TEXT, 3)
    else:
        side = SIDE * config.patch_size
        x = normal(BATCH, config.in_channels, side, side)
        inputs["timestep"] = 1000 * TIME
    x.requires_grad_()
    velocity = transformer(hidden_states=x, **inputs, return_dict=False)[0]
    transformer.zero_grad(set_to_none=True)
    velocity.backward(normal(*velocity.shape))
    gradients = {name: parameter.grad for name, parameter in transformer.named_parameters()}
    found = {"velocity": velocity.detach(), "latents": x.grad, **gradients}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        assert torch.equal(found[name], right), name


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, right in expected.items():
        error, size = (found[name] - right).abs().max(), right.abs().max()
        assert error <= tolerances.KERNELS_IN_BLOCKS * size, f"{name}: {error} of {size}"


def types(network: nn.Module) -> list[type]:
    return [type(module) for module in network.modules()]


def test_every_module_that_can_be_is_fused_and_no_weight_changes(
    stock: Transformer, fused: Transformer
) -> None:
    assert types(fused) == [FUSED.get(kind, kind) for kind in types(stock)] != types(stock)
    assert [kind.__name__ for kind in types(fused)] == [kind.__name__ for kind in types(stock)]
    assert list(fused.state_dict()) == list(stock.state_dict())
    assert_same(fused.state_dict(), stock.state_dict())


def test_the_references_give_the_stock_models_bits(stock: Transformer, fused: Transformer) -> None:
    assert_same(outcome(fused), outcome(stock))


@pytest.mark.parametrize("loader", [StableDiffusion3], indirect=True)
def test_they_do_so_where_the_feed_forward_is_chunked(
    stock: SD3Transformer2DModel, fused: SD3Transformer2DModel
) -> None:
    chunked = copy.deepcopy(stock)
    for transformer in (chunked, fused):
        transformer.enable_forward_chunking()
    assert_same(outcome(fused), outcome(chunked))


@pytest.mark.usefixtures("kernels")
def test_the_kernels_give_the_stock_models_outputs_and_gradients(
    stock: Transformer, fused: Transformer
) -> None:
    found, expected = outcome(fused), outcome(stock)
    assert_close(found, expected)
    assert not torch.equal(found["velocity"], expected["velocity"])  # they rounded otherwise


@pytest.mark.usefixtures("kernels")
def test_they_do_so_under_checkpointing_and_regional_compilation(
    stock: Transformer, fused: Transformer
) -> None:
    fused.enable_gradient_checkpointing()
    checkpointed = outcome(fused)
    fused.disable_gradient_checkpointing()
    torch.compiler.reset()
    for block in compute.blocks(fused):
        block.compile(backend="aot_eager", fullgraph=True)
    compiled, expected = outcome(fused), outcome(stock)
    assert_close(checkpointed, expected)
    assert_close(compiled, expected)


def test_a_loaded_backbone_is_on_them(
    loader: type[Flux | StableDiffusion3], folder: Path, fused: Transformer
) -> None:
    assert types(loader.load(folder, 64).transformer) == types(fused)


def test_a_transformer_in_half_precision_is_left_alone(stock: Transformer) -> None:
    half = copy.deepcopy(stock).half()
    fuse(half)
    assert types(half) == types(stock)


def test_another_model_is_left_alone() -> None:
    """FLUX.2 has norms of the same classes."""
    flux2 = Flux2Transformer2DModel(
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=1,
        joint_attention_dim=8,
        axes_dims_rope=(2, 2, 2, 2),
    )
    before = types(flux2)
    assert any(kind in FUSED for kind in before)
    fuse(flux2)
    assert types(flux2) == before
