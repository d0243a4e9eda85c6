"""Networks without weights, run on tensors without contents: what each pass takes, and costs.

A network is built from its configuration on torch's fake tensors, and a pass is made through it:
all shapes are real, nothing is computed. A network of many equal blocks is built with a few of
them; each block more adds what one block more was seen to add.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from leapalign.doctor.meter import Meter

FEW = 1
"""Blocks of each kind that a sketch has."""

Counts = Mapping[str, int]
"""How many blocks of each kind a network has."""


@dataclass(frozen=True, slots=True)
class Line:
    """A quantity that grows with the batch: fixed + each · batch."""

    fixed: float
    each: float

    def __call__(self, batch: int) -> int:
        """Its value."""
        return round(self.fixed + self.each * batch)


@dataclass(frozen=True, slots=True)
class Passes:
    """A network's size, and what its passes take beyond its weights and their gradients.

    Args:
        parameters: of the network.
        trained: those with gradient.
        block: the largest block's.
        forward: bytes of a forward pass without gradient, at its peak.
        saved: bytes that a forward pass keeps for the backward.
        first: bytes of a forward pass and its backward at the peak, the gradients that it makes
            included.
        replay: the same where there are gradients to add to.
        flops: of one sample's forward pass.
    """

    parameters: int
    trained: int
    block: int
    forward: Line
    saved: Line
    first: Line
    replay: Line
    flops: float


@dataclass(frozen=True, slots=True)
class Sketch:
    """A network to be, and how to call it.

    Args:
        build: makes it with so many blocks, which of its weights train included.
        call: a forward pass of so many samples; the inputs are made in it.
        counts: its blocks, by kind.
        dtype: of its weights and inputs.
    """

    build: Callable[[Counts], nn.Module]
    call: Callable[[nn.Module, int], Tensor]
    counts: Counts
    dtype: torch.dtype


def measure(sketch: Sketch) -> Passes:
    """What the passes of a network take, from those of a few blocks and of one or two samples."""
    few = {kind: min(count, FEW) for kind, count in sketch.counts.items()}
    base = _Seen.of(sketch, few)
    total = base
    for kind, count in sketch.counts.items():
        if count > few[kind]:
            more = _Seen.of(sketch, {**few, kind: few[kind] + 1})
            total = total.plus(more.minus(base), count - few[kind])
    return total.passes()


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was seen of a network: numbers that add up over blocks; `block` alone does not."""

    numbers: tuple[float, ...]
    block: int

    @classmethod
    def of(cls, sketch: Sketch, counts: Counts) -> _Seen:
        with built(sketch.dtype), torch.device("meta"):
            network = sketch.build(counts)
        with built(sketch.dtype), FakeTensorMode():
            _pretend(network)
            parameters = list(network.parameters())
            (one, flops), (two, _) = (_peaks(network, sketch.call, batch) for batch in (1, 2))
            blocks = [
                sum(weight.numel() for weight in block.parameters())
                for group in network.children()
                if isinstance(group, nn.ModuleList)
                for block in group
            ]
        numbers = (
            sum(weight.numel() for weight in parameters),
            sum(weight.numel() for weight in parameters if weight.requires_grad),
            *(number for pair in zip(one, two, strict=True) for number in pair),
            flops,
        )
        return cls(numbers, max(blocks, default=0))

    def minus(self, other: _Seen) -> _Seen:
        return self.plus(other, -1)

    def plus(self, other: _Seen, times: int) -> _Seen:
        numbers = zip(self.numbers, other.numbers, strict=True)
        return _Seen(tuple(a + times * b for a, b in numbers), max(self.block, other.block))

    def passes(self) -> Passes:
        parameters, trained, *peaks, flops = self.numbers
        forward, saved, first, replay = (
            Line(fixed=float(2 * one - two), each=float(two - one))
            for one, two in zip(peaks[::2], peaks[1::2], strict=True)
        )
        sizes = int(parameters), int(trained), self.block
        return Passes(*sizes, forward, saved, first, replay, float(flops))


def _pretend(network: nn.Module) -> None:
    """Give a network of the meta device, where nothing can be computed, tensors that seem real."""
    for module in network.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                like = torch.empty(weight.shape, dtype=weight.dtype)
                module._parameters[name] = nn.Parameter(like, weight.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def _peaks(
    network: nn.Module, call: Callable[[nn.Module, int], Tensor], batch: int
) -> tuple[tuple[int, int, int, int], int]:
    """Bytes of a forward pass, saved by one with gradient, of its first backward, of a later one.

    Returns:
        These, and the forward pass' operations.
    """
    there = [*network.parameters(), *network.buffers()]
    with FlopCounterMode(display=False) as counter, Meter(there) as forward, torch.no_grad():
        call(network, batch)
    network.zero_grad(set_to_none=True)
    with Meter(there) as first:
        result = call(network, batch)
        saved = first.live
        result.backward(torch.ones_like(result))
    gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
    with Meter([*there, *gradients]) as later:
        result = call(network, batch)
        result.backward(torch.ones_like(result))
    return (forward.peak, saved, first.peak, later.peak), counter.get_total_flops()


@contextlib.contextmanager
def built(dtype: torch.dtype) -> Iterator[None]:
    """Floating-point tensors are of this type unless told otherwise."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
