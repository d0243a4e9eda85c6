"""Every kernel equals its reference in float64, and is a full citizen of PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck
from torch.utils.checkpoint import checkpoint

from benchmarks.cases import Case, Maker, errors, odd_cases
from leapalign.kernels import dispatch
from tests import tolerances


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def small_cases(dtype: torch.dtype = torch.float32) -> list[Case]:
    """One of each operation, in a few programs each."""
    maker = Maker(generator(), dtype)
    return [
        maker.modulate(2, 3, 5),
        maker.gated_add(2, 3, 5),
        maker.qk_rope(1, (2, 1), 3, 6),
        maker.leap(2, 3, 5),
        maker.sde_step(2, 3, 5),
        maker.sde_log_prob(2, 3, 5),
        maker.prepare(1, 5, 4, 3),
    ]


def by_name(case: Case) -> str:
    return case.name


@pytest.mark.usefixtures("kernels")
class TestKernels:
    @pytest.mark.parametrize(
        "case", odd_cases(Maker(generator(), torch.float32, contiguous=False)), ids=by_name
    )
    def test_float32_equals_float64_at_odd_shapes_and_strides(self, case: Case) -> None:
        assert not case.inputs[0].is_contiguous()
        found = errors(case, generator())
        assert max(found.values()) <= tolerances.KERNEL_FLOAT32, found

    @pytest.mark.parametrize("case", odd_cases(Maker(generator(), torch.bfloat16)), ids=by_name)
    def test_bfloat16_equals_float64_at_odd_shapes(self, case: Case) -> None:
        found = errors(case, generator())
        assert max(found.values()) <= tolerances.KERNEL_BFLOAT16, found

    @pytest.mark.parametrize("case", small_cases(torch.bfloat16), ids=by_name)
    def test_types_are_the_references(self, case: Case) -> None:
        kernel, reference = case.graph(case.operation), case.graph(case.reference)
        cotangents = kernel.cotangents(generator())
        assert [y.dtype for y in kernel.outputs] == [y.dtype for y in reference.outputs]
        for dx, x in zip(kernel.gradients(cotangents), case.inputs, strict=True):
            assert (dx.dtype, dx.shape) == (x.dtype, x.shape)

    @pytest.mark.parametrize("case", small_cases(), ids=by_name)
    def test_checkpointing_repeats_outputs_and_gradients(self, case: Case) -> None:
        def checkpointed(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return checkpoint(case.operation, *tensors, use_reentrant=False)

        once, again = case.graph(case.operation), case.graph(checkpointed)
        cotangents = once.cotangents(generator())
        for a, b in zip(
            (*once.outputs, *once.gradients(cotangents)),
            (*again.outputs, *again.gradients(cotangents)),
            strict=True,
        ):
            assert torch.equal(a, b)

    @pytest.mark.parametrize("case", small_cases(), ids=by_name)
    def test_a_compiled_graph_holds_the_operation(self, case: Case) -> None:
        torch.compiler.reset()
        compiled = torch.compile(case.operation, backend="aot_eager", fullgraph=True)
        once, again = case.graph(case.operation), case.graph(compiled)
        cotangents = once.cotangents(generator())
        for a, b in zip(
            (*once.outputs, *once.gradients(cotangents)),
            (*again.outputs, *again.gradients(cotangents)),
            strict=True,
        ):
            assert torch.equal(a, b)


@pytest.mark.parametrize("case", small_cases(), ids=by_name)
def test_operations_are_registered_as_torch_asks(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Recorded(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function.namespace == "leapalign":
                calls.append((function, args))
            return function(*args, **(kwargs or {}))

    monkeypatch.setattr(dispatch, "ENABLED", True)
    monkeypatch.setattr(dispatch, "IN_BLOCKS", True)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with Recorded():
        graph = case.graph(case.operation)
        graph.gradients(graph.cotangents(generator()))
    assert calls
    for function, args in calls:
        opcheck(function, _detached(args), test_utils=("test_schema", "test_faketensor"))


def _detached(args: tuple) -> tuple:
    return torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, args)


@pytest.mark.usefixtures("kernels")
def test_what_the_kernels_do_not_take_goes_to_the_reference() -> None:
    x, half = torch.ones(2), torch.ones(2, dtype=torch.float16)
    assert dispatch.fused(x, x.bfloat16())
    assert not dispatch.fused(x, half)
    assert not dispatch.fused(x.double())
    assert not dispatch.fused(x[:0])
    assert not dispatch.fused(x, constants=(x.clone().requires_grad_(),))
    assert not dispatch.fused(x, torch.ones(2, device="meta"))


def test_a_cpu_without_the_interpreter_runs_the_references(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "ENABLED", True)
    monkeypatch.setattr(dispatch, "INTERPRETED", False)
    assert not dispatch.fused(torch.ones(2))
