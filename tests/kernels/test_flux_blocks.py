"""A FLUX on the fused operations is the stock one: weights, outputs and gradients."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from leapalign.kernels.flux import FUSED, fuse
from tests import tolerances

BATCH, TEXT, IMAGE = 2, 7, 9


@pytest.fixture(scope="module")
def stock(tiny_flux_folder: Path) -> FluxTransformer2DModel:
    """The transformer as diffusers loads it."""
    return FluxTransformer2DModel.from_pretrained(tiny_flux_folder, subfolder="transformer")


@pytest.fixture
def fused(stock: FluxTransformer2DModel) -> FluxTransformer2DModel:
    """The same with the operations fitted in."""
    transformer = copy.deepcopy(stock)
    fuse(transformer)
    return transformer


def outcome(transformer: FluxTransformer2DModel) -> dict[str, Tensor]:
    """The velocity, and the gradients to the latents and to every parameter."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    config = transformer.config
    x = normal(BATCH, IMAGE, config.in_channels).requires_grad_()
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="ij")
    places = torch.stack([0 * rows, rows, columns], dim=-1).view(IMAGE, 3)
    velocity = transformer(
        hidden_states=x,
        encoder_hidden_states=normal(BATCH, TEXT, config.joint_attention_dim),
        pooled_projections=normal(BATCH, config.pooled_projection_dim),
        timestep=torch.tensor([0.9, 0.3]),
        guidance=torch.full((BATCH,), 3.5),
        txt_ids=torch.zeros(TEXT, 3),
        img_ids=places,
        return_dict=False,
    )[0]
    transformer.zero_grad(set_to_none=True)
    velocity.backward(normal(*velocity.shape))
    gradients = {name: parameter.grad for name, parameter in transformer.named_parameters()}
    return {"velocity": velocity.detach(), "latents": x.grad, **gradients}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, right in expected.items():
        error = float((found[name] - right).abs().max() / right.abs().max())
        assert error <= tolerances.KERNELS_IN_FLUX, f"{name}: {error}"


def test_every_module_that_can_be_is_fused_and_no_weight_changes(
    stock: FluxTransformer2DModel, fused: FluxTransformer2DModel
) -> None:
    assert not any(type(module) in FUSED for module in fused.modules())
    assert [type(m).__name__ for m in fused.modules()] == [
        type(m).__name__ for m in stock.modules()
    ]
    state = fused.state_dict()
    assert list(state) == list(stock.state_dict())
    assert all(torch.equal(state[name], weight) for name, weight in stock.state_dict().items())


def test_the_references_give_the_stock_models_bits(
    stock: FluxTransformer2DModel, fused: FluxTransformer2DModel
) -> None:
    expected = outcome(stock)
    for name, found in outcome(fused).items():
        assert torch.equal(found, expected[name]), name


@pytest.mark.usefixtures("kernels")
def test_the_kernels_give_the_stock_models_outputs_and_gradients(
    stock: FluxTransformer2DModel, fused: FluxTransformer2DModel
) -> None:
    assert_close(outcome(fused), outcome(stock))


@pytest.mark.usefixtures("kernels")
def test_they_do_so_under_checkpointing_and_regional_compilation(
    stock: FluxTransformer2DModel, fused: FluxTransformer2DModel
) -> None:
    fused.enable_gradient_checkpointing()
    checkpointed = outcome(fused)
    fused.disable_gradient_checkpointing()
    torch.compiler.reset()
    fused.compile_repeated_blocks(backend="aot_eager", fullgraph=True)
    compiled, expected = outcome(fused), outcome(stock)
    assert_close(checkpointed, expected)
    assert_close(compiled, expected)


def test_a_transformer_in_half_precision_is_left_alone(stock: FluxTransformer2DModel) -> None:
    half = copy.deepcopy(stock).half()
    fuse(half)
    assert all(type(a) is type(b) for a, b in zip(half.modules(), stock.modules(), strict=True))
