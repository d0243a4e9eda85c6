"""Plans: weights telescope, leaps are contiguous, and what cannot be meant is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from baselines.draft_lv import DRaFTLV
from baselines.drtune import DRTune
from baselines.flowbp_bridge import FlowBPBridge
from baselines.flowbp_lagrange import FlowBPLagrange
from baselines.flowbp_sparse import FlowBPSparse
from baselines.full_backprop import FullBackprop
from baselines.refl import ReFL
from leapalign.direct import DirectGradient
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.leap import LeapAlign
from leapalign.plan import (
    Leap,
    Plan,
    Similarity,
    euler_path,
    evenly_spaced,
    jump,
    quadrature,
    rescaled,
)
from tests import tolerances

GRID = Grid.shifted(5, 3.0)

grids = st.lists(st.floats(0.001, 0.999), min_size=1, max_size=30, unique=True).map(
    lambda inner: Grid((1.0, *sorted(inner, reverse=True), 0.0))
)
methods = st.one_of(
    st.builds(LeapAlign, leaps=st.integers(1, 4)),
    st.builds(LeapAlign, distance=st.floats(0.1, 0.9)),
    st.builds(LeapAlign, range_high=st.floats(0.3, 1.0)),
    st.builds(ReFL, last=st.integers(1, 12)),
    st.builds(DRaFTLV, copies=st.integers(0, 3)),
    st.builds(DRTune, active=st.integers(1, 4), last=st.integers(1, 12)),
    st.builds(FlowBPSparse, active=st.integers(1, 6), rescale=st.floats(0.0, 1.0)),
    st.builds(FlowBPBridge, active=st.integers(2, 6), rescale=st.floats(0.0, 1.0)),
    st.builds(FullBackprop),
)
shifted = st.builds(Grid.shifted, st.integers(1, 30), st.floats(0.5, 4.0))
quadratures = st.builds(
    FlowBPLagrange, nodes=st.integers(2, 4), active=st.integers(1, 2), rescale=st.floats(0.0, 1.0)
)


@given(st.one_of(st.tuples(grids, methods), st.tuples(shifted, quadratures)), st.integers(0, 2**32))
def test_every_methods_plan_telescopes_and_reaches_the_image(
    pair: tuple[Grid, DirectGradient], seed: int
) -> None:
    grid, method = pair
    try:
        method.check(grid.steps, 1)
        plan = method.plan(grid, np.random.default_rng(seed))
    except UserError:
        assume(False)
    assert all(a.stop == b.start for a, b in itertools.pairwise(plan.leaps))
    assert plan.leaps[-1].stop == grid.end
    for leap in plan.leaps:
        assert leap.active
        assert set(leap.active) <= set(range(leap.start, leap.stop))
        span = grid.sigmas[leap.stop] - grid.sigmas[leap.start]
        assert sum(leap.weight.values()) == pytest.approx(span, abs=tolerances.WEIGHTS_TELESCOPE)
    assert plan.replays == sum(len(leap.active) for leap in plan.leaps) + plan.copies


def test_an_euler_path_weighs_each_step_by_its_own_length() -> None:
    path = euler_path(GRID, 1, 4, active=(2,))
    assert path.weight == {i: GRID.delta(i) for i in (1, 2, 3)}
    assert path.gain == {2: 1.0}


def test_a_rollout_may_stop_where_a_plan_needs_no_more() -> None:
    late = (jump(GRID, 3, 5),)
    assert Plan(late).horizon == 5
    assert Plan(late, reward_on="prediction").horizon == 3
    weighed = Similarity(joint=True, image=True, floor=0.1)
    assert Plan(late, reward_on="prediction", similarity=weighed).horizon == 5


def test_leaps_that_are_not_contiguous_are_refused() -> None:
    with pytest.raises(ValueError, match=r"contiguous.*\(0, 2\), \(3, 5\)"):
        Plan((jump(GRID, 0, 2), jump(GRID, 3, 5)))


def test_a_plan_that_trains_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing would train"):
        Plan((euler_path(GRID, 0, 5),))


def test_a_leap_backwards_or_with_an_unknown_active_step_is_refused() -> None:
    with pytest.raises(ValueError, match="forward"):
        Leap(3, 3, {3: 0.0}, {3: 1.0})
    with pytest.raises(ValueError, match="without a weight"):
        Leap(1, 3, {1: -0.2}, {2: 1.0})


@pytest.mark.parametrize("nodes", [1, 2, 3, 4])
def test_a_quadrature_is_exact_for_polynomials_below_its_number_of_nodes(nodes: int) -> None:
    grid = Grid.shifted(12, 3.0)
    steps = evenly_spaced(2, 9, nodes)
    leap = quadrature(grid, 2, 9, steps, {2: 1.0})
    assert list(leap.weight) == steps
    for power in range(nodes + 1):
        found = sum(weight * grid.sigmas[i] ** power for i, weight in leap.weight.items())
        exact = (grid.sigmas[9] ** (power + 1) - grid.sigmas[2] ** (power + 1)) / (power + 1)
        close = found == pytest.approx(exact, abs=tolerances.WEIGHTS_TELESCOPE)
        assert close == (power < nodes)


def test_a_quadrature_of_one_node_is_a_jump() -> None:
    assert quadrature(GRID, 1, 4, [1], {1: 1.0}) == jump(GRID, 1, 4)


@pytest.mark.parametrize(
    ("start", "stop", "count", "steps"),
    [
        (0, 1, 3, [0]),
        (4, 6, 3, [4, 5]),
        (4, 7, 3, [4, 5, 6]),
        (0, 25, 3, [0, 12, 24]),
        (3, 13, 3, [3, 7, 12]),  # halfway falls between 7 and 8: to the even offset
        (3, 13, 1, [3]),
    ],
)
def test_nodes_are_as_evenly_apart_as_indices_allow(
    start: int, stop: int, count: int, steps: list[int]
) -> None:
    assert evenly_spaced(start, stop, count) == steps


def test_rescaled_gradients_weigh_as_much_as_the_whole_path() -> None:
    halves = euler_path(GRID, 0, 3, active=(1,)), euler_path(GRID, 3, 5, active=(3, 4))
    for strength in (0.0, 0.5, 1.0):
        raised = rescaled(halves, strength)
        assert [leap.weight for leap in raised] == [leap.weight for leap in halves]
        (factor,) = {gain for leap in raised for gain in leap.gain.values()}
        active = abs(GRID.delta(1)) + abs(GRID.delta(3)) + abs(GRID.delta(4))
        assert factor == pytest.approx(1 + strength * (1 / active - 1))
    with_gain = Leap(0, 2, euler_path(GRID, 0, 2).weight, {0: 0.25, 1: 1.0})
    assert rescaled([with_gain], 1.0) == (with_gain,)
