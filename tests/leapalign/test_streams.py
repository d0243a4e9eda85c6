"""A random stream depends on its names alone."""

from __future__ import annotations

import itertools

import torch

from leapalign.streams import choices, stream, stream_seed


def test_a_stream_repeats_and_other_names_differ() -> None:
    names = [(0, 1, "initial"), (1, 0, "initial"), (0, 1, "copy", 1), (0, 1, "copy", 2), (1, "01")]
    seeds = [stream_seed(seed, *name) for seed in (0, 1) for name in names]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    draws = [torch.randn(8, generator=stream(0, *name)) for name in names]
    again = [torch.randn(8, generator=stream(0, *name)) for name in names]
    assert all(torch.equal(one, two) for one, two in zip(draws, again, strict=True))
    assert not any(torch.equal(one, two) for one, two in itertools.combinations(draws, 2))


def test_names_do_not_run_together() -> None:
    assert stream_seed(0, 1, 12) != stream_seed(0, 11, 2)
    assert stream_seed(0, "1") != stream_seed(0, 1)


def test_a_stream_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.randn(3)
    torch.manual_seed(7)
    torch.randn(100, generator=stream(0, "noise"))
    choices(0, "plan").permutation(100)
    assert torch.equal(torch.randn(3), expected)
