"""The literal command `snakemake --cores all --resources gpu=8 all`, and mistakes on the way."""

import pytest

from snakemake_logger_plugin_leapalign.command_line import give_back_targets
from tests.dag.workspace import job_counts


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("--cores all --resources gpu=8 all", "--cores all --resources gpu=8 -- all"),
        ("--resources gpu=8 mem_mb=9 a b", "--resources gpu=8 mem_mb=9 -- a b"),
        ("--resources gpu=8 all -n", "--resources gpu=8 -n -- all"),
        (
            "--config scale=smoke table_main --cores 2",
            "--config scale=smoke --cores 2 -- table_main",
        ),
        ("--resources gpu=8 a -- b", "--resources gpu=8 -- a b"),
        ("all --cores all --resources gpu=8", None),
        ("--cores all --resources gpu=8 -- all", None),
        ("--cores all all", None),
        ("--resources=gpu=8 all", None),
    ],
)
def test_only_swallowed_targets_move(typed, read):
    assert give_back_targets(typed.split()) == (read or typed).split()


@pytest.mark.parametrize(
    "order",
    [
        "--cores all --resources gpu=8 all",
        "--cores all --resources gpu=8 -- all",
        "all --config scale=smoke --cores all --resources gpu=8",
    ],
)
def test_every_order_plans_the_whole_workflow(pristine, order):
    done = pristine.snakemake(f"--dry-run {order}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert job_counts(done.stdout)["all"] == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--config scale=pockt", "config.yaml: `scale`: no scale `pockt`; did you mean `pocket`?"),
        ("--config scal=pocket", "config.yaml: unknown key `scal`; did you mean `scale`?"),
        ("--workflow-profile defualt", "no profile `defualt`; did you mean `default`?"),
        ("tabel_main", "tabel_main"),
    ],
)
def test_a_mistake_ends_with_one_message_and_exit_code_1(pristine, command, message):
    done = pristine.snakemake(f"--dry-run --cores 1 {command}")
    assert done.returncode == 1
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_mistake_in_a_method_file_ends_before_the_dag(workspace):
    workspace.edit("leapalign/configs/leapalign.yaml", "nesting:", "nestin:")
    done = workspace.snakemake("--cores 1 all")
    assert done.returncode == 1
    assert "leapalign.yaml: unknown key `settings.nestin`; did you mean `nesting`?" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
