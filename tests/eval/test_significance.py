"""p-values, Holm's correction and the number of seeds agree with closed forms and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from eval.significance import MOST_SEEDS, Components, components, holm
from tests import tolerances


def table(values: np.ndarray, tags: list[str] | None = None) -> pd.DataFrame:
    """Differences of shape [seed, prompt] as a long table."""
    seeds, prompts = values.shape
    cells = itertools.product(range(seeds), range(prompts))
    rows = pd.DataFrame(cells, columns=["seed", "prompt_index"])
    names = tags or ["one"] * prompts
    return rows.assign(score=values.ravel(), tag=[names[p] for p in rows["prompt_index"]])


def crossed(
    rng: np.random.Generator, shape: tuple[int, int], deviations: tuple[float, float, float]
) -> np.ndarray:
    """Seed, prompt and residual effects with known standard deviations."""
    seeds, prompts = shape
    parts = (rng.normal(size=(seeds, 1)), rng.normal(size=(1, prompts)), rng.normal(size=shape))
    return sum(sd * part for sd, part in zip(deviations, parts, strict=True))


def test_holm_is_the_hand_computed_case() -> None:
    # Sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, then 0.04 * 1, which may not fall below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_is_statsmodels() -> None:
    # What multipletests of statsmodels.stats.multitest gives with the method "holm".
    p = [0.0001, 0.02, 0.6, 0.013, 0.04]
    assert holm(p) == pytest.approx([0.0005, 0.06, 0.6, 0.052, 0.08])


def test_holm_keeps_to_probabilities_and_to_a_single_test() -> None:
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_one_seed_is_the_t_test_over_prompts() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, size=(1, 25))
    found = components(table(values))
    expected = scipy.stats.ttest_1samp(values.ravel(), 0.0).pvalue
    assert found.p_value() == pytest.approx(expected)
    assert found.seeds_to_decide() is None


def test_prompts_all_alike_leave_the_t_test_over_seeds() -> None:
    seeds = np.array([[0.2], [0.5], [0.3], [0.9]])
    found = components(table(np.repeat(seeds, 6, axis=1)))
    assert found.p_value() == pytest.approx(scipy.stats.ttest_1samp(seeds.ravel(), 0.0).pvalue)


def test_the_variance_is_that_of_the_two_way_analysis() -> None:
    values = crossed(np.random.default_rng(2), (4, 9), (0.5, 1.0, 0.7))
    seeds, prompts = values.shape
    rest = values - values.mean(0) - values.mean(1, keepdims=True) + values.mean()
    squares = (
        prompts * np.var(values.mean(1), ddof=1),
        seeds * np.var(values.mean(0), ddof=1),
        (rest**2).sum() / ((seeds - 1) * (prompts - 1)),
    )
    found = components(table(values))
    assert found.effect == pytest.approx(values.mean())
    variance = found.between_seeds / seeds + found.between_prompts
    expected = (squares[0] + squares[1] - squares[2]) / values.size
    assert variance == pytest.approx(expected)


def test_many_seeds_and_prompts_give_the_normal_p_value() -> None:
    values = crossed(np.random.default_rng(3), (200, 300), (0.5, 1.0, 1.0))
    values += 0.16 - values.mean()
    variance = 0.25 / 200 + 1.0 / 300 + 1.0 / values.size
    expected = 2 * scipy.stats.norm.sf(0.16 / math.sqrt(variance))
    found = components(table(values)).p_value()
    assert math.log(found) == pytest.approx(math.log(expected), rel=tolerances.NORMAL_P_VALUE)


def test_groups_are_averaged_and_their_own_levels_are_no_variance() -> None:
    level = np.array([[1.0, 1.0, 1.0, -3.0]])
    found = components(table(np.repeat(level, 3, axis=0), ["a", "a", "a", "b"]), by="tag")
    assert found.effect == -1.0
    assert found.between_prompts == 0.0


@pytest.mark.parametrize("deviations", [(0.0, 1.0, 1.0), (0.3, 1.0, 1.0), (1.0, 0.0, 1.0)])
def test_three_seeds_keep_about_to_the_level(deviations: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(4)
    found = [components(table(crossed(rng, (3, 60), deviations))).p_value() for _ in range(300)]
    low, high = tolerances.FALSE_POSITIVES
    assert low <= np.mean(np.array(found) < 0.05) <= high


def test_so_many_seeds_decide_every_other_time() -> None:
    effect, (seed, prompt, rest), prompts = 0.3, (0.6, 0.5, 1.0), 80
    known = Components((effect,) * 3, seed**2 + rest**2 / prompts, prompt**2 / prompts, prompts - 1)
    needed = known.seeds_to_decide()
    assert needed is not None
    assert needed > 10
    rng = np.random.default_rng(5)
    found = [
        components(table(effect + crossed(rng, (needed, prompts), (seed, prompt, rest)))).p_value()
        for _ in range(200)
    ]
    low, high = tolerances.HALF_OF_TRIALS
    assert low <= np.mean(np.array(found) < 0.05) <= high


def test_no_effect_and_too_few_prompts_are_decided_by_no_number_of_seeds() -> None:
    assert Components((0.0, 0.1, -0.1), 0.01, 0.0, 50).seeds_to_decide() is None
    assert Components((0.3, 0.3, 0.3), 0.01, 0.04, 50).seeds_to_decide() is None
    assert MOST_SEEDS == 1000


def test_a_difference_that_never_varies_is_certain() -> None:
    assert components(table(np.full((3, 4), 0.25))).p_value() == 0.0
    assert components(table(np.zeros((3, 4)))).p_value() == 1.0


def test_nothing_to_resample_has_no_p_value() -> None:
    assert components(table(np.array([[0.3]]))).p_value() is None


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        components(table(np.array([[0.1, np.inf]])))
