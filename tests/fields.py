"""An analytic velocity field in float64, small enough to differentiate through whole rollouts."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class AnalyticField(nn.Module):
    """v(x, t) = tanh(x A + t b + context) C: nonlinear in the state, the time and the weights.

    It meets the `Velocity` protocol: `field[rows]` is the field of those samples, weights shared.

    Args:
        batch: samples, each with a context of its own, as prompts are.
        channels: width of the latents.
        seed: of the weights and contexts.
    """

    def __init__(self, batch: int, channels: int = 4, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.inner = nn.Parameter(normal(channels, channels) / channels**0.5)
        self.outer = nn.Parameter(normal(channels, channels) / channels**0.5)
        self.time = nn.Parameter(normal(channels))
        self.context = normal(batch, 1, channels)

    def forward(
        self, x: Float[Tensor, "batch tokens channels"], time: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch tokens channels"]:
        """The velocity dx/dσ."""
        return self._velocity(x, time, self.context)

    def __getitem__(self, rows: Tensor | slice) -> _Rows:
        return _Rows(self, self.context[rows])

    def _velocity(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        told = time[:, None, None] * self.time
        return torch.tanh(x @ self.inner + told + context) @ self.outer


class _Rows:
    """Some samples of a field."""

    def __init__(self, field: AnalyticField, context: Tensor) -> None:
        self.field, self.context = field, context

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        return self.field._velocity(x, time, self.context)

    def __getitem__(self, rows: Tensor | slice) -> _Rows:
        return _Rows(self.field, self.context[rows])
