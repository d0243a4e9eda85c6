"""DRTune (arXiv 2405.00760): the training set and early stop of LeapAlign's Algorithm 1."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from scipy.stats import chisquare

from baselines.drtune import DRTune
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.streams import choices
from tests import tolerances


def algorithm_1(steps: int, active: int, last: int) -> Counter[tuple[int, frozenset[int]]]:
    """Every equally likely (t_min, training timesteps that are reached), times counted from 1."""
    spacing = steps // active
    outcomes: Counter[tuple[int, frozenset[int]]] = Counter()
    starts = range(1, steps - (active - 1) * spacing + 1)
    for t_min, s in itertools.product(range(1, last + 1), starts):
        training = {s + i * spacing for i in range(active)}
        outcomes[t_min, frozenset(t for t in training if t >= t_min)] += 1
    return outcomes


@pytest.mark.parametrize(
    ("steps", "active", "last"), [(10, 2, 4), (9, 3, 7), (7, 1, 1), (25, 2, 11)]
)
def test_stop_and_training_set_follow_algorithm_1(steps: int, active: int, last: int) -> None:
    method, grid = DRTune(active=active, last=last), Grid.shifted(steps, 3.0)
    method.check(steps, 1)
    expected = algorithm_1(steps, active, last)
    found: Counter[tuple[int, frozenset[int]]] = Counter()
    draws = 40 * expected.total()
    for draw in range(draws):
        [leap] = method.plan(grid, choices(0, draw, 0, "plan")).leaps
        trained = frozenset(steps - i for i in leap.active)
        found[steps - max(leap.weight), trained] += 1
    assert set(found) == set(expected)
    if len(expected) > 1:
        outcomes = list(expected)
        p_value = chisquare(
            [found[outcome] for outcome in outcomes], [40 * expected[o] for o in outcomes]
        ).pvalue
        assert p_value > tolerances.UNIFORM_P_VALUE


def test_the_path_to_the_stop_is_eulers_and_the_rest_one_prediction() -> None:
    grid = Grid.shifted(10, 3.0)
    plan = DRTune(active=2, last=4).plan(grid, choices(0, "plan"))
    [leap] = plan.leaps
    *prefix, stop = sorted(leap.weight)
    assert prefix == list(range(stop))
    assert all(leap.weight[i] == grid.delta(i) for i in prefix)
    assert leap.weight[stop] == -grid.sigmas[stop]
    assert plan.reward_on == "prediction"
    assert plan.horizon == stop


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (DRTune(active=0), "active: must lie between 1 and the 25"),
        (DRTune(active=26), "active: must lie between 1 and the 25"),
        (DRTune(last=0), "last: must lie between 1 and the 25"),
        (DRTune(last=26), "last: must lie between 1 and the 25"),
        (DRTune(active=1, last=2), r"last: a stop up to 2 .*lower last, or raise active"),
        (DRTune(active=2, last=14), r"last: a stop up to 14 .*lower last, or raise active"),
    ],
)
def test_settings_under_which_nothing_might_train_are_refused(method: DRTune, message: str) -> None:
    with pytest.raises(UserError, match=message):
        method.check(25, 1)
