"""Between its first pass and its last, nothing in a rollout or a replay waits for the device.

On meta tensors, which are on no device: what would make the host wait for one is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from baselines.drtune import DRTune
from baselines.flowbp_sparse import FlowBPSparse
from baselines.refl import ReFL
from leapalign.direct import DirectGradient
from leapalign.grid import Grid
from leapalign.leap import LeapAlign
from leapalign.policy import PolicyUpdate, replay_policy
from leapalign.rollout import Exploration, branches, extend, rollout
from leapalign.steps import FlowSDE
from leapalign.streams import choices
from leapalign.surrogate import sweep
from leapalign.transfer import queued
from tests.fields import AnalyticField

GRID = Grid.shifted(8, 3.0)
BATCH = 4


class Waited(AssertionError):
    """The host would have waited."""


class Refusing(TorchDispatchMode):
    """Refuses to read a number off the device, and to copy or index by what is not there yet."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        found = func(*args, **kwargs)
        tensors = [t for t in tree_leaves((args, found)) if isinstance(t, Tensor) and t.dim() > 0]
        crosses = len({t.device.type for t in tensors}) > 1
        if func.overloadpacket in (torch.ops.aten.nonzero, torch.ops.aten._local_scalar_dense):
            raise Waited(func)
        if crosses and not kwargs.get("non_blocking", False):
            raise Waited(func)
        return found


@pytest.fixture
def field(monkeypatch: pytest.MonkeyPatch) -> Iterator[AnalyticField]:
    """A field that is elsewhere, where nothing is known of any value."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    network = AnalyticField(BATCH).to("meta")
    network.context = network.context.to("meta")
    with Refusing():
        yield network


def noise() -> Tensor:
    return torch.randn(BATCH, 3, 4, device="meta", dtype=torch.float64)


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: bool((x > 0).all()),
        lambda x: x.tolist(),
        lambda x: x[x[:, 0, 0] > 0],
        lambda x: x[torch.tensor([0, 2])],
        lambda x: torch.ones(3).to(x.device),
        Tensor.cpu,
    ],
)
@pytest.mark.usefixtures("field")
def test_what_would_wait_is_seen(waits: Callable[[Tensor], object]) -> None:
    x = noise()
    with pytest.raises((Waited, RuntimeError, NotImplementedError)):
        waits(x)
    assert queued(torch.ones(3), x.device).device == x.device


@pytest.mark.parametrize("method", [LeapAlign(), DRTune(last=3), ReFL(last=4), FlowBPSparse()])
def test_a_rollout_and_its_sweep_do_not_wait(field: AnalyticField, method: DirectGradient) -> None:
    plans = [method.plan(GRID, choices(0, 0, slot, "plan")) for slot in range(BATCH)]
    record = rollout(field, noise(), GRID, horizon=[plan.horizon for plan in plans])
    replays = sweep(field, record, plans, noise())
    assert replays == sum(len(leap.active) for plan in plans for leap in plan.leaps)


def test_a_stochastic_rollout_and_its_replay_do_not_wait(field: AnalyticField) -> None:
    rule = FlowSDE(0.7, first=GRID.sigmas[1])
    explore = Exploration(rule, range(2, 5), lambda i: torch.arange(BATCH) + i)
    trunk = rollout(field, noise(), GRID, horizon=1)
    record = extend(branches([trunk], [0, 0, 1, 3]), field, explore=explore)
    assert sorted(record.log_probs) == [2, 3, 4]
    seen = []

    def before_last() -> None:
        # What follows reads the losses and ratios of all replays at once.
        seen.append(True)
        raise StopIteration

    advantages = torch.randn(BATCH, device="meta", dtype=torch.float64)
    update = PolicyUpdate(rule, clip=1e-4, scale=0.1)
    with pytest.raises(StopIteration):
        replay_policy(field, record, [[2, 3, 4]] * BATCH, advantages, update, before_last)
    assert seen
