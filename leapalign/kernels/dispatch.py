"""Where the kernels run, and how their work is split; all that the operations share."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # there is no Triton for macOS and Windows, where the references serve
    triton = tl = None

# Elements that a program holds at a time: 16 for each of 256 threads.
TILE = 4096
# Tiles under way at once in a program that takes several in turn, that in work included.
STAGES = 4
DTYPES = (torch.float32, torch.bfloat16)

# The one switch, LEAPALIGN_KERNELS in the environment: 0 leaves every operation to its reference, 1
# takes the kernels everywhere. Without it they are taken outside of the transformer's blocks alone:
# in the blocks they were slower than torch.compile on an H200 (benchmarks/README.md).
SWITCH = os.environ.get("LEAPALIGN_KERNELS", "")
ENABLED = triton is not None and SWITCH != "0"
IN_BLOCKS = ENABLED and SWITCH == "1"
# Under TRITON_INTERPRET=1 the kernels run on the CPU, slowly, for tests.
INTERPRETED = triton is not None and bool(triton.knobs.runtime.interpret)


def jit(function: Callable[..., None]) -> Any:  # noqa: ANN401 - Triton is untyped
    """`triton.jit`, where there is Triton."""
    return function if triton is None else triton.jit(function)


def fused_in_block(*tensors: Tensor, constants: tuple[Tensor, ...] = ()) -> bool:
    """`fused` for an operation of the transformer's blocks."""
    return IN_BLOCKS and fused(*tensors, constants=constants)


def fused(*tensors: Tensor, constants: tuple[Tensor, ...] = ()) -> bool:
    """Whether an operation's kernels take these inputs; otherwise its reference does.

    Args:
        tensors: its differentiable inputs.
        constants: inputs to which its kernels have no gradient.
    """
    device = tensors[0].device
    return (
        ENABLED
        and (INTERPRETED or _current(device))
        and all(t.device == device and t.numel() > 0 for t in (*tensors, *constants))
        and all(t.dtype in DTYPES for t in tensors)
        and not any(constant.requires_grad for constant in constants)
    )


def traced() -> bool:
    """Whether operations are recorded here rather than run, and so must be torch.library's."""
    return torch.compiler.is_compiling()


def _current(device: torch.device) -> bool:
    """Whether it is the CUDA device that Triton launches on."""
    return device.type == "cuda" and device.index == torch.cuda.current_device()


def direct(
    launch: Callable[..., Any],
    save: Callable[..., None],
    differentiate: Callable[..., Any],
    differentiable: int = 1,
) -> Callable[..., Any]:
    """An operation for eager calls: an autograd function that goes straight to the kernels.

    torch.library's dispatch is needed where an operation is traced; called eagerly, a forward and a
    backward through it and its autograd take the host 1.6 times as long.

    Args:
        launch: from inputs to outputs.
        save: notes in `ctx` what the backward needs, of `(ctx, inputs, output)`.
        differentiate: from `ctx` and the outputs' gradients to the inputs'.
        differentiable: how many outputs, from the first, have a gradient.
    """

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:  # noqa: ANN401 - autograd's
            output = launch(*inputs)
            save(ctx, inputs, output)
            if isinstance(output, tuple):
                ctx.mark_non_differentiable(*output[differentiable:])
            return output

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ANN401 - autograd's
            return differentiate(ctx, *gradients)

    return Direct.apply


def dense(tensor: Tensor) -> Tensor:
    """The tensor, copied only if its last dimension is strided, which the kernels do not read."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def block(size: int) -> int:
    """The smallest power of two that holds `size` elements, as Triton's blocks must be."""
    return 1 << (size - 1).bit_length()


def rows(width: int) -> int:
    """Tokens in a tile of whole tokens: several where one would leave a program idle."""
    return max(1, TILE // block(width))


def tile(channels: int) -> tuple[int, int]:
    """Tokens and channels in a tile of an operation that takes each element alone."""
    size = min(block(channels), 1024)
    return TILE // 2 // size, size


def warps(elements: int) -> int:
    """Warps for a program with blocks of so many elements: 16 elements a thread, 1 to 8 warps."""
    return max(1, min(8, elements // 512))


def share(tokens: int, columns: int, device: torch.device, programs: int = 4) -> int:
    """Tokens that each program takes in turn, so that every processor has work.

    Args:
        tokens: of a sample.
        columns: rows of programs, one for each sample or part of its channels.
        device: whose processors share.
        programs: for each processor. Few mean few partial sums of what is reduced over tokens; four
            keep the memory busy.
    """
    return cdiv(tokens, max(1, programs * processors(device) // columns))


def processors(device: torch.device) -> int:
    """How many run at a time; the interpreter takes its programs one by one."""
    if device.type != "cuda":
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def cdiv(a: int, b: int) -> int:
    """⌈a / b⌉."""
    return -(-a // b)
