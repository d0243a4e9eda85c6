"""What a dry run plans: every run once, per seed, and only what a target needs."""

from leapalign.config import load_scale
from leapalign.experiments import load_experiments


def test_every_run_is_trained_generated_and_scored_once(pristine):
    experiments = load_experiments().default
    runs = len(experiments.runs)
    planned = pristine.planned(config="scale=pocket")
    exhibits = {f"table_{name}" for name in experiments.tables}
    exhibits |= {f"figure_{name}" for name in experiments.figures}
    assert planned == {
        "train": runs - 1,  # the base is not trained
        "generate": runs,
        "score": runs,
        "ledger": runs,
        "designs": 1,
        "claims": 1,
        "report": 1,
        "all": 1,
    } | dict.fromkeys(exhibits, 1)


def test_the_extended_target_trains_what_its_exhibits_show_and_is_no_part_of_all(pristine):
    experiments = load_experiments()
    extended = experiments.extended
    assert extended.runs
    exhibits = {f"table_{name}": 1 for name in extended.tables}
    exhibits |= {f"figure_{name}": 1 for name in extended.figures}
    shown = {
        run
        for exhibit in (*extended.tables.values(), *extended.figures.values())
        for run in exhibit.runs
    }
    assert set(extended.runs) <= shown
    planned = pristine.planned("extended", config="scale=pocket")
    trained = {run for run in shown if experiments.runs[run].method}
    assert (
        planned
        == {
            "train": len(trained),
            "generate": len(shown),
            "score": len(shown),
            "ledger": len(shown),
            "extended": 1,
        }
        | exhibits
    )


def test_a_table_of_designs_trains_nothing(pristine):
    planned = pristine.planned("table_properties table_design_space", config="scale=pocket")
    assert planned == {"designs": 1, "table_properties": 1, "table_design_space": 1}


def test_seeds_multiply_the_trainings_but_not_the_base(pristine):
    planned = pristine.planned(config="scale=smoke seeds=3")
    trained = len(load_scale("smoke").runs) - 1
    assert planned["train"] == 3 * trained
    assert planned["generate"] == 3 * trained + 1
    assert planned["ledger"] == 3 * (trained + 1)


def test_a_table_needs_only_its_own_runs(pristine):
    planned = pristine.planned("table_ablation_discount", config="scale=pocket")
    assert planned == {
        "train": 3,
        "generate": 3,
        "score": 3,
        "ledger": 3,
        "table_ablation_discount": 1,
    }


def test_the_rules_are_clean_to_snakemakes_linter(pristine):
    done = pristine.snakemake("--lint")
    assert done.returncode == 0, done.stdout + done.stderr
