"""Make the official packages' environment, run the authors' code in it, keep what it says.

    python -m tests.parity [--environment FOLDER] [METRIC ...]

The environment lies over this one, whose torch it uses; it is made once. `golden/METRIC.json` and
`golden/TABLE.md` are written anew.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
METRICS = ("hpsv2", "pickscore", "hpsv3", "imagereward")


def make_environment(folder: Path) -> None:
    """A virtual environment with the official packages, and this one's below them."""
    venv.create(folder, with_pip=True)
    paths = {"base": str(folder.absolute()), "platbase": str(folder.absolute())}
    packages = Path(sysconfig.get_path("purelib", vars=paths))
    (packages / "below.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    run(
        folder, "pip", "install", "--quiet", "--no-deps", "--requirement", HERE / "requirements.txt"
    )


def run(environment: Path, *module: str | Path) -> None:
    """`python -m MODULE ...` of an environment, from the repository's root."""
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    python = environment.absolute() / "bin/python"
    subprocess.run([python, "-m", *module], cwd=ROOT, env=os.environ | offline, check=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.parity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("metrics", nargs="*", metavar="METRIC", help=", ".join(METRICS))
    parser.add_argument(
        "--environment",
        type=Path,
        default=ROOT / "results/parity",
        help="where the official packages are, or will be (default: results/parity)",
    )
    arguments = parser.parse_args()
    if not (arguments.environment / "bin/python").exists():
        make_environment(arguments.environment)
    for metric in arguments.metrics or METRICS:
        run(arguments.environment, "tests.parity.official", metric, HERE / f"golden/{metric}.json")
    run(Path(sys.prefix), "tests.parity.compare")


if __name__ == "__main__":
    main()
