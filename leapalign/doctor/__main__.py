"""The doctor's report: checks, then what every training of a scale takes on a machine."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from leapalign.doctor import checks
from leapalign.doctor.checks import Finding
from leapalign.doctor.machine import GIGABYTE, Machine, named_machine, this_machine
from leapalign.doctor.plan import Planned, plan, table
from leapalign.errors import UserError, main_guard
from leapalign.parsing import nearest, read_yaml
from leapalign.scales import scale_file
from leapalign.settings import RunSettings
from leapalign.user import CONFIG
from leapalign.workflow import Suite, load_suite

COLOURS = {"ok": "green", "warning": "yellow", "refused": "red"}
WIDTH = 150
"""Columns where the output is no terminal."""


@main_guard
def main(arguments: Sequence[str] | None = None) -> None:
    """Say what a scale's trainings need, and what stands in their way; 1 if something does."""
    parser = argparse.ArgumentParser(prog="python -m leapalign.doctor", description=main.__doc__)
    parser.add_argument("--scale", help=f"a scale's name or file; by default {CONFIG}'s")
    parser.add_argument(
        "--machine", type=str, help="plan for DEVICESxGIGABYTES, as 8x80, instead of this machine"
    )
    parser.add_argument("--runs", nargs="*", help="these runs alone; by default all of the scale")
    options = parser.parse_args(arguments)
    asked = read_yaml(CONFIG) if Path(CONFIG).is_file() else {}
    suite = load_suite(asked | ({"scale": options.scale} if options.scale else {}))
    for run in options.runs or ():
        if run not in suite.runs:
            raise UserError(f"--runs: no `{run}` at scale {suite.scale}{nearest(run, suite.runs)}")
    machine = named_machine(options.machine) if options.machine else this_machine()
    runs = [
        suite.settings(run, suite.seeds[0])
        for run in options.runs or suite.runs
        if suite.trained(run)
    ]
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    refused = False
    if machine.here:
        findings = list(_findings(suite, runs, machine))
        refused = any(finding.level == "refused" for finding in findings)
        console.print(_checks(findings))
    rows = list(plan(runs, machine))
    console.print(table(rows, machine))
    bases = {row.cost.basis for row in rows if row.cost is not None}
    if bases:
        console.print(f"Hours: {'; '.join(sorted(bases))}.", markup=False)
    for text, names in _reasons(rows).items():
        console.print(f"{', '.join(names)}: {text}", markup=False, soft_wrap=True)
    if refused or any(row.refusal for row in rows):
        raise SystemExit(1)


def _reasons(rows: Sequence[Planned]) -> dict[str, list[str]]:
    """Why which runs cannot be made, or not be foretold."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if why := row.refusal or row.unforetold:
            reasons.setdefault(why, []).append(row.run)
    return reasons


def _findings(suite: Suite, runs: Sequence[RunSettings], machine: Machine) -> Iterator[Finding]:
    """All checks of this machine, in the order in which they matter."""
    ram = f"{machine.ram / GIGABYTE:.0f} GB of RAM"
    yield Finding("ok", "machine", f"{machine.name}; {ram}")
    yield checks.versions()
    yield checks.cache()
    results = Path(suite.folder)
    yield checks.writable("results", results)
    yield from checks.disks(runs, results, suite.watched)
    trained = [run.train for run in runs if run.train is not None]
    paths = {path for settings in trained for path in settings.weights}
    paths |= {path for run in runs for path in run.score.weights}
    yield from checks.findings_of(sorted(paths), str(scale_file(suite.scale)))


def _checks(findings: Sequence[Finding]) -> Table:
    shown = Table(title="Checks", title_justify="left", show_header=False)
    for finding in findings:
        colour = COLOURS[finding.level]
        shown.add_row(f"[{colour}]{finding.level}[/{colour}]", finding.subject, finding.text)
    return shown


if __name__ == "__main__":
    main()
