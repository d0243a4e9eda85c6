"""Draws many Plans of each direct-gradient method and writes what they have in common.

`python -m leapalign.survey --runs <JSON: run → training settings> --out <file>` trains nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leapalign.design import Design, describe
from leapalign.direct import DirectGradient
from leapalign.errors import UserError, main_guard
from leapalign.files import write_json
from leapalign.grid import Grid
from leapalign.parsing import dump, parse
from leapalign.settings import TrainSettings
from leapalign.streams import choices
from leapalign.user import user_config

DRAWS = 10_000
"""Enough for a step that one Plan in two thousand trains."""


def survey(run: str, settings: TrainSettings) -> Design:
    """The design of a run's method.

    The grid is uniform: none of a design's facts but a choice of steps by σ depends on its shift.

    Raises:
        UserError: the method draws no Plans.
    """
    method = settings.method.build()
    if not isinstance(method, DirectGradient):
        raise UserError(
            f"run `{run}`: {settings.method.reference} draws no Plans to read a design off; "
            "leave it out of the tables that read designs"
        )
    grid = Grid.shifted(settings.training.steps, 1.0)
    plans = [method.plan(grid, choices(settings.seed, draw, run)) for draw in range(DRAWS)]
    return describe(plans, grid)


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the designs of the given runs, by name."""
    parser = argparse.ArgumentParser(prog="python -m leapalign.survey", description=main.__doc__)
    parser.add_argument("--runs", required=True, help="run → training settings, as JSON")
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    options = parser.parse_args(arguments)
    runs = {
        run: parse(TrainSettings, settings, "--runs", run)
        for run, settings in json.loads(options.runs).items()
    }
    write_json(options.out, dict(designs(runs)))


def designs(runs: Mapping[str, TrainSettings]) -> Iterator[tuple[str, Any]]:
    """The runs' designs, by name; one of the user's own that has none takes nothing from others."""
    for run, settings in runs.items():
        try:
            yield run, dump(survey(run, settings))
        except Exception as error:
            if run not in user_config().methods:
                raise
            sys.stderr.write(f"no design of {run}: {type(error).__name__}: {error}\n")


if __name__ == "__main__":
    main()
