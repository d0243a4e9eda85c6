"""ReFL (arXiv 2304.05977) stops at one of the last steps, uniformly, and trains it alone."""

from __future__ import annotations

from collections import Counter

import pytest
from scipy.stats import chisquare

from baselines.refl import ReFL
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.streams import choices
from tests import tolerances


def test_the_stop_is_uniform_over_the_last_steps() -> None:
    grid, method = Grid.shifted(25, 3.0), ReFL(last=11)
    plans = [method.plan(grid, choices(0, draw, 0, "plan")) for draw in range(2200)]
    assert {plan.reward_on for plan in plans} == {"prediction"}
    assert all(plan.leaps[0].active == (plan.leaps[0].start,) for plan in plans)
    assert all(plan.horizon == plan.leaps[0].start for plan in plans)
    counts = Counter(25 - plan.leaps[0].start for plan in plans)
    assert set(counts) == set(range(1, 12))
    assert chisquare(list(counts.values())).pvalue > tolerances.UNIFORM_P_VALUE


@pytest.mark.parametrize("last", [0, 26])
def test_a_range_that_does_not_fit_the_path_is_refused(last: int) -> None:
    with pytest.raises(UserError, match="last: must lie between 1 and the 25 training steps"):
        ReFL(last=last).check(25, 1)
