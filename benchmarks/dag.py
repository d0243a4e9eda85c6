"""What a finished run of the workflow took, and its critical path: no number of cores is faster.

    python -m benchmarks.dag --scale pocket --out results/benchmarks/dag.json

Reads what Snakemake recorded when the jobs ran, and runs nothing: make the run first, from an empty
results folder and in one go, `snakemake --cores all --config scale=pocket`. A job lasts from its
start until it wrote the last of its outputs.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import torch
from snakemake.api import (
    ConfigSettings,
    DAGSettings,
    OutputSettings,
    ResourceSettings,
    SnakemakeApi,
)
from snakemake.exceptions import RuleException, WorkflowError
from snakemake.settings.types import Quietness

from benchmarks.machine import provenance
from leapalign.errors import UserError, main_guard
from leapalign.files import write_json


@dataclass(frozen=True)
class Job:
    """A job that has run.

    Attributes:
        rule: its name.
        wildcards: their values by name.
        cores: that it took.
        start: when it began, seconds since the epoch.
        end: when its last output was written.
        needs: the jobs whose outputs it reads, by their places in the list of all.
    """

    rule: str
    wildcards: Mapping[str, str]
    cores: int
    start: float
    end: float
    needs: tuple[int, ...] = ()

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self.end - self.start


def duration(jobs: Iterable[Job]) -> float:
    """Seconds of jobs one after the other."""
    return sum(job.seconds for job in jobs)


def critical_path(jobs: Sequence[Job]) -> list[Job]:
    """The chain that takes longest, of jobs each of which reads what the one before wrote."""
    chains: dict[int, list[Job]] = {}
    needs = {place: job.needs for place, job in enumerate(jobs)}
    for place in TopologicalSorter(needs).static_order():
        before = max((chains[needed] for needed in jobs[place].needs), key=duration, default=[])
        chains[place] = [*before, jobs[place]]
    return max(chains.values(), key=duration)


def busy(jobs: Iterable[Job]) -> float:
    """Seconds in which at least one job ran."""
    total, reached = 0.0, 0.0
    for job in sorted(jobs, key=lambda job: job.start):
        total += max(0.0, job.end - max(job.start, reached))
        reached = max(reached, job.end)
    return total


def by_rule(jobs: Sequence[Job]) -> dict[str, dict[str, float]]:
    """Each rule's jobs, their seconds, and the share of all jobs' seconds; the most first."""
    whole = duration(jobs)
    of = {rule: [job for job in jobs if job.rule == rule] for rule in {job.rule for job in jobs}}
    rows = {
        rule: {"jobs": len(own), "seconds": duration(own), "share": duration(own) / whole}
        for rule, own in of.items()
    }
    return dict(sorted(rows.items(), key=lambda row: row[1]["seconds"], reverse=True))


def summary(jobs: Sequence[Job], cores: int) -> dict[str, Any]:
    """What a run took on so many cores."""
    path = critical_path(jobs)
    wall = max(job.end for job in jobs) - min(job.start for job in jobs)
    return {
        "jobs": len(jobs),
        "run_cores": cores,
        "wall_seconds": wall,
        "idle_seconds": wall - busy(jobs),
        "job_seconds": duration(jobs),
        "utilisation": sum(job.cores * job.seconds for job in jobs) / (cores * wall),
        "critical_seconds": duration(path),
        "over_critical": wall / duration(path),
        "critical_path": [
            {"rule": job.rule, "wildcards": dict(job.wildcards), "seconds": job.seconds}
            for job in path
        ],
        "rules": by_rule(jobs),
    }


def finished(targets: Sequence[str], scale: str) -> list[Job]:
    """The jobs that made the targets, in the workflow of this folder.

    Raises:
        UserError: the workflow has no such target, or not all of its jobs have run.
    """
    config = ConfigSettings(config={"scale": scale})
    settings = DAGSettings(targets=set(targets))
    try:
        with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
            workflow = api.workflow(ResourceSettings(cores=1), config).dag(settings).workflow_api
            # As Snakemake's own reports come by the jobs; there is no public way.
            inner = workflow._workflow
            inner._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=True)
            inner._build_dag()
            jobs = [job for job in inner.dag.jobs if job.output]
            records = [_records(job, inner.persistence) for job in jobs]
            needs = [inner.dag.dependencies[job] for job in jobs]
    except (WorkflowError, RuleException) as error:
        raise UserError(f"Snakefile: {' '.join(str(error).split())}") from None
    missing = [job for job, of in zip(jobs, records, strict=True) if len(of) < len(job.output)]
    if missing:
        one = " ".join([missing[0].rule.name, *missing[0].wildcards_dict.values()])
        raise UserError(
            f"{len(missing)} of {len(jobs)} jobs have not run, such as {one}; make the run first: "
            f"snakemake --cores all --config scale={scale} -- {' '.join(targets)}"
        )
    places = {job: place for place, job in enumerate(jobs)}
    return [
        Job(
            rule=job.rule.name,
            wildcards=dict(job.wildcards_dict),
            cores=job.threads,
            start=min(record.starttime for record in of),
            end=max(record.endtime for record in of),
            needs=tuple(places[needed] for needed in read),
        )
        for job, of, read in zip(jobs, records, needs, strict=True)
    ]


def _records(job: Any, persistence: Any) -> list[Any]:  # noqa: ANN401 - Snakemake's
    """What Snakemake recorded of a job's outputs, of those that are there."""
    found = [persistence.metadata(file) for file in job.output if Path(file).exists()]
    return [record for record in found if record is not None]


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Command line: read the run, write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dag")
    parser.add_argument("--scale", default="pocket")
    parser.add_argument("--targets", nargs="+", default=["all"])
    parser.add_argument(
        "--cores", type=int, default=os.cpu_count(), help="of the run; by default this machine's"
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    arguments = parser.parse_args(argv)
    found = summary(finished(arguments.targets, arguments.scale), arguments.cores)
    for job in found["critical_path"]:
        name = " ".join([job["rule"], *job["wildcards"].values()])
        sys.stdout.write(f"{job['seconds']:7.1f} s {name}\n")
    sys.stdout.write(
        f"{found['critical_seconds']:7.1f} s the critical path; {found['jobs']} jobs took "
        f"{found['wall_seconds']:.1f} s, {found['utilisation']:.0%} of {arguments.cores} cores\n"
    )
    where = provenance(torch.device("cpu"))
    write_json(arguments.out, {**where, "scale": arguments.scale, **found})


if __name__ == "__main__":
    main()
