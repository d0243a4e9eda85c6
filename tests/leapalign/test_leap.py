"""Which timesteps LeapAlign draws (Algorithm 1 line 7, Fig. 4e, 4f)."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from scipy.stats import chisquare

from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.leap import LeapAlign
from leapalign.streams import choices
from tests import tolerances

GRID = Grid.shifted(8, 1.0)


def departures(method: LeapAlign, draws: int) -> Counter[tuple[int, ...]]:
    """How often each tuple of departures is drawn."""
    plans = (method.plan(GRID, choices(0, draw, 0, "plan")) for draw in range(draws))
    return Counter(tuple(leap.start for leap in plan.leaps) for plan in plans)


@pytest.mark.parametrize("leaps", [1, 2, 3])
def test_timesteps_are_uniform_without_replacement(leaps: int) -> None:
    found = departures(LeapAlign(leaps=leaps), 4000)
    possible = list(itertools.combinations(range(GRID.steps), leaps))
    assert set(found) == set(possible)
    assert chisquare([found[pair] for pair in possible]).pvalue > tolerances.UNIFORM_P_VALUE


def test_a_range_keeps_early_steps_untrained() -> None:
    late = [i for i in range(GRID.steps) if GRID.sigmas[i] <= 0.5]
    found = departures(LeapAlign(range_high=0.5), 500)
    assert set(found) == set(itertools.combinations(late, 2))
    assert 0 < len(late) < GRID.steps


def test_a_fixed_distance_is_that_share_of_the_steps() -> None:
    found = departures(LeapAlign(distance=0.5), 500)
    assert set(found) == {(k, k + 4) for k in range(4)}


@pytest.mark.parametrize(
    "method", [LeapAlign(range_high=0.05), LeapAlign(range_high=0.5, distance=0.9)]
)
def test_a_range_too_narrow_for_the_leaps_is_refused(method: LeapAlign) -> None:
    with pytest.raises(UserError, match=r"range_low, range_high: .*widen the range"):
        departures(method, 1)
