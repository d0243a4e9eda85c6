"""Several processes train as one does: the same gradients, numbers and weights."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from leapalign import training
from leapalign.errors import UserError
from leapalign.method import Progress, combined
from leapalign.parallel import Processes
from leapalign.settings import (
    Adapter,
    Backbone,
    Compute,
    Method,
    Optimizer,
    Reward,
    Training,
    TrainSettings,
)
from tests import tolerances
from tests.leapalign import updates
from tests.leapalign.problems import PROMPTS, relative_error

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ON_CPU = {**os.environ, "LEAPALIGN_DEVICES": "", "PYTHONPATH": str(ROOT)}
FLUX, HPSV2 = "leapalign.backbones.flux:Flux", "hpsv2"
FLUX64, HPSV264, UNDECIDED = (
    f"{updates.__file__}:{name}" for name in ("Flux64", "HPSv264", "Undecided")
)
METHODS: dict[str, tuple[str, dict[str, Any], dict[str, int]]] = {
    "leapalign": ("leapalign.leap:LeapAlign", {}, {}),
    # Each sample stops and trains elsewhere, so that one process has more passes than the other.
    "drtune": ("baselines.drtune:DRTune", {"active": 3, "last": 3}, {"steps": 6}),
    "dance_grpo": ("baselines.dance_grpo:DanceGRPO", {"group": 2, "updates_per_iteration": 2}, {}),
    # An update's images are half a group: each process has a part of every group.
    "mix_grpo": (
        "baselines.mix_grpo:MixGRPO",
        {"group": 4, "updates_per_iteration": 2, "window": 2},
        {},
    ),
}
EQUAL = ("reward", "reward_std", "loss", "d_j", "d_0", "grad_norm")
COUNTED = ("nfe", "images", "skipped_groups")


def reward(name: str) -> Reward:
    return Reward(name, str(ROOT / "pocket/weights/hpsv2"), 0.55)


def settings_of(folder: Path, name: str, **budget: Any) -> TrainSettings:
    """A method's training over four images, of the first of three prompts and so on."""
    reference, method, own = METHODS[name]
    prompts = folder.parent / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")
    shared = Training(
        prompts=str(prompts),
        steps=4,
        guidance=3.5,
        iterations=4,
        batch=4,
        optimizer=Optimizer(lr=1e-5),
        clip=1e6,
        ema=0.9,
        reward=reward(HPSV264),
        micro_batch=4,
    )
    return TrainSettings(
        scale="test",
        seed=3,
        backbone=Backbone(FLUX64, str(folder)),
        resolution=64,
        method=Method(reference, method),
        training=dataclasses.replace(shared, **own, **budget),
    )


def undecided(folder: Path) -> TrainSettings:
    """DanceGRPO where one of two groups teaches nothing: one process has nothing to replay."""
    settings = settings_of(folder, "dance_grpo", reward=reward(UNDECIDED))
    method = Method(settings.method.reference, {"group": 2, "updates_per_iteration": 1})
    return dataclasses.replace(settings, method=method)


@pytest.fixture(scope="module")
def cases(tiny_flux_folder: Path) -> dict[str, TrainSettings]:
    found = {name: settings_of(tiny_flux_folder, name) for name in METHODS}
    found["undecided"] = undecided(tiny_flux_folder)
    found["float32"] = dataclasses.replace(
        settings_of(tiny_flux_folder, "leapalign", reward=reward(HPSV2)),
        backbone=Backbone(FLUX, str(tiny_flux_folder)),
    )
    compute = Compute(devices=2, precision="bfloat16")
    found["bfloat16"] = dataclasses.replace(found["float32"], compute=compute)
    adapter = Adapter(rank=4, alpha=8, targets=("to_q", "to_v", "to_out.0"))
    for precision in ("float32", "bfloat16"):
        budget = dataclasses.replace(found[precision].training, adapter=adapter)
        found[f"adapter-{precision}"] = dataclasses.replace(found[precision], training=budget)
    return found


@pytest.fixture(scope="module")
def together(
    cases: dict[str, TrainSettings], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """All cases in two processes."""
    file = tmp_path_factory.mktemp("together") / "updates"
    texts = {name: settings.json() for name, settings in cases.items()}
    file.with_suffix(".json").write_text(json.dumps(texts))
    ended = subprocess.run(
        [*TORCHRUN, updates.__file__, str(file)],
        cwd=ROOT,
        env=ON_CPU,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found: dict[str, dict[str, Any]] = torch.load(file.with_suffix(".pt"), weights_only=False)
    return found


@pytest.mark.parametrize("name", [*METHODS, "undecided"])
def test_gradients_and_log_are_the_same_for_any_processes_and_micro_batch(
    cases: dict[str, TrainSettings], together: dict[str, dict[str, Any]], name: str
) -> None:
    settings = cases[name]
    whole = updates.updates_of(settings)
    budget = dataclasses.replace(settings.training, micro_batch=1)
    split = updates.updates_of(dataclasses.replace(settings, training=budget))
    for other in (split, together[name]):
        assert len(other["gradients"]) == len(whole["gradients"]) > 0
        for ours, expected in zip(other["gradients"], whole["gradients"], strict=True):
            assert expected.any()
            assert relative_error(ours, expected) < tolerances.DEVICES
        for key in EQUAL:
            value, expected = other["line"][key], whole["line"][key]
            assert value == expected is None or math.isclose(
                value, expected, rel_tol=tolerances.DEVICES, abs_tol=tolerances.DEVICES
            ), key
        for weight, ours in other["weights"].items():
            assert (ours - whole["weights"][weight]).abs().max() < tolerances.DEVICES
    for key in COUNTED:
        # A process without a group that teaches replays all the same, and that is counted.
        if name != "undecided" or key != "nfe":
            assert together[name]["line"][key] == whole["line"][key], key


def test_two_processes_differ_from_one_in_float32_by_its_rounding(
    cases: dict[str, TrainSettings], together: dict[str, dict[str, Any]]
) -> None:
    [expected] = updates.updates_of(cases["float32"])["gradients"]
    [ours] = together["float32"]["gradients"]
    assert relative_error(ours, expected) < tolerances.BATCH_SPLIT


def test_weights_are_gathered_and_gradients_reduced_once_an_update(
    together: dict[str, dict[str, Any]],
) -> None:
    groups = 3  # two blocks, and the rest
    for name, updates_made in (("drtune", 1), ("dance_grpo", 2)):
        calls = together[name]["calls"]
        assert calls[updates.REDUCE] == groups * updates_made
        assert calls[updates.GATHER] == groups * updates_made


@pytest.fixture
def no_process_group() -> Iterator[None]:
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("no_process_group")
def test_bfloat16_passes_train_float32_weights_in_one_process_and_in_two(
    cases: dict[str, TrainSettings], together: dict[str, dict[str, Any]]
) -> None:
    budget = dataclasses.replace(cases["bfloat16"].training, micro_batch=2)
    alone = updates.updates_of(dataclasses.replace(cases["bfloat16"], training=budget))
    for found in (alone, together["bfloat16"]):
        assert found["precisions"] == {found["gradients"][0].dtype} == {torch.float32}
    [ours], [shared], [full] = (
        found["gradients"] for found in (alone, together["bfloat16"], together["float32"])
    )
    # The same passes, of two images each, and a sum in float32.
    assert relative_error(shared, ours) < tolerances.BFLOAT16_SPLIT
    assert 0.0 < relative_error(ours, full) < tolerances.BFLOAT16_GRADIENT


@pytest.mark.usefixtures("no_process_group")
def test_an_adapter_trains_alone_and_alike_in_one_process_and_in_two(
    cases: dict[str, TrainSettings], together: dict[str, dict[str, Any]]
) -> None:
    for precision, size, bound in (
        ("float32", 4, tolerances.BATCH_SPLIT),
        ("bfloat16", 2, tolerances.BFLOAT16_SPLIT),
    ):
        name = f"adapter-{precision}"
        budget = dataclasses.replace(cases[name].training, micro_batch=size)
        alone = updates.updates_of(dataclasses.replace(cases[name], training=budget))
        [expected], [ours] = alone["gradients"], together[name]["gradients"]
        assert expected.any()
        assert relative_error(ours, expected) < bound
        # Frozen weights are in the passes' precision, those of the adapter are not.
        assert together[name]["precisions"] == {torch.float32}
        assert together[name]["weights"].keys() == alone["weights"].keys()
        assert all(".lora_" in weight for weight in alone["weights"])


@pytest.mark.parametrize(
    ("name", "count", "images"), [("leapalign", 3, 4), ("leapalign", 8, 4), ("dance_grpo", 4, 2)]
)
def test_a_batch_that_processes_cannot_share_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int, images: int
) -> None:
    monkeypatch.setattr(training, "present", lambda: Processes(0, count))
    settings = settings_of(tmp_path / "nowhere", name)
    with pytest.raises(UserError, match=f"batch: {images} images an update .* {count} processes"):
        training.prepare(settings, "cpu")


def test_processes_shares_are_all_images_in_order() -> None:
    shares = [Processes(rank, 3).share(12) for rank in range(3)]
    assert [i for share in shares for i in share] == list(range(12))


def test_an_update_of_several_processes_joins_their_numbers() -> None:
    parts = [
        Progress(rewards=[1.0], loss=0.2, joint_distances=[0.1], forwards=3, replays=2, images=1),
        Progress(rewards=[2.0], loss=0.4, joint_distances=[0.3], forwards=5, replays=2, images=1),
    ]
    whole = combined(parts)
    assert whole.rewards == [1.0, 2.0]
    assert whole.joint_distances == [0.1, 0.3]
    assert whole.loss == pytest.approx(0.3)
    assert (whole.forwards, whole.replays, whole.images) == (8, 4, 2)
    assert whole.clip_fraction is None
