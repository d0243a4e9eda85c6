"""The resampling matrix is torchvision's antialiased bicubic."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from leapalign.kernels.bicubic import Axis, band, matrix
from tests import tolerances


@pytest.mark.parametrize(("size", "resized"), [(123, 50), (50, 123), (1024, 224), (9, 9), (3, 2)])
def test_matrix_resizes_as_torchvision(size: int, resized: int) -> None:
    images = torch.randn(
        2, 3, size, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    bicubic = F.InterpolationMode.BICUBIC
    expected = F.resize(images, [resized, 4], interpolation=bicubic, antialias=True)
    found = matrix(Axis(size, resized, 0, resized)) @ images
    bound = tolerances.RESAMPLING
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)


def test_a_window_pads_with_zeros() -> None:
    whole, padded = matrix(Axis(20, 7, 0, 7)), matrix(Axis(20, 7, -2, 12))
    assert torch.equal(padded[2:9], whole)
    assert not padded[:2].any()
    assert not padded[9:].any()


@pytest.mark.parametrize("axis", [Axis(20, 7, -2, 12), Axis(7, 20, 0, 20)])
def test_a_band_holds_the_whole_matrix_and_its_transpose(axis: Axis) -> None:
    for dense in (matrix(axis), matrix(axis).T):
        first, weight = band(dense)
        columns = first[:, None] + torch.arange(weight.shape[1])
        assert torch.equal(torch.zeros_like(dense).scatter(1, columns, weight), dense)
