"""`python -m eval.geneval judge CASES.jsonl` and `… summarize RESULTS.jsonl [--json]`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from eval.geneval.judge import judge
from eval.geneval.records import CaseError, Result, read_case, read_result
from eval.geneval.summary import Summary, summarize
from leapalign.errors import UserError, main_guard


def judge_lines(path: Path) -> bool:
    """Print one verdict for each line of a file of cases; returns whether all could be read."""
    readable = True
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                case = read_case(line)
            except CaseError as error:
                readable = False
                sys.stderr.write(f"{path}, line {number}: {error}\n")
                answer: dict[str, Any] = {"error": error.kind, "line": number}
            else:
                verdict = judge(case["metadata"], case["detections"], case.get("options"))
                answer = verdict._asdict()
            sys.stdout.write(json.dumps(answer) + "\n")
    return readable


def read_results(path: Path) -> list[Result]:
    """Read official result records; raises `UserError` naming the line that is none."""
    records = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                records.append(read_result(line))
            except CaseError as error:
                raise UserError(
                    f"{path}, line {number}: {error}; a result has tag, correct and metadata"
                ) from None
    if not records:
        raise UserError(f"{path}: no result in it; make one with `python -m eval.score`")
    return records


def describe(summary: Summary) -> str:
    """The summary as text, laid out as the official script does."""
    tasks = "\n".join(
        f"{tag:<16} = {task['pct']:.2f}% ({task['correct']} / {task['total']})"
        for tag, task in summary["tasks"].items()
    )
    return (
        f"Summary\n=======\n"
        f"Total images: {summary['total_images']}\n"
        f"Total prompts: {summary['total_prompts']}\n"
        f"% correct images: {summary['pct_correct_images']:.2f}%\n"
        f"% correct prompts: {summary['pct_correct_prompts']:.2f}%\n\n"
        f"Task breakdown\n==============\n{tasks}\n\n"
        f"Overall score (avg. over tasks): {summary['overall']:.5f}\n"
    )


@main_guard
def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m eval.geneval", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    cases = commands.add_parser("judge", help="judge detections, one verdict a line")
    cases.add_argument("cases", type=Path, help="JSON lines with metadata, detections, options")
    results = commands.add_parser("summarize", help="the official summary of judged images")
    results.add_argument("results", type=Path, help="official result records, JSON lines")
    results.add_argument("--json", action="store_true", help="print JSON instead of text")
    arguments = parser.parse_args(argv)
    if arguments.command == "judge":
        if not judge_lines(arguments.cases):
            raise SystemExit(1)
        return
    summary = summarize(read_results(arguments.results))
    sys.stdout.write(json.dumps(summary) + "\n" if arguments.json else describe(summary))


if __name__ == "__main__":
    main()
