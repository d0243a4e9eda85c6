"""What a dry run plans: every run once, per seed, and only what a target needs."""

from leapalign.config import load_scale
from leapalign.experiments import load_experiments


def test_every_run_is_trained_generated_and_scored_once(pristine):
    experiments = load_experiments()
    runs = len(experiments.runs)
    planned = pristine.planned(config="scale=pocket")
    exhibits = {f"table_{name}" for name in experiments.tables}
    exhibits |= {f"figure_{name}" for name in experiments.figures}
    assert planned == {
        "train": runs - 1,  # the base is not trained
        "generate": runs,
        "score": runs,
        "ledger": runs,
        "report": 1,
        "all": 1,
    } | dict.fromkeys(exhibits, 1)


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
