"""FlowBP (arXiv 2606.11075): which steps its surrogates draw, and how strongly they train."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy.stats import chisquare

from baselines.flowbp_bridge import FlowBPBridge
from baselines.flowbp_lagrange import FlowBPLagrange
from baselines.flowbp_sparse import FlowBPSparse
from leapalign.direct import DirectGradient
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.streams import choices
from tests import tolerances

GRID = Grid.shifted(6, 3.0)
WHOLE = pytest.approx({i: GRID.delta(i) for i in range(6)})


def chances(steps: int, count: int) -> dict[tuple[int, ...], float]:
    """The probability of each set of steps, drawn one by one with weight (i + 1)^2."""
    found = dict.fromkeys(itertools.combinations(range(steps), count), 0.0)
    for order in itertools.permutations(range(steps), count):
        left, chance = sum((i + 1) ** 2 for i in range(steps)), 1.0
        for i in order:
            chance *= (i + 1) ** 2 / left
            left -= (i + 1) ** 2
        found[tuple(sorted(order))] += chance
    return found


@pytest.mark.parametrize("active", [1, 3, 6])
def test_sparse_draws_late_steps_likelier(active: int) -> None:
    method = FlowBPSparse(active=active)
    plans = [method.plan(GRID, choices(0, draw, "plan")) for draw in range(4000)]
    found = Counter(plan.leaps[0].active for plan in plans)
    expected = chances(6, active)
    assert set(found) <= set(expected)
    if len(expected) > 1:
        observed = [found[steps] for steps in expected]
        p_value = chisquare(observed, [4000 * chance for chance in expected.values()]).pvalue
        assert p_value > tolerances.UNIFORM_P_VALUE


def test_sparse_is_one_leap_along_the_samplers_own_path_to_the_generated_image() -> None:
    plan = FlowBPSparse(active=2).plan(GRID, choices(0, "plan"))
    [leap] = plan.leaps
    assert (leap.start, leap.stop, leap.weight) == (0, 6, WHOLE)
    assert (plan.reward_on, plan.nesting, plan.similarity) == ("endpoint", 0.0, None)
    # The grid is one long, so the active steps' gradients together weigh 1.
    weighed = sum(abs(leap.weight[i]) * gain for i, gain in leap.gain.items())
    assert weighed == pytest.approx(1.0)


def test_bridge_splits_the_path_at_j_and_the_active_steps_by_length() -> None:
    steps, method = 25, FlowBPBridge(active=5)
    grid = Grid.shifted(steps, 3.0)
    splits: Counter[int] = Counter()
    for draw in range(3000):
        plan = method.plan(grid, choices(0, draw, "plan"))
        before, after = plan.leaps
        j = before.stop
        splits[j] += 1
        assert (before.start, after.start, after.stop) == (0, j, steps)
        assert before.weight | after.weight == {i: grid.delta(i) for i in range(steps)}
        assert after.active[0] == j
        assert len(before.active) + len(after.active) == 5
        nearest = 5 * j / steps
        assert len(before.active) == min(max(round(nearest), 1), 4, j)
    # j is the later of two different steps: it is j with chance j in 0 + 1 + … + 24.
    expected = [3000 * j / math.comb(steps, 2) for j in range(1, steps)]
    assert chisquare([splits[j] for j in range(1, steps)], expected).pvalue > (
        tolerances.UNIFORM_P_VALUE
    )


@pytest.mark.parametrize("steps", [2, 3, 5, 6])
def test_bridge_trains_both_halves_even_of_a_short_path(steps: int) -> None:
    method, grid = FlowBPBridge(active=min(5, steps)), Grid.shifted(steps, 3.0)
    method.check(steps, 1)
    for draw in range(200):
        before, after = method.plan(grid, choices(0, draw, "plan")).leaps
        assert before.active
        assert len(before.active) + len(after.active) == method.active
        total = sum(
            abs(leap.weight[i]) * gain for leap in (before, after) for i, gain in leap.gain.items()
        )
        assert total == pytest.approx(1.0)


@dataclass
class Loaded:
    """A generator whose Dirichlet shares are known."""

    shares: tuple[float, float, float]
    asked: list[object] = field(default_factory=list)

    def dirichlet(self, concentration: object) -> np.ndarray:
        self.asked.append(concentration)
        return np.array(self.shares)


@pytest.mark.parametrize(
    ("steps", "shares", "pair"),
    [
        (25, (0.2, 0.6, 0.2), (4, 19)),
        (25, (0.24, 0.57, 0.19), (4, 18)),  # 6, 14, 5
        (25, (0.01, 0.98, 0.01), (0, 23)),  # no part is empty
        (25, (0.98, 0.01, 0.01), (0, 1)),
        (25, (0.01, 0.01, 0.98), (22, 23)),
        (3, (0.9, 0.05, 0.05), (0, 1)),
    ],
)
def test_lagrange_parts_the_path_in_dirichlet_shares(
    steps: int, shares: tuple[float, float, float], pair: tuple[int, int]
) -> None:
    rng = Loaded(shares)
    plan = FlowBPLagrange().plan(Grid.shifted(steps, 3.0), rng)
    first, second = plan.leaps
    assert (first.start, first.stop) == (second.start - (pair[1] - pair[0]), pair[1])
    assert first.start == pair[0]
    assert rng.asked == [(2.5, 6.0, 2.0)]


def test_lagrange_trains_the_first_two_of_three_velocities_the_second_less() -> None:
    grid = Grid.shifted(25, 3.0)
    plan = FlowBPLagrange(rescale=0.0).plan(grid, Loaded((0.2, 0.6, 0.2)))
    first, second = plan.leaps
    assert list(first.weight) == [4, 11, 18]
    assert first.gain == {4: 1.0, 11: 0.25}
    assert list(second.weight) == [19, 21, 24]  # halfway falls between 21 and 22
    assert second.gain == {19: 1.0, 21: 0.25}
    assert plan.nesting == 0.1
    assert plan.similarity is not None
    assert (plan.similarity.joint, plan.similarity.image, plan.similarity.floor) == (
        True,
        True,
        0.2,
    )


def test_lagrange_rescales_each_leap_by_its_own_weights() -> None:
    plain, raised = (
        FlowBPLagrange(rescale=rescale).plan(Grid.shifted(25, 3.0), Loaded((0.2, 0.6, 0.2)))
        for rescale in (0.0, 0.5)
    )
    for before, after in zip(plain.leaps, raised.leaps, strict=True):
        weight = {i: abs(w) for i, w in before.weight.items()}
        factor = 1 + 0.5 * (sum(weight.values()) / sum(weight[i] for i in before.gain) - 1)
        assert after.weight == before.weight
        assert after.gain == pytest.approx({i: factor * gain for i, gain in before.gain.items()})


@pytest.mark.parametrize(
    ("method", "steps", "message"),
    [
        (FlowBPSparse(active=0), 25, "active: must lie between 1 and the 25 training steps, got 0"),
        (FlowBPSparse(active=4), 3, "active: must lie between 1 and the 3 training steps, got 4"),
        (FlowBPSparse(bias=-1.0), 25, "bias: must be 0 or more"),
        (FlowBPSparse(rescale=-0.1), 25, "rescale: must be 0 or more"),
        (FlowBPBridge(active=1), 25, "active: each side of j needs an active step"),
        (FlowBPBridge(nesting=1.1), 25, r"nesting: α must lie in \[0, 1\]"),
        (FlowBPLagrange(), 2, "steps: 2 cannot be parted at k and j"),
        (FlowBPLagrange(nesting=-0.1), 25, r"nesting: α must lie in \[0, 1\]"),
        (FlowBPLagrange(tau=0.0), 25, "tau: τ must be positive"),
        (FlowBPLagrange(active=4), 25, "active: must lie between 1 and the 3 nodes, got 4"),
        (FlowBPLagrange(nodes=0, active=0), 25, "active: must lie between 1 and the 0 nodes"),
        (FlowBPLagrange(later_gain=0.0), 25, r"later_gain: must lie in \(0, 1\]"),
        (FlowBPLagrange(rescale=-1.0), 25, "rescale: must be 0 or more"),
        (FlowBPLagrange(concentration=(2.5, 0.0, 2.0)), 25, "concentration: must be positive"),
    ],
)
def test_settings_that_cannot_train_are_refused(
    method: DirectGradient, steps: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        method.check(steps, 12)
