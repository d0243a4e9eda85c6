"""Means and intervals agree with enumeration, with scipy and with the normal limit."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from eval import stats
from tests import tolerances

FEW = stats.Bootstrap(draws=4_000)


def table(values: np.ndarray, tags: list[str] | None = None) -> pd.DataFrame:
    """Scores of shape [seed, prompt, image] as a long table."""
    seeds, prompts, images = values.shape
    cells = itertools.product(range(seeds), range(prompts), range(images))
    rows = pd.DataFrame(cells, columns=stats.PAIR)
    names = tags or ["one"] * prompts
    return rows.assign(score=values.ravel(), tag=[names[p] for p in rows["prompt_index"]])


def test_the_mean_is_over_images() -> None:
    rows = table(np.array([[[1.0, 2.0], [4.0, 9.0]]])).iloc[:3]
    estimate = stats.mean(rows)
    assert estimate.mean == pytest.approx((1 + 2 + 4) / 3)
    assert (estimate.images, estimate.prompts, estimate.seeds) == (3, 2, 1)


def test_two_prompts_give_the_enumerated_interval() -> None:
    # The resamples are {a, a}, {a, b}, {b, b}: the central 95% reaches from a to b.
    estimate = stats.mean(table(np.array([[[1.0, 3.0], [7.0, 9.0]]])))
    assert (estimate.mean, estimate.low, estimate.high) == (5.0, 2.0, 8.0)


def test_images_of_a_prompt_are_one_cluster() -> None:
    rng = np.random.default_rng(1)
    prompts = rng.normal(size=(1, 40, 1))
    once, repeated = (stats.mean(table(np.repeat(prompts, n, axis=2))) for n in (1, 6))
    assert (once.low, once.high) == pytest.approx((repeated.low, repeated.high))


def test_the_interval_is_scipys_percentile_bootstrap_of_prompt_means() -> None:
    values = np.random.default_rng(2).gamma(2.0, size=(1, 30, 4))
    ours = stats.mean(table(values), stats.Bootstrap(draws=40_000))
    theirs = scipy.stats.bootstrap(
        (values.mean(axis=2).ravel(),),
        np.mean,
        n_resamples=40_000,
        method="percentile",
        rng=np.random.default_rng(3),
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=tolerances.BOOTSTRAP_ENDPOINT * width)
    assert ours.high == pytest.approx(theirs.high, abs=tolerances.BOOTSTRAP_ENDPOINT * width)


def test_seeds_add_their_own_variance() -> None:
    rng = np.random.default_rng(4)
    seed_effect, prompt_effect = rng.normal(size=(8, 1, 1)), rng.normal(size=(1, 200, 1))
    estimate = stats.mean(table(seed_effect + prompt_effect), FEW)
    variance = seed_effect.var() / 8 + prompt_effect.var() / 200
    width = 2 * scipy.stats.norm.ppf(0.975) * np.sqrt(variance)
    assert estimate.high - estimate.low == pytest.approx(width, rel=tolerances.BOOTSTRAP_WIDTH)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    few = stats.Bootstrap(draws=500)
    samples = (rng.normal(size=(1, 40, 1)) + rng.normal(size=(1, 40, 2)) for _ in range(200))
    estimates = [stats.mean(table(sample), few) for sample in samples]
    covered = np.mean([estimate.low <= 0 <= estimate.high for estimate in estimates])
    lowest, highest = tolerances.COVERAGE
    assert lowest <= covered <= highest


def test_a_paired_difference_cancels_what_the_runs_share() -> None:
    rng = np.random.default_rng(6)
    shared, gain = 10 * rng.normal(size=(2, 50, 2)), 0.1 + 0.01 * rng.normal(size=(2, 50, 2))
    reference = table(shared)
    estimate = stats.mean(stats.paired(table(shared + gain), reference), FEW)
    assert estimate.mean == pytest.approx(gain.mean())
    assert 0.09 < estimate.low < estimate.high < 0.11


def test_pairs_are_the_shared_seeds_prompts_and_images() -> None:
    a, b = table(np.ones((3, 4, 2))), table(np.zeros((2, 5, 1)))
    pairs = stats.paired(a, b)
    assert len(pairs) == 2 * 4 * 1
    assert set(pairs["score"]) == {1.0}
    with pytest.raises(ValueError, match="share no seed"):
        stats.paired(a, b.assign(seed=b["seed"] + 9))


def test_an_image_that_occurs_twice_is_refused() -> None:
    a = table(np.ones((1, 2, 1)))
    with pytest.raises(ValueError, match="one-to-one"):
        stats.paired(a, pd.concat([a, a]))


def test_the_untrained_model_stands_beside_every_seed() -> None:
    base = table(np.arange(4.0).reshape(1, 2, 2))
    trained = table(np.stack([np.arange(4.0).reshape(2, 2) + s for s in range(3)]))
    pairs = stats.paired(trained, stats.for_seeds(base, [0, 1, 2]))
    assert pairs.groupby("seed")["score"].unique().map(list).tolist() == [[0.0], [1.0], [2.0]]


def test_genevals_overall_is_the_mean_over_tags() -> None:
    values = np.array([[[1.0], [1.0], [0.0], [1.0]]])
    rows = stats.by_tag(table(values, ["colors", "colors", "position", "colors"]), FEW)
    assert {tag: row.mean for tag, row in rows.items()} == {
        "colors": 1.0,
        "position": 0.0,
        "overall": 0.5,
    }


def test_the_result_is_a_function_of_its_seed() -> None:
    scores = table(np.random.default_rng(7).normal(size=(2, 9, 2)))
    assert stats.mean(scores, FEW) == stats.mean(scores, FEW)
    assert stats.mean(scores, FEW) != stats.mean(scores, stats.Bootstrap(draws=4_000, seed=1))


def test_one_prompt_has_no_interval() -> None:
    estimate = stats.mean(table(np.array([[[1.0, 2.0]]])))
    assert np.isnan([estimate.low, estimate.high]).all()


@pytest.mark.parametrize(
    "scores", [table(np.ones((1, 2, 1))).iloc[:0], table(np.full((1, 2, 1), np.nan))]
)
def test_missing_scores_are_refused(scores: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="finite"):
        stats.mean(scores)
