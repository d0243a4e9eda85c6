"""The training loop: its log, its averaged weights, and what it refuses or diagnoses."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from leapalign.checkpoint import Tally
from leapalign.errors import UserError
from leapalign.log import keep_lines, log_line, refuse_idle
from leapalign.method import Method, Problem, Progress
from leapalign.settings import Method as MethodSettings
from leapalign.settings import TrainSettings
from leapalign.train import Watch, main, train
from leapalign.training import Diverged, Training, prepare
from tests.disks import read_only

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
KEYS = {
    "iteration",
    "reward",
    "reward_std",
    "loss",
    "grad_norm",
    "d_j",
    "d_0",
    "clip_fraction",
    "skipped_groups",
    "nfe",
    "images",
    "seconds",
    "peak_memory_mb",
}


def with_training(settings: TrainSettings, **changes: object) -> TrainSettings:
    return dataclasses.replace(settings, training=dataclasses.replace(settings.training, **changes))


def test_training_logs_every_iteration_and_writes_the_averaged_weights(
    settings: TrainSettings, tmp_path: Path
) -> None:
    short = with_training(settings, iterations=3)
    out, checkpoints = tmp_path / "out", tmp_path / "checkpoints"
    tally = train(short, out, checkpoints, "cpu")
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1, 2]
    assert all(set(line) == KEYS for line in lines)
    # Two images an iteration, each 4 forwards and 2 replays worth 3.
    assert [line["images"] for line in lines] == [2, 4, 6]
    assert [line["nfe"] for line in lines] == [20, 40, 60]
    assert (tally.iteration, tally.images, tally.evaluations) == (3, 6, 60)
    assert all(math.isfinite(line["reward"]) for line in lines)
    for key in ("loss", "grad_norm", "d_j", "d_0"):
        assert all(line[key] > 0.0 for line in lines)
    assert lines[0]["clip_fraction"] is lines[0]["skipped_groups"] is None
    base = prepare(short, "cpu").problem.backbone.transformer.state_dict()
    trained = load_file(out / "weights" / TRANSFORMER)
    assert trained.keys() == base.keys()
    assert any(not torch.equal(trained[name], base[name]) for name in base)
    assert not list(out.glob(".*"))


def test_the_written_weights_are_the_exponential_moving_average(run: Training) -> None:
    [*_, weight] = run.problem.backbone.transformer.parameters()
    [*_, average] = run.average.weights.values()
    expected = None
    for _ in range(3):
        run.iterate()
        # The first update is copied, later ones are averaged with the decay 0.9.
        current = weight.detach().clone()
        expected = current if expected is None else 0.9 * expected + 0.1 * current
        torch.testing.assert_close(average, expected)


def test_gradients_are_clipped_but_logged_as_they_were(settings: TrainSettings) -> None:
    run = prepare(with_training(settings, clip=1e-6), "cpu")
    seen = []
    weights = list(run.problem.backbone.transformer.parameters())
    run.optimizer.register_step_pre_hook(
        lambda *_: seen.append(torch.cat([weight.grad.flatten() for weight in weights]))
    )
    line = run.iterate()
    assert line["grad_norm"] > 1e-6
    assert [float(gradient.norm()) for gradient in seen] == [pytest.approx(1e-6, rel=1e-2)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exploding(Method):
    """A method whose loss or gradient is not finite from iteration 1 on."""

    loss: float = 1.0
    slope: float = 1.0

    def updates(self, problem: Problem, iteration: int) -> Iterator[Progress]:
        healthy = iteration == 0
        for weight in problem.backbone.transformer.parameters():
            weight.grad = torch.full_like(weight, 1e-3 if healthy else self.slope)
        yield Progress(rewards=[0.2, 0.4], loss=0.5 if healthy else self.loss)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Idle(Method):
    """A method all of whose groups are without spread."""

    def updates(self, problem: Problem, iteration: int) -> Iterator[Progress]:  # noqa: ARG002
        yield Progress(rewards=[0.3, 0.3], trains=False, skipped_groups=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Raising(Method):
    """A method with a mistake that shows in iteration 1."""

    def updates(self, problem: Problem, iteration: int) -> Iterator[Progress]:
        healthy = iteration == 0
        for weight in problem.backbone.transformer.parameters():
            weight.grad = torch.full_like(weight, 1e-3)
        yield Progress(rewards=[0.2] if healthy else [{}["no such key"]], loss=0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Silent(Method):
    """A method that yields nothing."""

    def updates(self, problem: Problem, iteration: int) -> Iterator[Progress]:  # noqa: ARG002
        return iter(())


def of_method(settings: TrainSettings, cls: type[Method]) -> TrainSettings:
    return dataclasses.replace(settings, method=MethodSettings(f"{__file__}:{cls.__name__}"))


def test_a_method_that_raises_is_named_with_its_iteration_and_line_and_resumes(
    settings: TrainSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = with_training(of_method(settings, Raising), iterations=3, checkpoint_every=1)
    out, checkpoints = tmp_path / "draft_k" / "seed0", tmp_path / "checkpoints"
    folders = ["--out", str(out), "--checkpoints", str(checkpoints)]
    with pytest.raises(SystemExit):
        main(["--settings", short.json(), *folders])
    own_lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    line = next(n for n, text in enumerate(own_lines, 1) if '[{}["no such' in text)
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1] == (
        f"error: {out}: iteration 1: Raising raised KeyError: 'no such key' ({__file__}:{line}); "
        "the last checkpoint is kept: mend it and run again to go on"
    )
    assert [path.name for path in checkpoints.glob("iteration-*")] == ["iteration-000001"]


def test_a_method_that_trains_nothing_is_refused_before_its_weights_are_written(
    settings: TrainSettings, tmp_path: Path
) -> None:
    short = with_training(of_method(settings, Idle), iterations=2)
    with pytest.raises(UserError, match=r"trains nothing: no gradient reached a weight in 2 iter"):
        train(short, tmp_path / "out", tmp_path / "checkpoints", "cpu")
    assert not (tmp_path / "out" / "weights").exists()


def test_a_threshold_below_every_reward_trains_nothing_and_is_named(
    settings: TrainSettings, tmp_path: Path
) -> None:
    reward = dataclasses.replace(settings.training.reward, threshold=-5.0)
    short = with_training(settings, iterations=2, reward=reward)
    with pytest.raises(UserError, match=r"loss threshold \(-5\) must lie above the rewards"):
        train(short, tmp_path / "out", tmp_path / "checkpoints", "cpu")


def test_a_few_iterations_without_gradient_are_no_mistake(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = [{"grad_norm": norm, "reward": 0.3} for norm in (None, 0.0, 1e-9)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    refuse_idle(log, 0.55)


def test_a_method_without_rewards_is_refused(run: Training) -> None:
    run.method = Silent()
    with pytest.raises(UserError, match="iteration 0: the method yielded no Progress with rewards"):
        run.iterate()


@pytest.mark.parametrize("every", [None, 2])
def test_snapshots_are_the_averaged_weights_strictly_inside_training(
    settings: TrainSettings, tmp_path: Path, every: int | None
) -> None:
    short = with_training(settings, iterations=4)
    train(short, tmp_path / "out", tmp_path / "checkpoints", "cpu", Watch(every))
    snapshots = sorted((tmp_path / "out" / "snapshots").iterdir())
    assert [path.name for path in snapshots] == (["iteration-000002"] if every else [])
    for path in snapshots:
        half = with_training(settings, iterations=2)
        train(half, tmp_path / "half", tmp_path / "other", "cpu")
        expected = load_file(tmp_path / "half" / "weights" / TRANSFORMER)
        found = load_file(path / TRANSFORMER)
        assert all(torch.equal(value, expected[name]) for name, value in found.items())


@pytest.mark.parametrize(
    "method", [Exploding(loss=float("nan")), Exploding(slope=float("inf"))], ids=["loss", "slope"]
)
def test_a_loss_or_gradient_that_is_not_finite_stops_with_a_diagnosis(
    run: Training, method: Method
) -> None:
    run.method = method
    run.iterate()
    weights = [weight.detach().clone() for weight in run.problem.backbone.transformer.parameters()]
    with pytest.raises(Diverged, match=r"iteration 1: loss .*rewards 0\.2 to 0\.4.*Lower training"):
        run.iterate()
    for weight, before in zip(run.problem.backbone.transformer.parameters(), weights, strict=True):
        assert torch.equal(weight, before)


def test_a_reward_that_is_not_finite_stops_with_the_prompts_name(
    run: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = run.problem.reward
    sane = reward.rate

    def broken(prepared: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        scores = sane(prepared, prompts)
        return torch.cat([scores[:1], scores[1:] * torch.nan])

    monkeypatch.setattr(reward, "rate", broken)
    prompt = run.problem.prompts(0, [1])[0]
    with pytest.raises(UserError, match=rf"hpsv2 gave nan for prompt '{prompt}'"):
        run.iterate()


def test_an_iteration_in_which_nothing_trains_takes_no_step(run: Training) -> None:
    run.method = Idle()
    weights = [weight.detach().clone() for weight in run.problem.backbone.transformer.parameters()]
    line = run.iterate()
    assert line["grad_norm"] is None
    assert line["skipped_groups"] == 1
    for weight, before in zip(run.problem.backbone.transformer.parameters(), weights, strict=True):
        assert torch.equal(weight, before)


def test_a_log_line_sums_its_updates_and_leaves_out_what_does_not_apply() -> None:
    steps = [
        Progress(rewards=[1.0, 2.0], loss=0.1, clip_fraction=0.0, skipped_groups=1, trains=False),
        Progress(rewards=[3.0, 4.0], loss=0.2, clip_fraction=0.5, skipped_groups=0),
    ]
    line = log_line(4, steps, [2.0], Tally(5, 60, 8, 1.5))
    assert line["reward"] == 2.5
    assert line["reward_std"] == pytest.approx(1.25**0.5)
    assert line["loss"] == pytest.approx(0.3)
    assert line["grad_norm"] == 2.0
    assert line["clip_fraction"] == 0.25
    assert line["skipped_groups"] == 1
    assert line["d_j"] is line["d_0"] is None
    stopped = Progress(rewards=[1.0], image_distances=[float("nan")])
    assert log_line(0, [stopped], [1.0], Tally())["d_0"] is None


def test_settings_that_do_not_fit_are_refused_before_anything_is_loaded(
    settings: TrainSettings,
) -> None:
    grouped = MethodSettings("baselines.dance_grpo:DanceGRPO", {"group": 4})
    missing = dataclasses.replace(settings.backbone, path="nowhere")
    unfit = dataclasses.replace(settings, method=grouped, backbone=missing)
    with pytest.raises(UserError, match="batch: 2 images are not a whole number of groups of 4"):
        prepare(unfit, "cpu")


def test_lines_logged_after_the_last_checkpoint_are_dropped(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    keep_lines(log, 0)
    assert log.read_text() == ""
    log.write_text('{"iteration": 0}\n{"iteration": 1}\n{"itera')
    keep_lines(log, 1)
    assert log.read_text() == '{"iteration": 0}\n'


def test_results_that_cannot_be_written_cost_no_iteration(
    settings: TrainSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short, checkpoints = with_training(settings, iterations=3), tmp_path / "checkpoints"
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match=r"out/weights"):
        train(short, tmp_path / "file" / "out", checkpoints, "cpu")
    train(short, tmp_path / "out", checkpoints, "cpu")
    assert "resumed at iteration 3 of 3" in capsys.readouterr().err
    assert len((tmp_path / "out" / "log.jsonl").read_text().splitlines()) == 3


def test_a_read_only_folder_is_refused_before_anything_is_loaded(
    settings: TrainSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--out", str(tmp_path / "out"), "--checkpoints", str(tmp_path / "checkpoints")]
    with read_only(tmp_path / "out"), pytest.raises(SystemExit) as end:
        main(["--settings", settings.json(), *folders])
    assert end.value.code == 1
    assert f"error: Permission denied: {tmp_path / 'out'}; set" in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()


def test_a_repeated_line_of_text_is_refused_before_training(settings: TrainSettings) -> None:
    prompts = Path(settings.training.prompts)
    prompts.write_text("a cat\na dog\na cat\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 3: repeats line 1"):
        prepare(settings, "cpu")
