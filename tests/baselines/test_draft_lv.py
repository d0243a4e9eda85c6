"""DRaFT-LV (arXiv 2309.17400) trains the last step, and its copies' last step."""

from __future__ import annotations

import pytest

from baselines.draft_lv import DRaFTLV
from leapalign.errors import UserError
from leapalign.grid import Grid
from leapalign.streams import choices
from tests.leapalign.problems import AnalyticProblem, iteration_of


def test_only_the_last_step_trains() -> None:
    grid = Grid.shifted(25, 3.0)
    plan = DRaFTLV().plan(grid, choices(0, "plan"))
    [leap] = plan.leaps
    assert (leap.start, leap.stop, leap.active) == (24, 25, (24,))
    assert leap.weight == {24: grid.delta(24)}
    assert plan.copies == 2


def test_every_copy_has_noise_of_its_own() -> None:
    gradients = [iteration_of(DRaFTLV(copies=n), AnalyticProblem())[0] for n in range(3)]
    first, second = gradients[1] - gradients[0], gradients[2] - gradients[1]
    assert first.any()
    assert not first.allclose(second)


def test_a_negative_number_of_copies_is_refused() -> None:
    with pytest.raises(UserError, match="copies: must be 0 or more, got -1"):
        DRaFTLV(copies=-1).check(25, 1)
