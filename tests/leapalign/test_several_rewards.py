"""Training on several rewards at once: who may, what counts, and what the log says of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baselines.mix_grpo import MixGRPO
from leapalign.config import RunConfig, resolve_run
from leapalign.errors import UserError
from leapalign.rewards import load_reward
from leapalign.settings import Method, TrainSettings
from leapalign.training import prepare

WEIGHTS = Path(__file__).parents[2] / "pocket" / "weights"
BESIDE = {name: str(WEIGHTS / name) for name in ("pickscore", "hpsv3")}
MIX = Method("baselines.mix_grpo:MixGRPO", {"group": 2, "updates_per_iteration": 1, "window": 2})


def trained_on(settings: TrainSettings, method: Method, beside: dict[str, str]) -> TrainSettings:
    return replace(
        settings,
        method=method,
        training=replace(settings.training, rewards_beside=beside),
    )


def test_the_log_names_every_reward_and_the_first_is_as_it_is_alone(
    settings: TrainSettings,
) -> None:
    run = prepare(trained_on(settings, MIX, BESIDE), "cpu")
    alone = prepare(trained_on(settings, MIX, {}), "cpu")
    line, line_alone = run.iterate(), alone.iterate()
    assert set(line) - set(line_alone) == {"reward_pickscore", "reward_hpsv3"}
    assert (line["reward"], line["reward_std"]) == (line_alone["reward"], line_alone["reward_std"])
    assert line["grad_norm"] != line_alone["grad_norm"]


def test_each_reward_is_that_of_the_decoded_images(settings: TrainSettings) -> None:
    problem = prepare(trained_on(settings, MIX, BESIDE), "cpu").problem
    prompts, x = problem.prompts(0, [0, 1]), problem.noise(0, [0, 1], "initial")
    scores = problem.scores(x, prompts)
    assert not scores.requires_grad
    with torch.no_grad():
        assert torch.equal(scores[:, 0], problem.score(x, prompts))
        images = problem.backbone.decode(x).float()
        for found, (name, path) in zip(scores.T[1:], BESIDE.items(), strict=True):
            reward = load_reward(name, path)
            assert torch.equal(found, reward.score(images, prompts) / reward.unit)


def test_a_method_for_one_reward_refuses_several(settings: TrainSettings) -> None:
    with pytest.raises(UserError, match=r"rewards_beside: LeapAlign is .* leave out pickscore, hp"):
        prepare(trained_on(settings, settings.method, BESIDE), "cpu")


def test_the_papers_mix_grpo_has_three_rewards_on_the_general_task_alone() -> None:
    general = RunConfig(method="baselines/configs/mix_grpo.yaml")
    mixed = resolve_run("mix_grpo", general, "flux", 0)
    training = mixed.train.training
    assert (training.reward.name, *training.rewards_beside) == ("hpsv2", "pickscore", "imagereward")
    assert "rewards_beside" in {deviation.key for deviation in mixed.deviations}
    on_geneval = resolve_run(
        "mix_grpo-compositional", replace(general, task="compositional"), "flux", 0
    )
    assert on_geneval.train.training.rewards_beside == {}
    assert MixGRPO.several_rewards
