"""The paper's experiments: which runs there are, and which tables and figures show them."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from leapalign.config import EXPERIMENTS, RunConfig
from leapalign.errors import UserError
from leapalign.parsing import nearest, parse, read_yaml
from leapalign.user import CONFIG, UserConfig, user_config


@dataclass(frozen=True, slots=True)
class Exhibit:
    """A table or figure.

    Args:
        runs: what it shows, in order.
        title: what it is.
        reads: the runs' ledgers, with how their scores rose over training or without; their
            methods' designs, or what the length of a trajectory does, for which nothing is trained.
        task: the task its runs are trained and evaluated on; where the scale does not tell it from
            its own, they are its own.
        reference: the run that the others are compared with.
        open: the user's own methods are shown here too, and where the untrained model is, their
            finished checkpoints.
        extended: made by `snakemake extended`, as is whatever shows an extended run.
    """

    runs: tuple[str, ...]
    title: str
    reads: Literal["ledger", "progress", "designs", "trajectories"] = "ledger"
    task: str | None = None
    reference: str = "leapalign"
    open: bool = False
    extended: bool = False

    @property
    def trains(self) -> bool:
        """Whether its runs must have been trained."""
        return self.reads in ("ledger", "progress")


@dataclass(frozen=True, slots=True)
class Experiments:
    """`paper/experiments.yaml`: runs by name, and the tables and figures that use them."""

    runs: Mapping[str, RunConfig]
    tables: Mapping[str, Exhibit] = field(default_factory=dict)
    figures: Mapping[str, Exhibit] = field(default_factory=dict)

    @property
    def exhibits(self) -> tuple[Exhibit, ...]:
        """All tables and figures."""
        return (*self.tables.values(), *self.figures.values())

    @property
    def default(self) -> Experiments:
        """The runs that are not extended, and what can be shown with them alone."""
        return self._part(extended=False)

    @property
    def extended(self) -> Experiments:
        """The extended runs, and what shows any of them."""
        return self._part(extended=True)

    def of(self, reads: str) -> list[str]:
        """The runs of all exhibits that read this."""
        shown = (run for exhibit in self.exhibits if exhibit.reads == reads for run in exhibit.runs)
        return list(dict.fromkeys(shown))

    def find(self, run: str) -> RunConfig | None:
        """A run by its name; `<run>-<task>` is a run on the task of an exhibit."""
        name, _, task = run.rpartition("-")
        if run not in self.runs and task in {exhibit.task for exhibit in self.exhibits}:
            found = self.runs.get(name)
            return replace(found, task=task) if found else None
        return self.runs.get(run)

    def at(self, tasks: Container[str]) -> Experiments:
        """The experiments at a scale that tells these tasks from its own: their runs are others."""
        runs = dict(self.runs)

        def on_its_task(exhibit: Exhibit) -> Exhibit:
            if exhibit.task is None or exhibit.task not in tasks:
                return exhibit
            names = {run: f"{run}-{exhibit.task}" for run in (*exhibit.runs, exhibit.reference)}
            for run, name in names.items():
                if name in self.runs:
                    raise UserError(
                        f"two runs claim the name `{name}`: one of its own, and `{run}` on the "
                        f"task `{exhibit.task}`; rename the first"
                    )
                runs[name] = replace(self.runs[run], task=exhibit.task)
            shown = tuple(names[run] for run in exhibit.runs)
            return replace(exhibit, runs=shown, reference=names[exhibit.reference])

        tables, figures = (
            {name: on_its_task(exhibit) for name, exhibit in exhibits.items()}
            for exhibits in (self.tables, self.figures)
        )
        return Experiments(runs, tables, figures)

    def _part(self, *, extended: bool) -> Experiments:
        def belongs(exhibit: Exhibit) -> bool:
            trained = exhibit.runs if exhibit.trains else ()
            needs = exhibit.extended or any(self.runs[run].extended for run in trained)
            return needs == extended

        return Experiments(
            {name: run for name, run in self.runs.items() if run.extended == extended},
            {name: exhibit for name, exhibit in self.tables.items() if belongs(exhibit)},
            {name: exhibit for name, exhibit in self.figures.items() if belongs(exhibit)},
        )


def load_experiments(path: Path = EXPERIMENTS) -> Experiments:
    """The experiments in `path`, and in its open tables and figures what is the user's own.

    Raises:
        UserError: a key is unknown, or a table or figure names a run that does not exist, or wants
            the design of a run without a method, or two runs claim one name.
    """
    experiments = parse(Experiments, read_yaml(path), str(path))
    for kind, exhibits in (("tables", experiments.tables), ("figures", experiments.figures)):
        for name, exhibit in exhibits.items():
            for run in (*exhibit.runs, exhibit.reference):
                if run not in experiments.runs:
                    key = "runs" if run in exhibit.runs else "reference"
                    hint = nearest(run, experiments.runs)
                    raise UserError(f"{path}: `{kind}.{name}.{key}`: no run `{run}`{hint}")
            for run in exhibit.runs:
                if exhibit.reads == "designs" and experiments.runs[run].method is None:
                    raise UserError(
                        f"{path}: `{kind}.{name}.runs`: `{run}` has no method, hence no design; "
                        "leave it out"
                    )
    return bring(experiments, user_config())


def bring(experiments: Experiments, user: UserConfig) -> Experiments:
    """The experiments with the user's own methods and finished checkpoints as runs.

    Raises:
        UserError: two runs claim one name.
    """
    methods = {name: RunConfig(method=method) for name, method in user.methods.items()}
    checkpoints = {
        name: RunConfig(label=name, weights=str(Path(path).expanduser()))
        for name, path in user.checkpoints.items()
    }
    for key, brought, others in (
        ("methods", methods, experiments.runs),
        ("checkpoints", checkpoints, {**experiments.runs, **methods}),
    ):
        for name in brought:
            if name in others:
                where = EXPERIMENTS if name in experiments.runs else "`methods`"
                raise UserError(
                    f"{CONFIG}: `{key}.{name}`: {where} has a run of that name; choose another"
                )

    def opened(exhibit: Exhibit) -> Exhibit:
        if not exhibit.open:
            return exhibit
        untrained = any(experiments.runs[run].method is None for run in exhibit.runs)
        return replace(exhibit, runs=(*exhibit.runs, *methods, *(checkpoints if untrained else ())))

    tables, figures = (
        {name: opened(exhibit) for name, exhibit in exhibits.items()}
        for exhibits in (experiments.tables, experiments.figures)
    )
    return Experiments({**experiments.runs, **methods, **checkpoints}, tables, figures)
