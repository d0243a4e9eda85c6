"""The counter-based noise: Philox as published, and standard normal."""

from __future__ import annotations

import torch
from scipy import stats

from leapalign.kernels import philox
from leapalign.streams import stream_seed
from tests import tolerances

# Random123's known answers for philox4x32-10: counter and key all zero; counter and key all ones.
ZERO = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)


def test_words_are_the_published_ones() -> None:
    signed = torch.tensor(ZERO).to(torch.int32)
    expected = torch.where(signed < 0, ~signed, signed).float() * philox.UNIT
    found = philox.philox(
        torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.int64)
    )
    assert torch.equal(found[0, 0], expected)


def test_both_halves_of_a_key_count() -> None:
    seeds = torch.tensor([7, 7 + 2**32, 8])
    one, two, three = philox.normal(seeds, 8)
    assert not torch.isclose(one, two).any()
    assert not torch.isclose(one, three).any()


def test_a_samples_noise_does_not_depend_on_its_company_or_the_size() -> None:
    seeds = torch.tensor([stream_seed(0, 3, slot, "step", 1) for slot in range(3)])
    together = philox.normal(seeds, 37)
    assert torch.equal(philox.normal(seeds[1:2], 21)[0], together[1, :21])


def test_noise_is_standard_normal() -> None:
    noise = philox.normal(torch.tensor([stream_seed(0, "normal")]), 20_000)[0]
    assert stats.kstest(noise.numpy(), "norm").pvalue > tolerances.UNIFORM_P_VALUE
