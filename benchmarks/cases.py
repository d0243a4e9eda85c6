"""Every fused operation on random inputs, with its reference and the memory traffic it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from leapalign.kernels import gated_add, leap, modulate, prepare, qk_rope, sde
from leapalign.kernels.prepare import View

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]


@dataclass(frozen=True)
class Case:
    """One operation on one set of inputs.

    Attributes:
        name: of the operation.
        operation: from inputs and constants to outputs, with the kernels where they run.
        reference: the same in PyTorch.
        inputs: to which there is gradient.
        constants: floating-point inputs to which there is none.
        traffic: elements that a forward and a backward must move at least, as a multiple of the
            first input's.
        differentiable: how many outputs, from the first, depend on the inputs; by default all.
        compared: what is compared with the exact outputs, made of the outputs.
    """

    name: str
    operation: Function
    reference: Function
    inputs: Sequence[Tensor]
    constants: Sequence[Tensor] = ()
    traffic: tuple[float, float] = (2.0, 3.0)
    differentiable: int | None = None
    compared: Function = lambda *outputs: outputs

    def double(self) -> Case:
        """The same inputs in float64."""
        return replace(
            self,
            inputs=[x.double() for x in self.inputs],
            constants=[c.double() for c in self.constants],
        )

    def forward(self, function: Function) -> Tensors:
        """The outputs, without a graph."""
        with torch.no_grad():
            return function(*self.inputs, *self.constants)

    def graph(self, function: Function) -> Graph:
        """The outputs, with a graph from leaves that hold the inputs."""
        leaves = [x.detach().requires_grad_() for x in self.inputs]
        outputs = function(*leaves, *self.constants)
        return Graph(leaves, outputs, outputs[: self.differentiable])


class Graph(NamedTuple):
    """A forward pass that waits for its backward."""

    leaves: list[Tensor]
    outputs: Tensors
    differentiable: Tensors

    def cotangents(self, generator: torch.Generator) -> Tensors:
        """Random cotangents of the outputs' own types."""
        return tuple(
            torch.randn(out.shape, generator=generator, device=out.device, dtype=out.dtype)
            for out in self.differentiable
        )

    def gradients(self, cotangents: Tensors) -> Tensors:
        """The leaves' gradients; the graph stays."""
        matched = [c.to(o.dtype) for c, o in zip(cotangents, self.differentiable, strict=True)]
        return torch.autograd.grad(self.differentiable, self.leaves, matched, retain_graph=True)


@dataclass(frozen=True)
class Maker:
    """Draws cases on one device in one type; the inputs of odd ones are not contiguous."""

    generator: torch.Generator
    dtype: torch.dtype
    contiguous: bool = True

    def normal(self, *shape: int) -> Tensor:
        """A normal tensor; not contiguous, it is the inner part of one with wider rows."""
        *rows, width = shape
        wide = width if self.contiguous else width + 5
        device = self.generator.device
        drawn = torch.randn(*rows, wide, generator=self.generator, device=device, dtype=self.dtype)
        return drawn if self.contiguous else drawn[..., 2:-3]

    def level(self, batch: int) -> Tensor:
        """A positive number between 0.1 and 1 per sample, float32."""
        uniform = torch.rand(batch, generator=self.generator, device=self.generator.device)
        return 0.1 + 0.9 * uniform

    def modulate(self, batch: int, tokens: int, channels: int) -> Case:
        """Adaptive LayerNorm; scale and shift are parts of one projection, as in the blocks."""
        projected = self.normal(batch, 6 * channels)
        scale, shift = projected.chunk(6, dim=1)[1:3]
        return Case(
            "modulate",
            lambda *inputs: (modulate.modulate(*inputs),),
            lambda *inputs: (modulate.reference(*inputs),),
            [self.normal(batch, tokens, channels), scale, shift],
        )

    def gated_add(self, batch: int, tokens: int, channels: int) -> Case:
        """Gated residual."""
        shape = batch, tokens, channels
        return Case(
            "gated_add",
            lambda *inputs: (gated_add.gated_add(*inputs),),
            lambda *inputs: (gated_add.reference(*inputs),),
            [self.normal(*shape), self.normal(*shape), self.normal(batch, channels)],
            traffic=(3.0, 3.0),
        )

    def qk_rope(self, batch: int, tokens: Sequence[int], heads: int, width: int) -> Case:
        """Query and key of as many streams as there are entries in `tokens`."""
        device, joint = self.generator.device, sum(tokens)
        angles = torch.rand(joint, width // 2, generator=self.generator, device=device)
        angles = 6.0 * angles.repeat_interleave(2, dim=1)

        def on_streams(function: Function) -> Function:
            def flat(*tensors: Tensor) -> Tensors:
                streams = [
                    qk_rope.Stream(*tensors[i : i + 4]) for i in range(0, len(tensors) - 2, 4)
                ]
                return function(streams, *tensors[-2:])

            return flat

        inputs = [
            tensor
            for n in tokens
            for tensor in (
                self.normal(batch, n, heads, width),
                self.normal(batch, n, heads, width),
                self.normal(width),
                self.normal(width),
            )
        ]
        share = joint / tokens[0]
        return Case(
            "qk_rope",
            on_streams(qk_rope.qk_rope),
            on_streams(qk_rope.reference),
            inputs,
            [angles.cos(), angles.sin()],
            traffic=(4.0 * share, 6.0 * share),
        )

    def leap(self, batch: int, tokens: int, channels: int) -> Case:
        """A leap whose target is nowhere too near it: there the distance has a kink."""
        shape = batch, tokens, channels
        x, v, weight = self.normal(*shape), self.normal(*shape), -self.level(batch)
        gap = self.normal(*shape)
        away = torch.where(gap < 0, -0.1, 0.1).to(gap)
        landed = x + weight[:, None, None].to(x) * v
        return Case(
            "leap",
            lambda x, v, target, weight: leap.land(x, v, weight, target),
            lambda x, v, target, weight: leap.reference(x, v, weight, target),
            [x, v, landed + gap + away],
            [weight],
            traffic=(4.0, 7.0),
        )

    def sde_step(self, batch: int, tokens: int, channels: int) -> Case:
        """A stochastic step; its log-density depends on the noise alone.

        It is of the state as rounded, and so compared with that state's exact one.
        """
        shape = batch, tokens, channels
        device = self.generator.device
        seed = torch.randint(2**62, (batch,), generator=self.generator, device=device)
        x, v = self.normal(*shape), self.normal(*shape)
        step = sde.Transition(self.level(batch), -self.level(batch), self.level(batch))

        def compared(x_next: Tensor, density: Tensor) -> Tensors:
            exactly = sde.Transition(*(coefficient.double() for coefficient in step))
            exact = sde.log_prob_reference(x.double(), v.double(), x_next.double(), exactly)
            return x_next, 1.0 + density - exact

        return Case(
            "sde_step",
            lambda x, v, *step: sde.sde_step(x, v, sde.Transition(*step), seed),
            lambda x, v, *step: sde.step_reference(x, v, sde.Transition(*step), seed),
            [x, v],
            step,
            traffic=(3.0, 3.0),
            differentiable=1,
            compared=compared,
        )

    def sde_log_prob(self, batch: int, tokens: int, channels: int) -> Case:
        """A recorded step's log-density."""
        shape = batch, tokens, channels
        return Case(
            "sde_log_prob",
            lambda x, v, x_next, *step: (sde.sde_log_prob(x, v, x_next, sde.Transition(*step)),),
            lambda x, v, x_next, *step: (
                sde.log_prob_reference(x, v, x_next, sde.Transition(*step)),
            ),
            [self.normal(*shape), self.normal(*shape), self.normal(*shape)],
            [self.level(batch), -self.level(batch), self.level(batch)],
            traffic=(3.0, 6.0),
        )

    def prepare(self, batch: int, height: int, width: int, size: int) -> Case:
        """HPSv2's view of an image: longest side to `size`, centred on black."""
        longest = max(height, width)
        resized = round(height * size / longest), round(width * size / longest)
        corner = -((size - resized[0]) // 2), -((size - resized[1]) // 2)
        view = View(resized, corner, (size, size), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
        both = 1.0 + size**2 / (height * width)
        return Case(
            "prepare",
            lambda images: (prepare.prepare(images, view),),
            lambda images: (prepare.reference(images, view),),
            [self.normal(batch, 3, height, width)],
            traffic=(both, both),
        )


def odd_cases(maker: Maker) -> list[Case]:
    """Small cases whose sizes fit no block."""
    return [
        maker.modulate(5, 123, 123),
        maker.modulate(1, 7, 33),
        maker.gated_add(5, 123, 123),
        maker.gated_add(1, 7, 33),
        maker.qk_rope(2, (7, 11), 3, 42),
        maker.qk_rope(1, (13,), 5, 16),
        maker.leap(5, 123, 123),
        maker.leap(1, 7, 33),
        maker.sde_step(5, 123, 123),
        maker.sde_step(1, 7, 33),
        maker.sde_log_prob(5, 123, 123),
        maker.sde_log_prob(1, 7, 33),
        maker.prepare(1, 61, 45, 17),
        maker.prepare(2, 12, 19, 32),
    ]


def errors(case: Case, generator: torch.Generator) -> dict[str, float]:
    """Largest error of each output and gradient against float64, relative to its largest value."""
    graph = case.graph(case.operation)
    exact = case.double().graph(case.reference)
    cotangents = graph.cotangents(generator)
    found = [*case.compared(*graph.outputs), *graph.gradients(cotangents)]
    right = [*case.compared(*exact.outputs), *exact.gradients(cotangents)]
    names = [f"output {i}" for i in range(len(graph.outputs))]
    names += [f"gradient {i}" for i in range(len(graph.leaves))]
    return {
        name: float((a.double() - b).detach().abs().max() / b.detach().abs().max())
        for name, a, b in zip(names, found, right, strict=True)
    }
