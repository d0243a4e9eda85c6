"""Functions whose samples are independent, evaluated and differentiated a few samples at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Samplewise = Callable[[Tensor, slice], Float[Tensor, "part ..."]]
"""What each sample of a part gives: of the part's rows, and of which rows they are."""


def in_parts(
    function: Samplewise, x: Float[Tensor, "batch ..."], size: int
) -> Float[Tensor, "batch ..."]:
    """f(x), of which only `size` samples' graph is alive at once, in the backward pass too.

    Sample b's value depends on x[b] alone. So its slope df_b/dx_b is taken with it, while its graph
    is there, and the backward pass is the product with the cotangent of f_b: nothing is computed
    twice.

    Args:
        function: f; it has no gradient to anything but x, and with gradient one value a sample.
        x: the samples.
        size: samples at once.
    """
    parts = [slice(start, start + size) for start in range(0, len(x), size)]
    if torch.is_grad_enabled() and x.requires_grad:
        values: Tensor = _Sloped.apply(x, function, parts)
        return values
    return torch.cat([function(x[part], part) for part in parts])


class _Sloped(torch.autograd.Function):
    """The values, with the slopes saved for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Samplewise, parts: list[slice]) -> Tensor:  # noqa: ANN401 - autograd's
        values, slopes = [], []
        for part in parts:
            with torch.enable_grad():
                rows = x[part].detach().requires_grad_()
                value = function(rows, part)
                (slope,) = torch.autograd.grad(value.sum(), rows)
            values.append(value.detach())
            slopes.append(slope)
        ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401 - autograd's
        (slopes,) = ctx.saved_tensors
        return cotangent.view(-1, *[1] * (slopes.dim() - 1)) * slopes, None, None
