"""What the Snakemake rules ask: the runs, their settings and paths, and what they will cost.

Settings are resolved before the DAG is built, so a mistake in any file ends Snakemake at once.
Resolving imports the methods, and with them torch, which takes seconds: what came out is kept
under a digest of all that went in.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from leapalign import digests
from leapalign.config import (
    EXPERIMENTS,
    available,
    check_choices,
    method_name,
    resolve_run,
)
from leapalign.doctor import checks
from leapalign.errors import UserError
from leapalign.experiments import Exhibit, Experiments, load_experiments
from leapalign.files import write_json
from leapalign.parsing import dump, nearest, nearest_file, parse
from leapalign.scales import SCALES, Scale, load_scale, pick_scale, scale_file
from leapalign.settings import RunSettings, TrackSettings, plain_name
from leapalign.user import CONFIG, UserConfig, hand_down, user_config
from leapalign.weights import check_weights, fingerprint

KEPT = Path(".snakemake/leapalign/settings.json")
JOB_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # as many jobs run side by side as there are cores
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # the loaders' bars would hide a job's own lines in its log
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
}
Stage = Literal["train", "generate", "score", "track", "render"]


@dataclass(frozen=True)
class Suite:
    """The experiments at one scale.

    Attributes:
        scale: its name.
        why: the scale and why it was picked, for people.
        folder: where its results go.
        seeds: the training seeds.
        experiments: runs, tables, figures.
        downloads: what is to be fetched by name, if anything.
        mirror: the arguments that name the folder to fetch from, if any.
    """

    scale: str
    why: str
    folder: str
    seeds: tuple[int, ...]
    experiments: Experiments
    downloads: tuple[str, ...] = ()
    mirror: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[str, ...]:
        """The names of the scale's runs: those it lists, or all that its choices allow.

        The user's own are always among them.
        """
        user, listed = user_config(), self.shape.runs
        return tuple(
            name
            for name, run in self.experiments.runs.items()
            if name in {*user.methods, *user.checkpoints}
            or (available(run, self.shape) if listed is None else name in listed)
        )

    def check_names(self) -> None:
        """Refuse a scale that names a run or a method which the experiments do not have."""
        runs = self.experiments.runs
        methods = {method_name(run.method) for run in runs.values() if run.method}
        named = {
            "runs": (self.shape.runs or (), set(runs)),
            "overrides": (self.shape.overrides, set(runs)),
            "methods": (self.shape.methods, methods),
            "cost.train": (self.shape.cost.train, {"default", *methods}),
        }
        for key, (names, valid) in named.items():
            for name in names:
                if name not in valid:
                    file = scale_file(self.scale)
                    raise UserError(f"{file}: `{key}`: no `{name}`{nearest(name, valid)}")
        check_choices(runs)

    @functools.cached_property
    def shape(self) -> Scale:
        """The scale's own settings."""
        return load_scale(self.scale)

    @functools.cached_property
    def resolved(self) -> dict[tuple[str, int], RunSettings]:
        """All runs' settings, by run and seed."""
        digest = self._digest()
        kept = _read(KEPT)
        if kept.get("digest") == digest:
            return {
                (run, seed): parse(RunSettings, kept["runs"][f"{run}/{seed}"], str(KEPT))
                for run in self.runs
                for seed in self.seeds_of(run)
            }
        resolved = {
            (run, seed): resolve_run(run, self.experiments.runs[run], self.scale, seed)
            for run in self.runs
            for seed in self.seeds_of(run)
        }
        runs = {f"{run}/{seed}": dump(settings) for (run, seed), settings in resolved.items()}
        write_json(KEPT, {"digest": digest, "runs": runs})
        return resolved

    def seeds_of(self, run: str) -> tuple[int, ...]:
        """The training seeds of a run."""
        return self.seeds[: self.experiments.runs[run].seeds]

    def settings(self, run: str, seed: str | int) -> RunSettings:
        """The settings of a run with one training seed."""
        return self.resolved[run, int(seed)]

    def trained(self, run: str) -> bool:
        """Whether the run is a training, not the untrained base nor a finished checkpoint."""
        return self.experiments.runs[run].method is not None

    def transformer(self, trained: str) -> Callable[[Any], str | list[str]]:
        """An input function: the weights that make a run's images; none for the untrained base.

        Args:
            trained: the weights that a training writes.
        """

        def of(wildcards: Any) -> str | list[str]:  # noqa: ANN401 - Snakemake's
            finished = self.experiments.runs[wildcards.run].weights
            return trained if self.trained(wildcards.run) else [finished] if finished else []

        return of

    def evaluated(self, path: str) -> Callable[[Any], str]:
        """An input function: `path` of the seed whose images stand for a ledger's seed.

        The untrained base has the same images whatever the training seed, and one set of them.
        """

        def of(wildcards: Any) -> str:  # noqa: ANN401 - Snakemake's
            seed = wildcards.seed if self.trained(wildcards.run) else self.seeds[0]
            return path.format(run=wildcards.run, seed=seed)

        return of

    def untrained(self, path: str) -> Callable[[Any], str]:
        """An input function: `path` of the untrained model that a run is compared with."""

        def of(wildcards: Any) -> str:  # noqa: ANN401 - Snakemake's
            seed, like = self.seeds[0], self.settings(wildcards.run, wildcards.seed).generate
            for run in self.runs:
                base = not self.trained(run) and self.experiments.runs[run].weights is None
                if base and self.settings(run, seed).generate == like:
                    return path.format(run=run, seed=seed)
            raise UserError(
                f"{EXPERIMENTS}: no run without a method has the base model and prompts of "
                f"`{wildcards.run}`, to compare it with; add one"
            )

        return of

    def train_settings(self, run: str, seed: str | int) -> str:
        """A training's settings as JSON, for `python -m leapalign.train`."""
        train = self.settings(run, seed).train
        if train is None:
            raise UserError(f"{EXPERIMENTS}: run `{run}` has no method: there is nothing to train")
        return train.json()

    def checkpoints(self, run: str, seed: str | int) -> str:
        """A training's checkpoints: no output of a rule, so that a re-run resumes.

        The recipe is part of the path, so that a training under another starts afresh.
        """
        train = self.settings(run, seed).train
        name = train.recipe() if train else ""
        return f"{self.folder}/checkpoints/{run}/seed{seed}/{name}"

    def curves(self, run: str, seed: str | int) -> str:
        """Where TensorBoard finds a training's curves; no output of a rule, as its checkpoints."""
        return f"{self.folder}/tensorboard/{run}/seed{seed}"

    def tracked(self, run: str) -> bool:
        """Whether the run is watched while it trains."""
        return run in self.experiments.of("progress")

    @property
    def watched(self) -> dict[str, int]:
        """Iterations between the snapshots of each run that is watched."""
        return {run: self.shape.tracking.every for run in self.runs if self.tracked(run)}

    def snapshots(self, run: str) -> str:
        """The arguments of a training that is watched."""
        return f"--snapshot-every {self.shape.tracking.every}" if self.tracked(run) else ""

    def track_settings(self, run: str) -> str:
        """The settings of a run's tracking as JSON, for `python -m eval.track`."""
        resolved = self.settings(run, self.seeds[0])
        one = replace(resolved.generate.evaluation, images_per_prompt=1)
        generate = replace(resolved.generate, evaluation=one)
        return TrackSettings(generate, resolved.score, self.shape.tracking.enlarged).json()

    def measured(self) -> str:
        """The settings that the trajectories' measurement starts from, as JSON."""
        return self.train_settings("leapalign", self.seeds[0])

    def ledgers(self, runs: Iterable[str]) -> list[str]:
        """The files that stand for complete ledgers of these of the scale's runs, all seeds."""
        return [
            f"{self.folder}/ledger/{run}/seed{seed}/provenance.json"
            for run in runs
            if run in self.runs
            for seed in self.seeds_of(run)
        ]

    @property
    def designs(self) -> str:
        """The file of the methods' designs, beside the ledgers."""
        return f"{self.folder}/ledger/designs.json"

    @property
    def trajectories(self) -> str:
        """The file of what a trajectory's length does, beside the ledgers."""
        return f"{self.folder}/ledger/trajectories.json"

    def surveyed(self) -> str:
        """The training settings of the runs whose designs are shown, for the survey, as JSON."""
        runs = [run for run in self.experiments.of("designs") if run in self.runs]
        settings = {run: json.loads(self.train_settings(run, self.seeds[0])) for run in runs}
        return json.dumps(settings, sort_keys=True)

    def shown(self, exhibit: Exhibit) -> list[str]:
        """The files that a table or figure is made of."""
        alone = {"designs": self.designs, "trajectories": self.trajectories}
        return [alone[exhibit.reads]] if not exhibit.trains else self.ledgers(exhibit.runs)

    def data(self, stage: Stage, run: str) -> str:
        """A digest of the weights and prompts a stage of a run reads: contents, not mtimes."""
        settings = self.settings(run, self.seeds[0])
        prompts = {"generate": [settings.generate.evaluation.prompts], "score": []}
        if settings.train:
            prompts["train"] = [settings.train.training.prompts]
        paths = [*prompts[stage], *self._weights(stage, run)]
        return digests.sha256(json.dumps([fingerprint(path) for path in paths]))

    @functools.cached_property
    def methods_code(self) -> str:
        """A digest of the methods' code, the user's own included, and of their settings files."""
        methods = {str(run.method) for run in self.experiments.runs.values() if run.method}
        return digests.of_files(file for method in methods for file in digests.sources(method))

    @property
    def evaluators(self) -> tuple[str, ...]:
        """The names of the evaluators' files."""
        return tuple(map(plain_name, self.shape.evaluators))

    def training_resources(self) -> dict[str, int | str]:
        """What a training of this scale asks of a scheduler, under the names of Slurm's plug-in.

        `gpu` is also what Snakemake limits on one machine. Several nodes are asked for their GPUs
        each, and get one task each: the launcher's, whose `srun` the plug-in's must not enclose
        (`mpi`), and not one for each GPU (`tasks_per_gpu`).
        """
        devices, node = self.shape.compute.devices, self.shape.node
        nodes = math.ceil(devices / node.devices)
        share = math.ceil(devices / nodes)
        asked: dict[str, int | str] = {
            "nodes": nodes,
            "cpus_per_task": node.cores * share,
            "mem_mb": 1000 * node.memory * share,
        }
        if nodes == 1:
            return asked | {"gpu": devices}
        return asked | {"gres": f"gpu:{share}", "mpi": "srun", "tasks": nodes, "tasks_per_gpu": 0}

    def minutes(self, run: str) -> int:
        """How long a scheduler should let a training run; one that takes longer is resumed."""
        return math.ceil(1.5 * self.seconds("train", run) / 60) + 30

    def seconds(self, stage: Stage, run: str | None = None) -> int:
        """How long a job of a stage is expected to take."""
        cost = self.shape.cost
        if stage != "train":
            work = getattr(cost, stage)
            return round(cost.start * (stage != "render") + work)
        method = method_name(str(self.experiments.runs[str(run)].method))
        each = cost.train.get(method, cost.train["default"])
        return round(cost.start + each * self.shape.training.iterations)

    def check_weights(self, jobs: Iterable[tuple[Stage, str]]) -> None:
        """Refuse missing or damaged weights of the jobs to be run, before any of them starts.

        Args:
            jobs: the stage and the run of each.
        """
        source = str(scale_file(self.scale))
        jobs = list(jobs)
        for path in sorted({path for job in jobs for path in self._weights(*job)}):
            check_weights(path, source)
        trained = [self.settings(run, self.seeds[0]) for stage, run in jobs if stage == "train"]
        checks.refuse_trainings(trained, Path(self.folder), self.watched)

    def _weights(self, stage: Stage, run: str) -> list[str]:
        settings = self.settings(run, self.seeds[0])
        base, score = [settings.generate.backbone.path], settings.score.weights
        finished = self.experiments.runs[run].weights
        made_by = [*base, finished] if finished else base
        return {
            "train": settings.train.weights if settings.train else [],
            "generate": made_by,
            "score": score,
            "track": [*made_by, *score],
        }.get(stage, [])

    def _digest(self) -> str:
        """A digest of the files and the code that decide the settings."""
        files = {EXPERIMENTS, scale_file(self.scale), *SCALES.glob("*.yaml")}
        files |= set(Path(__file__).parent.rglob("*.py"))
        kept = [self.scale, self.seeds, dump(user_config()), self.methods_code]
        return digests.sha256(json.dumps([*kept, digests.of_files(files)]))


def load_suite(config: Mapping[str, Any]) -> Suite:
    """The suite that `config.yaml` (with `--config`) asks for, all settings checked.

    Ends the process with one line where a settings file is wrong.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    sys.path.insert(0, os.getcwd())  # as `python -m` does for the jobs
    for name, value in JOB_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        user = parse(UserConfig, dict(config), CONFIG)
        hand_down(user)
        _check_own(user)
        scale, why = pick_scale(user.scale)
        folder, seeds = f"{user.results}/{scale}", tuple(range(user.seeds))
        downloads, mirror = user.fetch.split(), ["--mirror", user.mirror] if user.mirror else []
        known = load_experiments().at(load_scale(scale).tasks)
        suite = Suite(scale, why, folder, seeds, known, tuple(downloads), tuple(mirror))
        suite.check_names()
        _ = suite.resolved
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    return suite


def _check_own(user: UserConfig) -> None:
    """Refuse a finished checkpoint that is not there."""
    for name, path in user.checkpoints.items():
        if not Path(path).expanduser().exists():
            raise UserError(
                f"{CONFIG}: `checkpoints.{name}`: no such file or folder: {path}"
                f"{nearest_file(Path(path).expanduser())}"
            )


def forecast(jobs: Iterable[Any], cores: int | None, submitted: int | None) -> str:
    """The expected time of Snakemake's remaining jobs, for people.

    Args:
        jobs: those remaining.
        cores: of this machine, a job on each.
        submitted: jobs at a time, where a scheduler runs them on others.
    """
    at_once = submitted or cores or 1
    costs = [job.resources.get("seconds", 0) for job in jobs]
    seconds = max(sum(costs) / at_once, max(costs, default=0))
    time = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    where = f"{at_once} of them at a time" if submitted else f"on {at_once} cores"
    return f"expected time: about {time} for {len(costs)} jobs {where}"


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}
