"""The ledger: the only results that tables, figures and report read.

A ledger holds a folder `<run>/seed<s>/` with `scores.csv` (one row per image and evaluator),
`train.csv` (one row per iteration; absent for the untrained model), `progress.csv` (scores of
snapshots within training; of tracked runs), `provenance.json` (how each stage ran) and
`samples.png` with `samples.json` (images of a few prompts). Beside the runs, `designs.json` says
what their methods are, and `trajectories.json` what gradients do as the number of steps grows.
What is absent is a gap with a reason; what is there and wrong is an error.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leapalign.design import Design
from leapalign.errors import UserError
from leapalign.parsing import parse
from paper.provenance import Provenance

KEYS = ["evaluator", "prompt_index", "image_index"]
SCORE_COLUMNS = [*KEYS, "image", "prompt", "tag", "score"]
TRAIN_COLUMNS = ["iteration", "reward", "grad_norm", "nfe", "images", "seconds", "peak_memory_mb"]
LENGTH_COLUMNS = ["method", "steps", "grad_norm", "saved_mb", "seconds"]
RESIDUAL_COLUMNS = ["gap", "mean", "low", "high", "pairs"]
REQUIRED = ("scores.csv", "provenance.json")
DESIGNS = "designs.json"
TRAJECTORIES = "trajectories.json"
MEASURE = "measure one with `snakemake --cores all all`"


@dataclass(frozen=True)
class Run:
    """One run's entries in a ledger, a folder per seed.

    Args:
        name: the run's name in the experiments file.
        folders: seed → folder, lowest seed first.
    """

    name: str
    folders: dict[int, Path]

    @functools.cached_property
    def scores(self) -> pd.DataFrame:
        """Every score of every seed: columns `seed` and `SCORE_COLUMNS`."""
        return _by_seed({s: _read_scores(f / "scores.csv") for s, f in self.folders.items()})

    @functools.cached_property
    def training(self) -> pd.DataFrame:
        """The training logs of every seed, with a column `seed`; empty if untrained."""
        logs = {s: f / "train.csv" for s, f in self.folders.items()}
        return _by_seed({s: _read_training(path) for s, path in logs.items() if path.exists()})

    @functools.cached_property
    def progress(self) -> pd.DataFrame:
        """Scores of snapshots within training: `iteration`, `seed`, `SCORE_COLUMNS`; or empty."""
        tables = {s: f / "progress.csv" for s, f in self.folders.items()}
        return _by_seed({s: _read_progress(path) for s, path in tables.items() if path.exists()})

    @functools.cached_property
    def provenance(self) -> dict[int, Provenance]:
        """How each seed was trained, sampled and scored.

        Raises:
            UserError: Two seeds of the run come from different settings.
        """
        records = {s: _read_provenance(f / "provenance.json") for s, f in self.folders.items()}
        hashes = {record.settings_hash for record in records.values()}
        if len(hashes) > 1:
            files = ", ".join(str(f / "provenance.json") for f in self.folders.values())
            raise UserError(
                f"{files}: seeds of run {self.name!r} come from different settings; re-run it"
            )
        return records

    @property
    def record(self) -> Provenance:
        """The provenance of the first seed; all seeds share its settings."""
        return next(iter(self.provenance.values()))

    @property
    def trained(self) -> bool:
        """Whether the run is a training, not the untrained model."""
        return any(record.stage("train") for record in self.provenance.values())

    def of(self, evaluator: str) -> pd.DataFrame:
        """The scores of one evaluator; empty where it did not score this run."""
        return self.scores[self.scores["evaluator"] == evaluator]


@dataclass(frozen=True)
class Ledger:
    """A folder of measured results."""

    folder: Path
    runs: dict[str, Run]
    gaps: dict[str, str]

    @classmethod
    def open(
        cls,
        folder: Path,
        runs: Collection[str] | None = None,
        seeds: Collection[int] | None = None,
    ) -> Ledger:
        """Find the complete runs of a ledger; say of the others what they lack.

        Args:
            folder: the ledger.
            runs: look at these only; at all by default.
            seeds: look at these only; at all by default.

        Raises:
            UserError: The folder is missing or holds neither run nor designs.
        """
        if not folder.is_dir():
            raise UserError(f"{folder}: no such ledger; {MEASURE}")
        entries = sorted(path for path in folder.iterdir() if path.is_dir())
        if not entries and not any((folder / name).is_file() for name in (DESIGNS, TRAJECTORIES)):
            raise UserError(f"{folder}: the ledger is empty; {MEASURE}")
        complete, gaps = {}, {}
        for path in entries:
            if runs is not None and path.name not in runs:
                continue
            folders = _seeds(path, seeds)
            if lacking := _lacking(folders):
                gaps[path.name] = lacking
            else:
                complete[path.name] = Run(path.name, folders)
        return cls(folder, complete, gaps)

    @property
    def names(self) -> list[str]:
        """The runs there are, complete or not."""
        return [*self.runs, *self.gaps]

    @property
    def scale(self) -> str:
        """The scale the results were measured at, as the runs' own records name it."""
        names = {r.scale for run in self.runs.values() for r in run.provenance.values() if r.scale}
        if len(names) > 1:
            raise UserError(
                f"{self.folder}: runs of different scales are mixed: {', '.join(sorted(names))}"
            )
        return names.pop() if names else self.folder.resolve().name

    @functools.cached_property
    def designs(self) -> dict[str, Design]:
        """What the direct-gradient runs' methods are; empty where that was not surveyed.

        Raises:
            UserError: The file is damaged.
        """
        path = self.folder / DESIGNS
        if not path.is_file():
            return {}
        found = _read_json(path)
        return {run: parse(Design, found[run], str(path), run) for run in found}

    @functools.cached_property
    def lengths(self) -> pd.DataFrame:
        """What the gradient of some methods is at several numbers of steps: `LENGTH_COLUMNS`."""
        return self._trajectories("lengths", LENGTH_COLUMNS)

    @functools.cached_property
    def residuals(self) -> pd.DataFrame:
        """How far leaps land from the path, by the distance in σ: `RESIDUAL_COLUMNS`."""
        return self._trajectories("residuals", RESIDUAL_COLUMNS)

    def _trajectories(self, key: str, columns: list[str]) -> pd.DataFrame:
        """A table of the file on trajectories; empty where they were not measured.

        Raises:
            UserError: The file is damaged.
        """
        path = self.folder / TRAJECTORIES
        if not path.is_file():
            return pd.DataFrame(columns=columns, dtype=float)
        table = pd.DataFrame(_read_json(path).get(key) or [])
        if missing := [column for column in columns if column not in table]:
            raise UserError(f"{path}: `{key}` lacks {', '.join(missing)}; measure it again")
        return table

    def gap(self, run: str) -> str | None:
        """Why a run's row is empty, or None where it is complete."""
        if run in self.runs:
            return None
        return self.gaps.get(run, "not in the ledger: it has not been run")


def _seeds(folder: Path, wanted: Collection[int] | None) -> dict[int, Path]:
    matches = ((re.fullmatch(r"seed(\d+)", path.name), path) for path in folder.iterdir())
    found = {int(match[1]): path for match, path in matches if match}
    return {seed: found[seed] for seed in sorted(found) if wanted is None or seed in wanted}


def _lacking(folders: dict[int, Path]) -> str | None:
    """What a run's folders lack, or None where they are complete."""
    if not folders:
        return "its ledger folder holds no such seed"
    missing = [
        f"{folder.name}/{name}"
        for folder in folders.values()
        for name in REQUIRED
        if not (folder / name).is_file()
    ]
    return f"its ledger lacks {', '.join(missing)}" if missing else None


def _by_seed(frames: dict[int, pd.DataFrame]) -> pd.DataFrame:
    tables = [frame.assign(seed=seed) for seed, frame in frames.items()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not a readable CSV file ({error}); score or train the run again"
        ) from None
    if missing := [column for column in columns if column not in frame.columns]:
        raise UserError(
            f"{path}: lacks the columns {', '.join(missing)}; score or train the run again"
        )
    return frame


def _read_progress(path: Path) -> pd.DataFrame:
    return _read_scores(path, ["iteration"])


def _read_scores(path: Path, keys: Sequence[str] = ()) -> pd.DataFrame:
    frame = _read_csv(path, [*keys, *SCORE_COLUMNS])
    values = pd.to_numeric(frame["score"], errors="coerce").to_numpy(dtype=float)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        where = f"{frame['evaluator'][row]} of {frame['image'][row]}"
        raise UserError(
            f"{path}: line {row + 2}: the score by {where} is not a number; score the run again"
        )
    repeated = frame.duplicated([*keys, *KEYS])
    if repeated.any():
        row = int(np.flatnonzero(repeated)[0])
        raise UserError(
            f"{path}: line {row + 2}: image {frame['image'][row]} is scored twice; "
            "score the run again"
        )
    return frame.assign(score=values)


def _read_training(path: Path) -> pd.DataFrame:
    return _read_csv(path, TRAIN_COLUMNS)


def _read_provenance(path: Path) -> Provenance:
    return Provenance(_read_json(path))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); run the stage again") from None
    if not isinstance(record, dict):
        raise UserError(f"{path}: holds no record of the run's stages; run them again")
    return record
