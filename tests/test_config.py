"""Settings: the order in which layers win, and errors that name file, key and fix."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from leapalign.config import (
    EXPERIMENTS,
    RunConfig,
    available,
    check_choices,
    load_method,
    present_settings,
    resolve_run,
)
from leapalign.errors import UserError
from leapalign.experiments import load_experiments
from leapalign.parsing import dump, parse, read_yaml
from leapalign.scales import SCALES, load_scale, pick_scale, shipped_scales
from leapalign.settings import RunSettings, TrainSettings
from leapalign.user import UserConfig

ROOT = Path(__file__).resolve().parent.parent
LEAPALIGN = "leapalign/configs/leapalign.yaml"
DANCE = "baselines/configs/dance_grpo.yaml"


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A copy of the settings files, the current folder; returns what edits one of them."""
    for name in ("leapalign/configs", "baselines/configs", "paper/experiments.yaml"):
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    monkeypatch.chdir(tmp_path)

    def edit(path, change):
        data = yaml.safe_load(Path(path).read_text())
        change(data)
        Path(path).write_text(yaml.safe_dump(data))

    return edit


def leapalign(**settings):
    return resolve_run("run", RunConfig(method=LEAPALIGN, settings=settings), "pocket", 0)


@pytest.mark.parametrize("scale", shipped_scales())
def test_every_shipped_run_resolves_at_every_scale(scale):
    for name, run in load_experiments().runs.items():
        if available(run, load_scale(scale)):
            assert resolve_run(name, run, scale, 0).run == name


def test_what_shows_an_extended_run_is_extended_but_for_designs(files):
    files(EXPERIMENTS, lambda data: data["runs"]["refl"].update(extended=True))
    experiments = load_experiments()
    default, extended = experiments.default, experiments.extended
    assert "refl" in extended.runs
    assert "refl" not in default.runs
    assert {"main", "cost"} <= set(extended.tables)
    assert {"properties", "design_space"} <= set(default.tables)
    assert "grid" in extended.figures
    for kind in ("runs", "tables", "figures"):
        both = getattr(default, kind), getattr(extended, kind)
        assert {name for part in both for name in part} == set(getattr(experiments, kind))
        assert not set(both[0]) & set(both[1])


def test_each_layer_wins_over_the_one_before(files):
    def tau():
        return leapalign().train.method.settings["tau"]

    pocket = SCALES / "pocket.yaml"
    files(pocket, lambda data: data["methods"].pop("leapalign", None))
    files(LEAPALIGN, lambda data: data["settings"].pop("tau"))
    assert tau() == 0.1  # the class' own default
    files(LEAPALIGN, lambda data: data["settings"].update(tau=0.2))
    assert tau() == 0.2
    files(
        LEAPALIGN, lambda data: data.update(preset="p", presets={"p": {"settings": {"tau": 0.3}}})
    )
    assert tau() == 0.3
    files(pocket, lambda data: data["methods"].update(leapalign={"settings": {"tau": 0.4}}))
    assert tau() == 0.4
    assert leapalign(tau=0.5).train.method.settings["tau"] == 0.5


def test_settings_survive_their_json_and_the_method_is_built_from_them():
    settings = leapalign(nesting=0.7)
    assert RunSettings.from_json(settings.json()) == settings
    train = TrainSettings.from_json(settings.train.json())
    assert train.hash() == settings.train.hash()
    assert train.method.build().nesting == 0.7


def test_editing_the_evaluation_leaves_the_training_settings_as_they_were(files):
    before = leapalign()
    files(SCALES / "pocket.yaml", lambda data: data["evaluation"].update(steps=7))
    after = leapalign()
    assert after.train.hash() == before.train.hash()
    assert after.generate.hash() != before.generate.hash()


def test_a_deviation_changes_the_budget_and_is_told(files):
    files(
        DANCE,
        lambda data: data.update(deviation={"optimizer.lr": {"value": 3e-5, "reason": "noise"}}),
    )
    settings = resolve_run("dance", RunConfig(method=DANCE), "pocket", 0)
    told = {deviation.key: deviation for deviation in settings.deviations}
    shared = load_scale("pocket").training.optimizer.lr
    assert settings.train.training.optimizer.lr == told["optimizer.lr"].value == 3e-5
    assert (told["optimizer.lr"].shared, told["optimizer.lr"].reason) == (shared, "noise")


def test_a_deviation_that_changes_nothing_is_not_told(files):
    shared = load_scale("pocket").training.iterations
    files(
        DANCE,
        lambda data: data.update(deviation={"iterations": {"value": shared, "reason": "none"}}),
    )
    settings = resolve_run("dance", RunConfig(method=DANCE), "pocket", 0)
    assert "iterations" not in [deviation.key for deviation in settings.deviations]


def set_key(file, *keys, value):
    def break_it(files):
        def change(data):
            for key in keys[:-1]:
                data = data.setdefault(key, {})
            data[keys[-1]] = value

        files(file, change)

    return break_it


POCKET = str(SCALES / "pocket.yaml")
BROKEN = {
    "scale, extends nothing": (
        set_key(POCKET, "extends", value="smok"),
        POCKET, "`extends`", "did you mean `smoke`?",
    ),
    "scale, unknown key": (
        set_key(POCKET, "trainning", value={}),
        POCKET, "`trainning`", "did you mean `training`?",
    ),
    "scale, unknown nested key": (
        set_key(POCKET, "training", "optimizer", "lrate", value=1),
        POCKET, "`training.optimizer.lrate`", "did you mean `lr`?",
    ),
    "scale, wrong value": (
        set_key(POCKET, "training", "iterations", value=0),
        POCKET, "`training.iterations`", "given: 0",
    ),
    "scale, method's settings": (
        set_key(POCKET, "methods", "leapalign", "settings", value={"tua": 1}),
        POCKET, "`methods.leapalign.settings.tua`", "did you mean `tau`?",
    ),
    "method, unknown setting": (
        set_key(LEAPALIGN, "settings", "nestin", value=1),
        LEAPALIGN, "`settings.nestin`", "did you mean `nesting`?",
    ),
    "method, wrong value": (
        set_key(LEAPALIGN, "settings", "weighting", value="bth"),
        LEAPALIGN, "`settings.weighting`", "both",
    ),
    "method, value out of range": (
        set_key(LEAPALIGN, "settings", "nesting", value=2),
        LEAPALIGN, "nesting", "[0, 1]",
    ),
    "method, unknown class": (
        set_key(LEAPALIGN, "method", value="leapalign.leap:LeapAlgn"),
        LEAPALIGN, "`method`", "did you mean `LeapAlign`?",
    ),
    "method, unknown module": (
        set_key(LEAPALIGN, "method", value="leapalign.leep:LeapAlign"),
        LEAPALIGN, "`method`", "leapalign.leep",
    ),
    "method, unknown preset": (
        set_key(LEAPALIGN, "preset", value="offical"),
        LEAPALIGN, "`preset`", "no preset `offical`",
    ),
    "method, deviation from nothing": (
        set_key(LEAPALIGN, "deviation", value={"batchs": {"value": 1, "reason": "r"}}),
        LEAPALIGN, "`deviation`", "did you mean `batch`?",
    ),
    "method, deviation without a reason": (
        set_key(LEAPALIGN, "deviation", value={"batch": {"value": 1}}),
        LEAPALIGN, "`deviation.batch.reason`", "required",
    ),
    "method, deviation of wrong value": (
        set_key(LEAPALIGN, "deviation", value={"batch": {"value": "x", "reason": "r"}}),
        LEAPALIGN, "`deviation.batch`", "given: 'x'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_mistake_is_named_by_file_key_and_fix(files, case):
    break_it, *named = BROKEN[case]
    break_it(files)
    with pytest.raises(UserError) as error:
        leapalign()
    for text in named:
        assert text in str(error.value)


def choices(data):
    data["rewards"] = {
        "pickscore": {
            "path": "other",
            "threshold": 0.4,
            "deviation": {"optimizer.lr": {"value": 1.0e-6, "reason": "its rate"}},
        }
    }
    data["tasks"] = {"shapes": {"train": "a.txt", "test": "b.txt"}}
    data["backbones"] = {
        "small": {"loader": "a:B", "path": "c", "resolution": 32, "guidance": 4.5}
    }  # fmt: skip


def test_a_run_may_name_another_reward_task_or_base_model(files):
    files(SCALES / "pocket.yaml", choices)
    run = RunConfig(method=LEAPALIGN, reward="pickscore", task="shapes", backbone="small")
    settings = resolve_run("run", run, "pocket", 0)
    training = settings.train.training
    assert (training.reward.name, training.reward.path) == ("pickscore", "other")
    assert training.reward.threshold == 0.4
    assert (training.prompts, settings.generate.evaluation.prompts) == ("a.txt", "b.txt")
    assert settings.score.detector is None  # the task's prompts are not GenEval's
    for stage in (settings.train, settings.generate):
        assert (stage.backbone.loader, stage.backbone.path, stage.resolution) == ("a:B", "c", 32)
    assert training.guidance == settings.generate.evaluation.guidance == 4.5
    assert [(d.key, d.value, d.reason) for d in settings.deviations] == [
        ("optimizer.lr", 1e-6, "its rate")
    ]


def test_the_scales_own_reward_is_no_choice_and_an_unknown_task_is_the_scales_own(files):
    files(SCALES / "pocket.yaml", choices)
    same = RunConfig(method=LEAPALIGN, reward="hpsv2", task="compositional")
    assert resolve_run("run", same, "pocket", 0) == leapalign()


@pytest.mark.parametrize(("key", "choice"), [("reward", "pickscor"), ("backbone", "smal")])
def test_a_reward_or_base_model_that_no_scale_has_is_named(files, key, choice):
    files(SCALES / "pocket.yaml", choices)
    with pytest.raises(UserError, match=rf"`runs\.run\.{key}`: no scale has `{choice}`; did you"):
        check_choices({"run": RunConfig(method=LEAPALIGN, **{key: choice})})


def test_a_scale_may_change_one_run(files):
    change = {"x": {"settings": {"tau": 0.5}, "deviation": {"ema": {"value": 0.1, "reason": "r"}}}}
    files(SCALES / "pocket.yaml", lambda data: data.update(overrides=change))
    own = resolve_run("x", RunConfig(method=LEAPALIGN, settings={"tau": 0.4}), "pocket", 0)
    assert own.train.method.settings["tau"] == 0.5
    assert own.train.training.ema == 0.1
    assert leapalign(tau=0.4).train.training.ema != 0.1


def test_a_table_of_a_task_shows_runs_of_that_task_where_the_scale_knows_it():
    experiments = load_experiments()
    assert experiments.at({}).tables["geneval"] == experiments.tables["geneval"]
    apart = experiments.at({"compositional"})
    shown = apart.tables["geneval"]
    assert shown.runs == tuple(f"{run}-compositional" for run in experiments.tables["main"].runs)
    assert shown.reference == "leapalign-compositional"
    assert apart.tables["main"] == experiments.tables["main"]
    for run in shown.runs:
        assert apart.runs[run].task == "compositional"
        assert apart.find(run) == experiments.find(run)


def test_a_run_named_as_another_on_a_task_is_refused(files):
    files(EXPERIMENTS, lambda data: data["runs"].update({"refl-compositional": {"method": DANCE}}))
    with pytest.raises(UserError, match="two runs claim the name `refl-compositional`"):
        load_experiments().at({"compositional"})


def test_the_present_settings_are_those_of_the_run_without_its_class_defaults():
    run = load_experiments().runs["dance_grpo"]
    resolved = dump(resolve_run("dance_grpo", run, "pocket", 0))
    present = present_settings("dance_grpo", run, "pocket")

    def agree(part, whole):
        return all(
            agree(value, whole[key]) if isinstance(value, dict) else value == whole[key]
            for key, value in part.items()
        )

    assert set(present) == {"train", "generate", "score"}
    assert agree(present, resolved)
    assert present["train"]["training"]["steps"] == resolved["train"]["training"]["steps"]
    assert "micro_batch" not in present["train"]["training"]


def test_a_group_of_one_image_is_refused():
    run = RunConfig(method=DANCE, settings={"group": 1})
    with pytest.raises(UserError, match=r"dance_grpo\.yaml: group: 1 .* 2 or more"):
        resolve_run("dance", run, "pocket", 0)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"scal": "pocket"}, "unknown key `scal`; did you mean `scale`?"),
        ({"seeds": 0}, "`seeds`: input should be greater than or equal to 1 (given: 0)"),
        ({"seeds": "many"}, "`seeds`: "),
    ],
)
def test_a_mistake_in_the_users_config_is_named(data, named):
    with pytest.raises(UserError, match=re.escape(f"config.yaml: {named}")):
        parse(UserConfig, data, "config.yaml")


def test_an_unknown_scale_names_the_nearest():
    with pytest.raises(UserError, match="no scale `pockt`; did you mean `pocket`"):
        pick_scale("pockt")


def test_without_devices_auto_is_pocket_and_says_so(monkeypatch):
    monkeypatch.setenv("LEAPALIGN_DEVICES", "")
    assert pick_scale("auto") == ("pocket", "scale: pocket (auto: no CUDA device here)")


def test_a_scale_names_a_methods_preset_and_a_run_another(files):
    def of(preset):
        run = RunConfig(method=DANCE, preset=preset)
        return resolve_run("run", run, "pocket", 0).train.training.steps

    pocket = str(SCALES / "pocket.yaml")
    assert of(None) == 16
    files(pocket, lambda data: data["methods"]["dance_grpo"].update(preset="lora"))
    assert of(None) == 12
    assert of("official") == 16
    files(pocket, lambda data: data["methods"]["dance_grpo"].update(preset="lore"))
    with pytest.raises(UserError, match=r"`methods\.dance_grpo\.preset`: .*did you mean `lora`"):
        of(None)


def test_a_table_of_an_unknown_run_is_refused(files):
    files(EXPERIMENTS, lambda data: data["tables"]["main"].update(runs=["base", "drtun"]))
    with pytest.raises(
        UserError, match=r"`tables\.main\.runs`: no run `drtun`; did you mean `drtune`"
    ):
        load_experiments()


def test_a_design_of_the_untrained_model_is_refused(files):
    files(EXPERIMENTS, lambda data: data["tables"]["properties"].update(runs=["refl", "base"]))
    with pytest.raises(
        UserError, match=r"`tables\.properties\.runs`: `base` has no method, hence no design"
    ):
        load_experiments()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"a: 1\nb: 2\na: 3\n", "line 1: `a` is given twice"),
        (b"a: [1\nb: 2\n", "not valid YAML"),
        (b"- 1\n", "expected `key: value` lines"),
        (b"a: \xff\n", "not UTF-8"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text, named):
    path = tmp_path / "settings.yaml"
    path.write_bytes(text)
    with pytest.raises(UserError, match=re.escape(named)) as error:
        read_yaml(path)
    assert str(path) in str(error.value)


def test_a_missing_file_names_the_nearest():
    with pytest.raises(UserError, match=r"no such file; did you mean `leapalign\.yaml`"):
        load_method("leapalign/configs/leapaling.yaml")
