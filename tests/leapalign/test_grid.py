"""The grid falls from noise to image, and tells the model the time the code bases tell it."""

from __future__ import annotations

import pytest

from leapalign.grid import Grid


def test_index_zero_is_noise_and_the_last_one_the_image() -> None:
    grid = Grid.shifted(4, 1.0)
    assert grid.sigmas == (1.0, 0.75, 0.5, 0.25, 0.0)
    assert (grid.steps, grid.end) == (4, 4)
    assert grid.delta(1) == -0.25


def test_shift_three_is_the_policy_gradient_code_bases_schedule() -> None:
    # 3 u / (1 + 2 u) at u = 1, 1/2, 0.
    assert Grid.shifted(2, 3.0).sigmas == (1.0, 0.75, 0.0)


def test_quantised_times_round_down_while_the_sigmas_stay() -> None:
    # 3 · (2/3) / (1 + 2 · 2/3) = 6/7 = 0.857142…, 3 · (1/3) / (1 + 2/3) = 0.6.
    grid = Grid.shifted(3, 3.0).quantised()
    assert grid.times[1] == 0.857
    assert grid.sigmas[1] == pytest.approx(6 / 7)
    assert Grid.shifted(3, 3.0).times == Grid.shifted(3, 3.0).sigmas


def test_a_thinned_grid_keeps_its_start_and_its_shift() -> None:
    # 3 u / (1 + 2 u) at u = 1, 3/4, and then at 3/8 and 0 instead of 1/2, 1/4 and 0.
    thinned = Grid.shifted(4, 3.0).thinned(1, 2)
    assert thinned.sigmas[:2] == Grid.shifted(4, 3.0).sigmas[:2]
    assert thinned.sigmas[2:] == pytest.approx([9 / 14, 0.0])
    whole = Grid.shifted(25, 2.2)
    assert whole.thinned(7, 18).sigmas == pytest.approx(whole.sigmas)


def test_steps_within_a_range_of_noise() -> None:
    grid = Grid.shifted(4, 1.0)
    assert grid.indices_within(0.0, 0.5) == [2, 3]
    assert grid.indices_within(0.0, 1.0) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "sigmas", [(1.0,), (1.0, 0.5), (0.9, 0.0), (1.0, 0.5, 0.5, 0.0), (1.0, 0.2, 0.6, 0.0)]
)
def test_values_that_do_not_fall_from_one_to_zero_are_refused(sigmas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="fall strictly from 1 to 0"):
        Grid(sigmas)
