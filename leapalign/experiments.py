"""The paper's experiments: which runs there are, and which tables and figures show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from leapalign.config import EXPERIMENTS, RunConfig
from leapalign.errors import UserError
from leapalign.parsing import nearest, parse, read_yaml


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A table or figure.

    Args:
        runs: what it shows, in order.
        title: what it is.
        reads: the runs' ledgers, or their methods' designs, for which nothing is trained.
    """

    runs: tuple[str, ...]
    title: str
    reads: Literal["ledger", "designs"] = "ledger"


@dataclass(frozen=True, slots=True)
class Experiments:
    """`paper/experiments.yaml`: runs by name, and the tables and figures that use them."""

    runs: Mapping[str, RunConfig]
    tables: Mapping[str, Exhibit] = field(default_factory=dict)
    figures: Mapping[str, Exhibit] = field(default_factory=dict)

    @property
    def default(self) -> Experiments:
        """The runs that are not extended, and what can be shown with them alone."""
        return self._part(extended=False)

    @property
    def extended(self) -> Experiments:
        """The extended runs, and what shows any of them."""
        return self._part(extended=True)

    def surveyed(self) -> list[str]:
        """The runs whose methods' designs are shown."""
        exhibits = (*self.tables.values(), *self.figures.values())
        shown = (run for exhibit in exhibits if exhibit.reads == "designs" for run in exhibit.runs)
        return list(dict.fromkeys(shown))

    def _part(self, *, extended: bool) -> Experiments:
        def belongs(exhibit: Exhibit) -> bool:
            trained = exhibit.runs if exhibit.reads == "ledger" else ()
            return any(self.runs[run].extended for run in trained) == extended

        return Experiments(
            {name: run for name, run in self.runs.items() if run.extended == extended},
            {name: exhibit for name, exhibit in self.tables.items() if belongs(exhibit)},
            {name: exhibit for name, exhibit in self.figures.items() if belongs(exhibit)},
        )


def load_experiments(path: Path = EXPERIMENTS) -> Experiments:
    """The experiments in `path`.

    Raises:
        UserError: a key is unknown, or a table or figure names a run that does not exist, or wants
            the design of a run without a method.
    """
    experiments = parse(Experiments, read_yaml(path), str(path))
    for kind, exhibits in (("tables", experiments.tables), ("figures", experiments.figures)):
        for name, exhibit in exhibits.items():
            for run in exhibit.runs:
                if run not in experiments.runs:
                    hint = nearest(run, experiments.runs)
                    raise UserError(f"{path}: `{kind}.{name}.runs`: no run `{run}`{hint}")
                if exhibit.reads == "designs" and experiments.runs[run].method is None:
                    raise UserError(
                        f"{path}: `{kind}.{name}.runs`: `{run}` has no method, hence no design; "
                        "leave it out"
                    )
    return experiments
