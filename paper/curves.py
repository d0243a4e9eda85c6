"""Training logs as curves: the mean over seeds, smoothed, and the seeds' range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

SMOOTHING = 0.05
"""The moving average spans this share of the iterations."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One run's curve: x averaged over seeds; y's mean, and its lowest and highest seed."""

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def curve(log: pd.DataFrame, x: str, y: str) -> Curve:
    """The curve of a log's column `y` against `x`, over the iterations that every seed has."""
    seeds = log.pivot(index="iteration", columns="seed", values=y).dropna()
    smooth = smoothed(seeds)
    if x == "iteration":
        at = seeds.index.to_series()
    else:
        at = log.pivot(index="iteration", columns="seed", values=x).loc[seeds.index].mean(axis=1)
    columns = (at, smooth.mean(axis=1), smooth.min(axis=1), smooth.max(axis=1))
    return Curve(*(column.to_numpy(dtype=float) for column in columns))


def smoothed(values: pd.DataFrame) -> pd.DataFrame:
    """A moving average over iterations, the rows."""
    return values.rolling(max(1, round(SMOOTHING * len(values))), min_periods=1).mean()
