"""Amends Snakemake's command line before it is parsed.

Snakemake 9's `--resources` and `--config` take one or more `NAME=VALUE`, and argparse gives them
every word up to the next option: in `--resources gpu=8 all` the target `all` is read as a resource,
and Snakemake ends with a traceback. The words there that are not `NAME=VALUE` are moved behind
`--`, where Snakemake reads targets. Command lines that Snakemake understands stay as they are.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

PAIRS = ("--resources", "--res", "--config", "-C")


def typed(argv: Sequence[str]) -> bool:
    """Whether this is a Snakemake command line that a user typed."""
    program = Path(argv[0])
    started = program.stem == "snakemake" or program.parent.name == "snakemake"
    return started and "--mode" not in argv  # with --mode, Snakemake has called itself


def give_back_targets(arguments: Sequence[str]) -> list[str]:
    """The arguments with the targets that follow `NAME=VALUE` options moved behind `--`."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    kept: list[str] = []
    targets: list[str] = []
    in_pairs = False
    for word in arguments[:split]:
        if word.startswith("-"):
            in_pairs = word in PAIRS
        elif in_pairs and "=" not in word:
            targets.append(word)
            continue
        kept.append(word)
    targets += arguments[split + 1 :]
    return [*kept, "--", *targets] if targets else list(arguments)


def check_profile(arguments: Sequence[str]) -> None:
    """End with a message if `--workflow-profile` names none, which Snakemake would ignore."""
    for position, word in enumerate(arguments):
        option, _, name = word.partition("=")
        if option != "--workflow-profile":
            continue
        name = name or next(iter(arguments[position + 1 :]), "")
        if name == "none" or Path(name).exists() or (Path("profiles") / name).exists():
            continue
        names = sorted(path.parent.name for path in Path("profiles").glob("*/config*.yaml"))
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(names)}"
        raise SystemExit(f"error: --workflow-profile: no profile `{name}`; {hint}")
