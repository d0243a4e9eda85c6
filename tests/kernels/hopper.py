"""Compile every kernel for an H200 on a machine without a GPU; print the names of those compiled.

    python -m tests.kernels.hopper

Run as a process of its own, without Triton's interpreter, which takes what the compiler refuses.
"""

from __future__ import annotations

import functools
import sys

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from benchmarks.cases import Maker, odd_cases
from leapalign.kernels import dispatch


class Hopper:
    """As much of a Triton driver as compiling needs."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return device


def compile_all() -> set[str]:
    """Call every operation at odd sizes and at FLUX's; launches compile and do nothing more."""
    compiled = set()
    run = JITFunction.run

    @functools.wraps(run)
    def compile_only(self, *args, **kwargs):
        run(self, *args, **{**kwargs, "warmup": True})
        compiled.add(f"{self.__module__}.{self.__name__}")

    driver.set_active(Hopper())
    JITFunction.run = compile_only
    dispatch.INTERPRETED = True  # takes CPU tensors, which give the launches types and strides
    for dtype in dispatch.DTYPES:
        maker = Maker(torch.Generator().manual_seed(0), dtype)
        flux = [maker.modulate(1, 2, 3072), maker.gated_add(1, 2, 3072)]
        flux += [maker.qk_rope(1, (1, 2), 24, 128), maker.prepare(1, 64, 64, 14)]
        for case in [*flux, *odd_cases(maker)]:
            graph = case.graph(case.operation)
            graph.gradients(graph.cotangents(maker.generator))
    return compiled


if __name__ == "__main__":
    sys.stdout.write("\n".join(sorted(compile_all())) + "\n")
