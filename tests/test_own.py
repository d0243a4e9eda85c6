"""What is the user's own: methods, checkpoints, scales and rewards enter by settings alone."""

import os
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from leapalign.config import load_method, method_name, resolve_run
from leapalign.errors import UserError
from leapalign.experiments import bring, load_experiments
from leapalign.parsing import parse, resolve
from leapalign.rewards import load_reward
from leapalign.scales import load_scale, pick_scale, scale_file
from leapalign.user import HANDED_DOWN, UserConfig, hand_down, user_config
from tests import tolerances

ROOT = Path(__file__).parents[1]
DRAFT_K = "docs/examples/draft_k.py:DRaFTK"
COLOURFULNESS = "docs/examples/colourfulness.py:Colourfulness"


@pytest.fixture(autouse=True)
def _settings_of_this_test_alone(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv(HANDED_DOWN, "{}")


def own(**keys):
    user = parse(UserConfig, keys, "config.yaml")
    hand_down(user)
    return user


def test_one_line_puts_a_method_into_every_open_exhibit_and_no_other():
    before = load_experiments()
    own(methods={"draft_k": DRAFT_K})
    after = load_experiments()
    assert set(after.runs) == {*before.runs, "draft_k"}
    pairs = zip(after.exhibits, before.exhibits, strict=True)
    assert all(a.runs == (*b.runs, "draft_k") if b.open else a == b for a, b in pairs)
    opened = {name for name, exhibit in after.tables.items() if exhibit.open}
    assert opened >= {"main", "geneval", "cost", "deviations", "properties", "design_space"}
    opened = {name for name, exhibit in after.figures.items() if exhibit.open}
    assert opened >= {"reward_curves", "progress", "radar", "grid", "enlarged", "scores"}


def test_a_finished_checkpoint_is_shown_where_the_untrained_model_is():
    own(checkpoints={"released": "pocket/weights/base/transformer"})
    tables = load_experiments().tables
    assert "released" in tables["main"].runs
    assert "released" not in tables["cost"].runs
    settings = resolve_run("released", load_experiments().runs["released"], "smoke", 0)
    assert settings.train is None
    assert settings.label == "released"


def test_jobs_find_what_snakemake_was_asked_for_in_their_environment():
    asked = own(methods={"draft_k": DRAFT_K}, scale="smoke", seeds=2)
    assert user_config() == asked
    assert os.environ[HANDED_DOWN]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"methods": {"refl": DRAFT_K}},
            "`methods.refl`: paper/experiments.yaml has a run of that name; choose another",
        ),
        (
            {"methods": {"x": DRAFT_K}, "checkpoints": {"x": "y"}},
            "`checkpoints.x`: `methods` has a run of that name; choose another",
        ),
    ],
)
def test_two_runs_cannot_claim_one_name(keys, message):
    user = own(**keys)
    plain = parse(UserConfig, {}, "config.yaml")
    hand_down(plain)
    with pytest.raises(UserError, match=re.escape(f"config.yaml: {message}")):
        bring(load_experiments(), user)


@pytest.mark.parametrize("name", ["a/b", "", "-x", "a b"])
def test_a_name_that_cannot_be_a_folders_is_refused(name):
    with pytest.raises(UserError, match=r"config\.yaml: `methods\..*should match"):
        own(methods={name: DRAFT_K})


def test_a_class_alone_is_a_method_with_its_own_defaults_and_a_file_changes_them():
    own(methods={"draft_k": DRAFT_K, "tuned": "docs/examples/draft_k.yaml"})
    runs = load_experiments().runs
    plain, tuned = (resolve_run(name, runs[name], "smoke", 0) for name in ("draft_k", "tuned"))
    assert (plain.label, tuned.label) == ("DRaFTK", "DRaFT-2")
    assert plain.train.method.settings == {"last": 3}
    assert tuned.train.method.settings == {"last": 2}
    assert tuned.train.method.reference == DRAFT_K  # found beside the file of settings
    assert [deviation.key for deviation in tuned.deviations] == ["optimizer.lr"]
    assert plain.train.method.build().last == 3


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("baselines/configs/refl.yaml", "refl"),
        (DRAFT_K, "draft_k"),
        ("package.module:Class", "module"),
        ("module:Class", "module"),
    ],
)
def test_a_scale_knows_a_method_by_its_file_or_module(method, name):
    assert method_name(method) == name


def test_a_module_in_the_path_will_do_and_two_files_of_one_name_are_two_modules(
    tmp_path, monkeypatch
):
    for folder, value in (("one", 1), ("two", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine_of_test.py").write_text(f"VALUE = {value}\n")
    monkeypatch.syspath_prepend(tmp_path / "one")
    assert resolve("mine_of_test:VALUE", "here") == 1
    assert resolve(f"{tmp_path}/two/mine_of_test.py:VALUE", "here") == 2
    sys.modules.pop("mine_of_test")


@pytest.mark.parametrize(
    ("text", "reference", "message"),
    [
        (None, "{folder}/mine.py:X", "no such file"),
        ("", "{folder}/mine.py:X", "has no `X`"),
        ("import nonesuch\n", "{folder}/mine.py:X", "no module nonesuch"),
        (
            "x = 1 / 0\n",
            "{folder}/mine.py:X",
            "ZeroDivisionError: division by zero ({folder}/mine.py:1)",
        ),
        ("\nx = (\n", "{folder}/mine.py:X", "({folder}/mine.py:2)"),
        ("", "nonesuch.mine:X", "no module nonesuch; is its folder in PYTHONPATH?"),
        ("", "mine", "must read `package.module:Name` or `file.py:Name`"),
    ],
)
def test_code_that_cannot_be_found_or_imported_is_named(tmp_path, text, reference, message):
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=re.escape(message.format(folder=tmp_path))) as error:
        resolve(reference.format(folder=tmp_path), "config.yaml: `methods.x`")
    assert "config.yaml: `methods.x`" in str(error.value)


def test_a_class_that_is_no_dataclass_is_refused():
    own(methods={"x": f"{COLOURFULNESS}"})
    with pytest.raises(UserError, match=r"run `x`: `method`: .* is not a dataclass of settings"):
        resolve_run("x", load_experiments().runs["x"], "smoke", 0)


def test_what_is_neither_file_nor_class_is_refused():
    with pytest.raises(UserError, match=r"method `mine`: neither a \.yaml file nor a class"):
        load_method("mine")


def test_a_missing_file_of_settings_names_the_nearest():
    with pytest.raises(UserError, match=r"no such file; did you mean `draft_k\.yaml`"):
        load_method("docs/examples/draft_kk.yaml")


def test_a_scale_of_ones_own_extends_a_shipped_one(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "extends: pocket\ndetector: null\nevaluators: {hpsv2: elsewhere}\n"
        "training: {iterations: 7, optimizer: {lr: 0.5, betas: [0.1, 0.2]}}\n"
    )
    own(scale=str(file))
    assert pick_scale(str(file)) == ("mine", f"scale: mine ({file})")
    assert scale_file("mine") == file
    mine, pocket = load_scale("mine"), load_scale("pocket")
    assert (mine.training.iterations, mine.training.optimizer.lr) == (7, 0.5)
    assert mine.training.optimizer.betas == (0.1, 0.2)
    assert mine.training.optimizer.weight_decay == pocket.training.optimizer.weight_decay
    assert mine.evaluators == {**pocket.evaluators, "hpsv2": "elsewhere"}
    assert mine.detector is None
    assert mine.backbone == pocket.backbone
    run = load_experiments().runs["leapalign"]
    assert resolve_run("leapalign", run, "mine", 0).train.scale == "mine"


def test_a_mistake_in_a_scale_of_ones_own_is_named_by_its_file(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: pocket\ntraining: {iteration: 7}\n")
    own(scale=str(file))
    expected = f"{file}: unknown key `training.iteration`; did you mean `iterations`?"
    with pytest.raises(UserError, match=re.escape(expected)):
        load_scale("mine")


def test_a_scale_cannot_have_a_shipped_ones_name(tmp_path):
    with pytest.raises(UserError, match=r"pocket\.yaml has the name of a shipped scale.*rename"):
        pick_scale(str(tmp_path / "pocket.yaml"))


def test_a_reward_of_ones_own_is_loaded_by_its_class_and_is_what_its_paper_says():
    reward = load_reward(COLOURFULNESS, "docs/examples/colourfulness.py")
    grey, halves = torch.full((1, 3, 2, 2), 0.5), torch.zeros(1, 3, 2, 2)
    halves[:, 0, :, 0] = 1.0  # half red, half black: R-G is 1 or 0, (R+G)/2-B is 1/2 or 0
    images = torch.cat([grey, halves]).requires_grad_()
    scores = reward.score(images, ["", ""])
    spread, offset = (0.5**2 + 0.25**2) ** 0.5, (0.5**2 + 0.25**2) ** 0.5
    expected = torch.tensor([0.0, spread + 0.3 * offset])
    torch.testing.assert_close(scores, expected, rtol=0, atol=tolerances.COLOURFULNESS)
    scores.sum().backward()
    assert torch.isfinite(images.grad).all()
    files = [Image.new("RGB", (2, 2), (255, 0, 0)), Image.new("L", (3, 3), 128)]
    alone = reward.score_pil(files, ["", ""])
    torch.testing.assert_close(
        alone, torch.tensor([0.3 * (1 + 0.25) ** 0.5, 0.0]), rtol=0, atol=tolerances.COLOURFULNESS
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hpsv3x", "unknown reward `hpsv3x`; did you mean `hpsv3`?"),
        (DRAFT_K, "is no subclass of leapalign.rewards.Reward"),
    ],
)
def test_what_is_no_reward_is_refused(name, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load_reward(name, "nowhere")
