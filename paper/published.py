"""The numbers that the literature reports, read from `published.yaml` and checked."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from leapalign.parsing import parse, read_yaml

PATH = Path(__file__).with_name("published.yaml")

Score = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Source:
    """A publication."""

    title: str
    venue: str
    arxiv: Annotated[str, Field(pattern=r"^\d{4}\.\d{5}$")]
    authors: str = ""


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """One published table: a row of scores per method, in the order of `metrics`."""

    source: str
    where: str
    about: str
    metrics: tuple[str, ...]
    rows: Mapping[str, tuple[Score, ...]]
    note: str = ""

    def __post_init__(self) -> None:
        for method, scores in self.rows.items():
            if len(scores) != len(self.metrics):
                raise ValueError(
                    f"row {method} has {len(scores)} scores for {len(self.metrics)} metrics"
                )

    def get(self, run: str, metric: str) -> float | None:
        """The score of a run on a metric, or None where the publication has none."""
        if run not in self.rows or metric not in self.metrics:
            return None
        return self.rows[run][self.metrics.index(metric)]


@dataclass(frozen=True, slots=True)
class Properties:
    """Table 1: the properties that each method has."""

    columns: Mapping[str, str]
    rows: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        for method, names in self.rows.items():
            if unknown := set(names) - set(self.columns):
                raise ValueError(f"row {method} has unknown properties {sorted(unknown)}")


@dataclass(frozen=True, slots=True)
class Published:
    """Everything in `published.yaml`."""

    sources: Mapping[str, Source]
    tables: Mapping[str, PublishedTable]
    settings: Mapping[str, Any]
    properties: Properties

    def __post_init__(self) -> None:
        for name, table in self.tables.items():
            if table.source not in self.sources:
                raise ValueError(f"table {name} names the unknown source {table.source}")


@functools.cache
def published(path: Path = PATH) -> Published:
    """Read and check the published numbers.

    Raises:
        UserError: The file is missing, not YAML, or does not have the expected structure.
    """
    return parse(Published, read_yaml(path), str(path))
