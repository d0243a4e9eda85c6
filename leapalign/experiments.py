"""The paper's experiments: which runs there are, and which tables and figures show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from leapalign.config import EXPERIMENTS, RunConfig
from leapalign.errors import UserError
from leapalign.parsing import nearest, parse, read_yaml


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A table or figure: the runs it shows, in order, and its title."""

    runs: tuple[str, ...]
    title: str


@dataclass(frozen=True, slots=True)
class Experiments:
    """`paper/experiments.yaml`: runs by name, and the tables and figures that use them."""

    runs: Mapping[str, RunConfig]
    tables: Mapping[str, Exhibit] = field(default_factory=dict)
    figures: Mapping[str, Exhibit] = field(default_factory=dict)


def load_experiments(path: Path = EXPERIMENTS) -> Experiments:
    """The experiments in `path`.

    Raises:
        UserError: a key is unknown, or a table or figure names a run that does not exist.
    """
    experiments = parse(Experiments, read_yaml(path), str(path))
    for kind, exhibits in (("tables", experiments.tables), ("figures", experiments.figures)):
        for name, exhibit in exhibits.items():
            for run in exhibit.runs:
                if run not in experiments.runs:
                    hint = nearest(run, experiments.runs)
                    raise UserError(f"{path}: `{kind}.{name}.runs`: no run `{run}`{hint}")
    return experiments
