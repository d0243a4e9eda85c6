"""The smoke scale end to end, and what an edit afterwards runs again."""

import re
from pathlib import Path

RESULTS = Path("results/smoke")


def test_it_ends_with_every_table_and_figure(smoke):
    assert (smoke.folder / RESULTS / "report" / "index.html").is_file()
    assert (smoke.folder / RESULTS / "tables" / "main.md").is_file()
    assert (smoke.folder / RESULTS / "figures" / "grid.png").is_file()


def test_a_second_call_has_nothing_to_do(smoke):
    assert smoke.planned() == {}


def test_jobs_logs_hold_their_own_words_only(smoke):
    logs = {log: log.read_text() for log in (smoke.folder / RESULTS / "logs").rglob("*.log")}
    assert {log.parent.name for log, text in logs.items() if text} >= {"train", "generate", "score"}
    assert [log for log, text in logs.items() if re.search("warning|initialized", text, re.I)] == []


def test_an_edited_plot_retrains_nothing(edited):
    figures = edited.folder / "paper" / "figures.py"
    figures.write_text(figures.read_text() + "\n# an edit\n")
    planned = edited.planned()
    assert "figure_grid" in planned
    assert not {"train", "generate", "score", "ledger"} & set(planned)


def test_touched_or_edited_code_retrains_nothing(edited):
    train = edited.folder / "leapalign" / "train.py"
    train.write_text(train.read_text() + "\n# an edit\n")
    # What methods are is read off their code anew, and shown again: seconds.
    shown = {"table_design_space", "table_properties", "claims", "report", "all"}
    assert set(edited.planned()) == {"designs", *shown}


def test_an_edited_setting_retrains_exactly_its_runs(edited):
    edited.edit("leapalign/configs/leapalign.yaml", "nesting: 0.3", "nesting: 0.4")
    planned = edited.planned()
    assert planned["train"] == planned["generate"] == planned["score"] == planned["ledger"] == 1


def test_a_longer_evaluation_retrains_nothing(edited):
    edited.edit("leapalign/configs/scales/smoke.yaml", "  limit: 12", "  limit: 13")
    planned = edited.planned()
    assert "train" not in planned
    assert planned["generate"] == planned["score"] == planned["ledger"]


def test_one_table_is_made_again_alone(edited):
    (edited.folder / RESULTS / "tables" / "main.md").unlink()
    done = edited.snakemake("--cores 2 --config scale=smoke table_main")
    assert done.returncode == 0, done.stderr
    assert re.search(r"1 of 1 jobs done", done.stderr)


def test_a_read_only_results_folder_is_told(edited):
    done = edited.snakemake("--cores 2 --config scale=smoke results=/proc/nowhere table_main")
    assert done.returncode == 1
    assert "/proc/nowhere" in done.stderr
    assert "Traceback" not in done.stderr
