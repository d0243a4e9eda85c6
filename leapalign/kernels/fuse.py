"""The fused operations, fitted into a loaded diffusers transformer.

Parameters, their names and the model's own code stay as they are: a module changes its class to one
whose forward computes the same with `leapalign.kernels`, an attention its processor.
"""

from __future__ import annotations

from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from diffusers.models.transformers.transformer_flux import FluxAttention
from torch import nn

from leapalign.kernels.adaln import (
    AdaLayerNormContinuous,
    AdaLayerNormZero,
    AdaLayerNormZeroSingle,
    SD35AdaLayerNormZeroX,
)
from leapalign.kernels.dispatch import DTYPES
from leapalign.kernels.flux import (
    FluxAttnProcessor,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from leapalign.kernels.sd3 import JointTransformerBlock

FUSED: dict[type[nn.Module], type[nn.Module]] = {
    fused.__bases__[0]: fused
    for fused in (
        AdaLayerNormZero,
        SD35AdaLayerNormZeroX,
        AdaLayerNormZeroSingle,
        AdaLayerNormContinuous,
        FluxTransformerBlock,
        FluxSingleTransformerBlock,
        JointTransformerBlock,
    )
}
"""By the diffusers class whose place it takes."""


def fuse(transformer: nn.Module) -> None:
    """Fit the fused operations into a FLUX.1 or Stable Diffusion 3 transformer, in place.

    Any other is left alone, and so is one in float16, whose overflow diffusers' blocks clip, or in
    float64; neither has kernels.
    """
    if not isinstance(transformer, FluxTransformer2DModel | SD3Transformer2DModel):
        return
    if transformer.dtype not in DTYPES:
        return
    for module in transformer.modules():
        if type(module) in FUSED:
            module.__class__ = FUSED[type(module)]
        if isinstance(module, FluxAttention):
            module.set_processor(FluxAttnProcessor())
