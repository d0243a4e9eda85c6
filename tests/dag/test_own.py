"""The examples of docs/your-own.md: its commands, exactly as they stand there."""

import re
from pathlib import Path

import pytest

from tests.dag.workspace import ROOT

BLOCKS = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs/your-own.md").read_text(), re.M | re.S)
METHOD, SO_FAR, CHECKPOINT, REWARD = (block.strip().removeprefix("snakemake ") for block in BLOCKS)
RESULTS = Path("results/smoke")


def config_of(command):
    """What stands behind `--config` in a command."""
    return command.partition("--config ")[2]


@pytest.mark.parametrize(
    ("command", "trained", "sampled"),
    [(METHOD, 1, 1), (CHECKPOINT, 0, 1), (f"{METHOD} {config_of(CHECKPOINT)}", 1, 2)],
    ids=["method", "checkpoint", "both"],
)
def test_one_line_of_settings_adds_its_runs_and_nothing_else(pristine, command, trained, sampled):
    plain = pristine.planned("table_main")
    planned = pristine.planned("table_main", config_of(command))
    assert planned.pop("train") == plain.pop("train") + trained
    for stage in ("generate", "score", "probe", "track", "ledger"):
        assert planned.pop(stage) == plain.pop(stage) + sampled
    assert planned == plain == {"table_main": 1}


def test_a_scale_of_ones_own_brings_its_reward(pristine):
    done = pristine.snakemake(f"{REWARD} --dry-run --printshellcmds")
    assert done.returncode == 0, done.stderr
    assert "docs/examples/colourfulness.py:Colourfulness" in done.stdout
    assert "--out results/colourful/scores/base/seed0" in done.stdout


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("methods={refl: a:B}", "paper/experiments.yaml has a run of that name; choose another"),
        ("methods={x: nonesuch.module:B}", "no module nonesuch; is its folder in PYTHONPATH?"),
        ("checkpoints={x: nowhere}", "`checkpoints.x`: no such file or folder: nowhere"),
        ("scale=docs/examples/colorful.yaml", "did you mean `colourful.yaml`?"),
    ],
)
def test_a_mistake_ends_snakemake_with_one_line(pristine, config, message):
    scale = "" if "scale" in config else "scale=smoke"
    done = pristine.snakemake(f"--dry-run --cores 1 table_main --config {scale} '{config}'")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_the_example_stands_in_the_main_table_with_a_checkpoint_beside_it(edited):
    """On the finished smoke scale, so that only the two new runs are made."""
    method = edited.folder / "docs/examples/draft_k.py"
    outside = edited.folder.parent / "elsewhere.py"
    method.rename(outside)
    command = METHOD.replace("docs/examples/draft_k.py", str(outside))
    done = edited.snakemake(f"{command} {config_of(CHECKPOINT).partition(' ')[2]}", timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    table = (edited.folder / RESULTS / "tables/main.csv").read_text()
    rows = {line.split(",")[0]: line for line in table.splitlines()}
    assert {"draft_k", "released"} <= set(rows)
    # The weights that were brought are the base's own: its images, so its scores.
    scores = [
        edited.folder / RESULTS / "ledger" / run / "seed0/scores.csv"
        for run in ("base", "released")
    ]
    same = [
        [line for line in path.read_text().splitlines() if not line.endswith("layout")]
        for path in scores
    ]
    assert same[0] == same[1]
    assert "not trained here" in (edited.folder / RESULTS / "tables/main.md").read_text()
    # What a broken method leaves: its own job fails, and the rest is rendered with a gap.
    outside.write_text(
        outside.read_text().replace("steps = range", "raise ValueError; steps = range")
    )
    broken = f"'methods={{broken: {outside}:DRaFTK}}'"
    done = edited.snakemake(f"--cores 1 --keep-going table_main --config scale=smoke {broken}")
    assert done.returncode == 1
    assert f"iteration 0: DRaFTK raised ValueError:  ({outside}:" in done.stderr
    done = edited.snakemake(f"--cores 1 so_far --config scale=smoke {broken}")
    assert done.returncode == 0, done.stderr
    table = (edited.folder / RESULTS / "so_far/tables/main.md").read_text()
    assert "not in the ledger: it has not been run" in table
    assert (edited.folder / RESULTS / "so_far/report/index.html").is_file()
