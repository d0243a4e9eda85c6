"""What the Snakemake rules ask: the runs, their settings and paths, and what they will cost.

Settings are resolved before the DAG is built, so a mistake in any file ends Snakemake at once.
Resolving imports the methods, and with them torch, which takes seconds: what came out is kept
under a digest of all that went in.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from leapalign.config import (
    EXPERIMENTS,
    SCALES,
    Scale,
    UserConfig,
    available,
    check_choices,
    load_method,
    load_scale,
    pick_scale,
    resolve_run,
)
from leapalign.errors import UserError
from leapalign.experiments import Exhibit, Experiments, load_experiments
from leapalign.files import write_json
from leapalign.parsing import dump, nearest, parse
from leapalign.settings import RunSettings, TrackSettings
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
        """The names of the scale's runs: those it lists, or all that its choices allow."""
        return self.shape.runs or tuple(
            name for name, run in self.experiments.runs.items() if available(run, self.shape)
        )

    def check_names(self) -> None:
        """Refuse a scale that names a run or a method which the experiments do not have."""
        runs = self.experiments.runs
        methods = {Path(run.method).stem for run in runs.values() if run.method}
        named = {
            "runs": (self.runs, set(runs)),
            "overrides": (self.shape.overrides, set(runs)),
            "methods": (self.shape.methods, methods),
            "cost.train": (self.shape.cost.train, {"default", *methods}),
        }
        for key, (names, valid) in named.items():
            for name in names:
                if name not in valid:
                    file = SCALES / f"{self.scale}.yaml"
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
        """Whether the run is a training, not the untrained base."""
        return self.experiments.runs[run].method is not None

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
                if not self.trained(run) and self.settings(run, seed).generate == like:
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

        The settings' hash is part of the path, so that other settings start afresh.
        """
        train = self.settings(run, seed).train
        name = train.hash() if train else ""
        return f"{self.folder}/checkpoints/{run}/seed{seed}/{name}"

    def tracked(self, run: str) -> bool:
        """Whether the run is watched while it trains."""
        return run in self.experiments.of("progress")

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
        return _sha256(json.dumps([_contents(path) for path in paths]))

    def code(self, package: str) -> str:
        """A digest of a package's files, for jobs that are redone when their code changes."""
        files = sorted(file for file in Path(package).rglob("*") if file.is_file())
        return _sha256(
            json.dumps([_sha256(file.read_bytes()) for file in files if file.suffix != ".pyc"])
        )

    def seconds(self, stage: Stage, run: str | None = None) -> int:
        """How long a job of a stage is expected to take."""
        cost = self.shape.cost
        if stage != "train":
            work = getattr(cost, stage)
            return round(cost.start * (stage != "render") + work)
        method = Path(str(self.experiments.runs[str(run)].method)).stem
        each = cost.train.get(method, cost.train["default"])
        return round(cost.start + each * self.shape.training.iterations)

    def check_weights(self, jobs: Iterable[tuple[Stage, str]]) -> None:
        """Refuse missing or damaged weights of the jobs to be run, before any of them starts.

        Args:
            jobs: the stage and the run of each.
        """
        source = str(SCALES / f"{self.scale}.yaml")
        for path in sorted({path for job in jobs for path in self._weights(*job)}):
            check_weights(path, source)

    def _weights(self, stage: Stage, run: str) -> list[str]:
        settings = self.settings(run, self.seeds[0])
        base, score = [settings.generate.backbone.path], settings.score.weights
        reward = [settings.train.training.reward.path] if settings.train else []
        return {
            "train": [*base, *reward],
            "generate": base,
            "score": score,
            "track": [*base, *score],
        }.get(stage, [])

    def _digest(self) -> str:
        """A digest of the files and the code that decide the settings."""
        methods = {str(run.method) for run in self.experiments.runs.values() if run.method}
        packages = {Path(__file__).parent}
        for path in methods:
            module = load_method(path).method.partition(":")[0]
            spec = importlib.util.find_spec(module.partition(".")[0])
            packages |= {Path(spec.origin).parent} if spec and spec.origin else set()
        code = [file for package in sorted(packages) for file in sorted(package.rglob("*.py"))]
        files = [EXPERIMENTS, SCALES / f"{self.scale}.yaml", *sorted(map(Path, methods)), *code]
        parts = [self.scale, self.seeds, [_sha256(file.read_bytes()) for file in files]]
        return _sha256(json.dumps(parts))


def load_suite(config: Mapping[str, Any]) -> Suite:
    """The suite that `config.yaml` (with `--config`) asks for, all settings checked.

    Ends the process with one line where a settings file is wrong.
    """
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for name, value in JOB_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        user = parse(UserConfig, dict(config), "config.yaml")
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


def forecast(jobs: Iterable[Any], cores: int) -> str:
    """The expected time of Snakemake's remaining jobs on this number of cores, for people."""
    costs = [job.resources.get("seconds", 0) for job in jobs]
    seconds = max(sum(costs) / max(cores, 1), max(costs, default=0))
    time = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
    return f"expected time: about {time} for {len(costs)} jobs on {cores} cores"


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError):
        return {}


@functools.cache
def _contents(path: str) -> Mapping[str, str]:
    return fingerprint(path)


def _sha256(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:16]
