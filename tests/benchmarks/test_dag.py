"""The critical path of a hand-made graph, and of a workflow that has run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import dag
from benchmarks.dag import Job

ROOT = Path(__file__).parents[2]
SNAKEMAKE = str(Path(sys.executable).with_name("snakemake"))
WORKFLOW = """
rule all:
    input: "joined"

rule slow:
    output: "slow"
    shell: "sleep 0.6; echo {config[scale]} > {output}"

rule part:
    output: "part{n}", "extra{n}"
    wildcard_constraints: n="[12]"
    shell: "sleep 0.{wildcards.n}; touch {output}"

rule join:
    input: "slow", "part1", "part2"
    output: "joined"
    shell: "sleep 0.2; cat {input} > {output}"
"""


def job(rule: str, start: float, end: float, *needs: int) -> Job:
    return Job(rule, {}, 1, start, end, needs)


# Two chains to the last job: 0-2-4 of 3 + 4 + 1 seconds, and 1-3-4 of 5 + 1 + 1; 5 is apart.
GRAPH = [
    job("a", 0.0, 3.0),
    job("a", 0.0, 5.0),
    job("b", 5.0, 9.0, 0),
    job("b", 9.0, 10.0, 1),
    job("c", 12.0, 13.0, 2, 3),
    job("d", 3.0, 5.0),
]


def test_the_critical_path_is_the_longest_chain_by_seconds() -> None:
    assert dag.critical_path(GRAPH) == [GRAPH[0], GRAPH[2], GRAPH[4]]
    assert dag.critical_path(GRAPH[:2]) == [GRAPH[1]]


def test_seconds_of_a_run_are_summed_by_rule_and_over_its_cores() -> None:
    found = dag.summary(GRAPH, cores=2)
    assert found["jobs"] == 6
    assert found["wall_seconds"] == 13.0
    assert found["job_seconds"] == 16.0
    assert found["idle_seconds"] == 2.0
    assert found["utilisation"] == 16.0 / 26.0
    assert found["critical_seconds"] == 8.0
    assert found["over_critical"] == 13.0 / 8.0
    assert found["rules"]["a"] == {"jobs": 2, "seconds": 8.0, "share": 0.5}
    assert list(found["rules"]) == ["a", "b", "d", "c"]


def read(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a folder of its own, for Snakemake keeps a state in the process."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.dag", *arguments, "--out", "dag.json"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_is_read_once_it_is_finished(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(WORKFLOW)
    unfinished = read(tmp_path, "--scale", "own")
    assert unfinished.returncode == 1
    assert "error: 4 of 4 jobs have not run" in unfinished.stderr
    assert "snakemake --cores all --config scale=own -- all" in unfinished.stderr
    made = [SNAKEMAKE, "--cores", "2", "--quiet", "all", "--config", "scale=own"]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    done = read(tmp_path, "--scale", "own", "--cores", "2")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "dag.json").read_text())
    assert found["jobs"] == 4
    path = found["critical_path"]
    assert [step["rule"] for step in path] == ["slow", "join"]
    assert all(step["seconds"] >= least for step, least in zip(path, (0.6, 0.2), strict=True))
    assert found["critical_seconds"] == pytest.approx(sum(step["seconds"] for step in path))
    assert found["critical_seconds"] <= found["wall_seconds"]
    # One of its files is gone, so that what Snakemake knows of it is of an earlier run.
    (tmp_path / "extra1").unlink()
    assert "1 of 4 jobs have not run, such as part 1" in read(tmp_path, "--scale", "own").stderr


def test_an_unknown_target_is_named(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(WORKFLOW)
    refused = read(tmp_path, "--scale", "own", "--targets", "nothing")
    assert refused.returncode == 1
    assert "error: Snakefile: No rule to produce nothing" in refused.stderr
