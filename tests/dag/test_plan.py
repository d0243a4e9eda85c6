"""What a dry run plans: every run once, per seed, and only what a target needs."""

from leapalign.config import available
from leapalign.experiments import load_experiments
from leapalign.scales import load_scale


def stages(experiments, shown, scale="pocket"):
    """How many jobs of each stage these runs need at a scale."""
    runs = {run for run in shown if available(experiments.runs[run], load_scale(scale))}
    counts = dict.fromkeys(("generate", "score", "probe", "ledger"), len(runs))
    trained = [run for run in runs if experiments.runs[run].method]
    watched = runs & set(experiments.of("progress"))
    return counts | {"train": len(trained), "track": len(watched)}


def test_every_run_is_trained_generated_and_scored_once(pristine):
    known = load_experiments()
    experiments = known.default
    planned = pristine.planned(config="scale=pocket")
    exhibits = {f"table_{name}" for name in experiments.tables}
    exhibits |= {f"figure_{name}" for name in experiments.figures}
    once = {"designs", "claims", "report", "all"} | exhibits
    assert planned == stages(known, experiments.runs) | dict.fromkeys(once, 1)


def test_the_extended_target_trains_what_its_exhibits_show_and_is_no_part_of_all(pristine):
    experiments = load_experiments()
    extended = experiments.extended
    assert extended.runs
    exhibits = {f"table_{name}": 1 for name in extended.tables}
    exhibits |= {f"figure_{name}": 1 for name in extended.figures}
    shown = {
        run for exhibit in extended.exhibits for run in (exhibit.runs if exhibit.trains else ())
    }
    assert set(extended.runs) <= shown
    planned = pristine.planned("extended", config="scale=pocket")
    needed = stages(experiments, shown) | exhibits
    assert planned.pop("trajectories") == planned.pop("extended") == 1
    assert planned == needed


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
    # Five discounts; and of the base the images alone, which the probes compare theirs with.
    assert planned == {
        "train": 5,
        "generate": 6,
        "score": 5,
        "probe": 5,
        "track": 1,
        "ledger": 5,
        "table_ablation_discount": 1,
    }


def test_the_rules_are_clean_to_snakemakes_linter(pristine):
    done = pristine.snakemake("--lint")
    assert done.returncode == 0, done.stdout + done.stderr
