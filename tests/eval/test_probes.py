"""The probes against images whose answer is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from eval.manifest import read_manifest, write_manifest
from eval.probes import clipping, diversity, high_frequency, main, probe, saturation
from leapalign.errors import UserError
from tests import tolerances

SIDE = 32


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(values, dtype=float)[..., None], 3, axis=-1)


def wave(frequency: float, axis: int) -> np.ndarray:
    """A cosine of this many cycles a pixel along one axis."""
    cycle = 0.5 + 0.4 * np.cos(2 * np.pi * frequency * np.arange(SIDE))
    return grey(np.broadcast_to(cycle[:, None] if axis == 0 else cycle, (SIDE, SIDE)))


def test_a_constant_image_has_no_energy_and_a_checkerboard_all_of_it_up_high() -> None:
    checkerboard = np.indices((SIDE, SIDE)).sum(0) % 2
    assert high_frequency(grey(np.full((SIDE, SIDE), 0.3))) == pytest.approx(0.0, abs=1e-12)
    assert high_frequency(grey(checkerboard)) == pytest.approx(1.0)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    ("frequency", "share"), [(0.125, 0.0), (0.25, 0.0), (0.28125, 1.0), (0.5, 1.0)]
)
def test_half_the_nyquist_frequency_is_where_high_begins(
    axis: int, frequency: float, share: float
) -> None:
    assert high_frequency(wave(frequency, axis)) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize("shape", [(31, 31), (32, 32), (32, 31), (24, 40)])
def test_the_energy_is_that_of_the_whole_transform(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random((*shape, 3))
    luminance = pixels @ np.array([0.299, 0.587, 0.114])
    energy = np.abs(np.fft.fft2(luminance - luminance.mean())) ** 2
    rows, columns = (np.abs(np.fft.fftfreq(side)) for side in shape)
    above = np.maximum(rows[:, None], columns[None]) > 0.25
    assert high_frequency(pixels) == pytest.approx(energy[above].sum() / energy.sum())


@pytest.mark.parametrize(
    ("color", "expected"),
    [
        ((1, 0, 0), 1.0),
        ((0, 1, 1), 1.0),
        ((0.5, 0.5, 0.5), 0.0),
        ((0, 0, 0), 0.0),
        ((0.8, 0.6, 0.4), 0.5),
    ],
)
def test_saturation_is_hsvs(color: tuple[float, ...], expected: float) -> None:
    assert saturation(np.broadcast_to(np.array(color, dtype=float), (4, 4, 3))) == pytest.approx(
        expected
    )


def test_clipping_counts_pixels_with_a_channel_at_an_end() -> None:
    pixels = np.full((2, 2, 3), 0.5)
    pixels[0, 0, 1], pixels[1, 1] = 1.0, 0.0
    assert clipping(pixels) == 0.5


def test_diversity_is_the_mean_distance_to_the_others() -> None:
    black, white = np.zeros((4, 4, 3)), np.ones((4, 4, 3))
    assert diversity([black, black, black]) == [0.0, 0.0, 0.0]
    assert diversity([black, white, black]) == [0.5, 1.0, 0.5]
    assert diversity([white]) == [0.0]


def test_the_bases_own_layout_has_not_changed_and_others_by_their_coarse_pixels(
    images: Path, tmp_path: Path
) -> None:
    assert probe(images, images)["layout"] == [0.0, 0.0, 0.0]
    samples = read_manifest(images)
    other = tmp_path / "other"
    other.mkdir()
    for sample in samples:
        Image.new("RGB", (4, 4), "red").save(other / sample.image)
    write_manifest(other, samples)
    # Pure red, (web) green 0, 128, 0 and blue against red, root mean square over three channels.
    half = 128 / 255
    expected = [0.0, math.sqrt((1 + half**2) / 3), math.sqrt(2 / 3)]
    assert probe(images, other)["layout"] == pytest.approx(expected, abs=tolerances.LAYOUT)
    assert "layout" not in probe(images, None)


def test_the_untrained_models_images_must_be_of_the_same_prompts(
    images: Path, tmp_path: Path
) -> None:
    samples = [replace(sample, seed=8) for sample in read_manifest(images)]
    write_manifest(tmp_path, samples)
    with pytest.raises(UserError, match="not the prompts and noise"):
        probe(images, tmp_path)


def test_the_command_line_writes_a_file_of_scores_a_probe(images: Path, tmp_path: Path) -> None:
    main(["--images", str(images), "--base", str(images), "--out", str(tmp_path / "out")])
    names = ("high_frequency", "saturation", "clipping", "diversity", "layout")
    tables = {name: pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in names}
    assert tables["saturation"]["score"].tolist() == [1.0, 1.0, 1.0]
    assert tables["clipping"]["score"].tolist() == [1.0, 1.0, 1.0]
    assert tables["diversity"]["image"].tolist() == [f"0000{n}.png" for n in range(3)]
