"""Plans: weights telescope, leaps are contiguous, and what cannot be meant is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from baselines.draft_lv import DRaFTLV
from baselines.drtune import DRTune
from baselines.refl import ReFL
from leapalign.direct import DirectGradient
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.leap import LeapAlign
from leapalign.plan import Leap, Plan, Similarity, euler_path, jump
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
)


@given(grids, methods, st.integers(0, 2**32))
def test_every_methods_plan_telescopes_and_reaches_the_image(
    grid: Grid, method: DirectGradient, seed: int
) -> None:
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
