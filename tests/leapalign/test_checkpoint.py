"""A training that is stopped in whatever way, on whatever processes, ends as an unbroken one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from leapalign.average import Average
from leapalign.checkpoint import Checkpoints
from leapalign.errors import UserError
from leapalign.files import append_text, occupied
from leapalign.interrupt import REQUEUE, Request
from leapalign.leap import LeapAlign
from leapalign.method import Problem, Progress
from leapalign.parallel import ALONE, Processes
from leapalign.settings import Compute, Method, TrainSettings
from leapalign.train import Watch, main, stop_if_asked, train
from leapalign.training import Training, prepare
from tests import tolerances
from tests.disks import no_room_for
from tests.leapalign.test_parallel import ON_CPU, ROOT, TORCHRUN, settings_of
from tests.leapalign.test_resume import PATIENCE, WALL_CLOCK

SHARD = "__0_0.distcp"


def checkpoints_of(run: Training, folder: Path, settings_hash: str = "abc") -> Checkpoints:
    return Checkpoints(folder, run, ALONE, settings_hash)


def save(saved: Checkpoints, iteration: int) -> None:
    """Write a checkpoint and see it whole."""
    saved.save(iteration)
    saved.settle()


def test_a_checkpoint_holds_the_tally_and_only_the_last_two_are_kept(
    run: Training, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    saved = checkpoints_of(run, folder)
    assert not saved.resume()
    for iteration in (1, 2, 3):
        run.iterate()
        save(saved, iteration)
    assert sorted(path.name for path in folder.iterdir()) == [
        "iteration-000002",
        "iteration-000003",
    ]
    tally = dataclasses.replace(run.tally)
    run.iterate()
    assert saved.resume()
    assert run.tally == tally


@pytest.mark.parametrize("fits", [0.01, 0.9])
def test_a_checkpoint_that_does_not_fit_is_named_and_the_one_before_kept(
    run: Training, tmp_path: Path, fits: float
) -> None:
    saved = checkpoints_of(run, tmp_path)
    run.iterate()
    save(saved, 1)
    size = int(fits * (tmp_path / "iteration-000001" / SHARD).stat().st_size)
    before = dataclasses.replace(run.tally)
    run.iterate()
    with (
        no_room_for(size),
        pytest.raises(UserError, match=r"iteration-000002\.partial: cannot be written"),
    ):
        save(saved, 2)
    assert saved.resume()
    assert run.tally == before
    save(saved, 2)
    assert (tmp_path / "iteration-000002").is_dir()


def test_a_checkpoint_under_way_is_never_resumed(run: Training, tmp_path: Path) -> None:
    (tmp_path / "iteration-000009.partial").mkdir()
    assert not checkpoints_of(run, tmp_path).resume()


def test_a_checkpoint_of_other_settings_is_refused(run: Training, tmp_path: Path) -> None:
    save(checkpoints_of(run, tmp_path, "abc"), 1)
    with pytest.raises(UserError, match=r"iteration-000001: made under other settings \(abc, now"):
        checkpoints_of(run, tmp_path, "xyz").resume()


@pytest.mark.parametrize("damaged", [SHARD, ".metadata", "settings.json"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_damaged_checkpoint_is_named(
    run: Training, tmp_path: Path, damaged: str, how: str
) -> None:
    saved = checkpoints_of(run, tmp_path)
    save(saved, 1)
    file = tmp_path / "iteration-000001" / damaged
    content = file.read_bytes()
    if how == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        file.unlink()
    with pytest.raises(UserError, match=r"iteration-000001: damaged .*remove it"):
        saved.resume()


def log_of(folder: Path) -> list[dict[str, float]]:
    """The log without what the wall clock decides."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in WALL_CLOCK} for line in lines]


WEIGHTS = "weights/transformer/diffusion_pytorch_model.safetensors"


def largest_difference(one: Path, other: Path) -> float:
    weights, others = (load_file(folder / WEIGHTS) for folder in (one, other))
    assert weights.keys() == others.keys()
    return max(float((value - others[name]).abs().max()) for name, value in weights.items())


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children()
    return [child for child in found if "leapalign.train" in child.cmdline()]


def reached(folder: Path) -> int:
    """The iteration of the last whole checkpoint."""
    return max((int(path.name[-6:]) for path in folder.glob("iteration-*[0-9]")), default=0)


def test_a_training_goes_on_in_two_processes_and_after_kill_9_of_one_again_in_one(
    tiny_flux_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(tiny_flux_folder, "leapalign", iterations=10, checkpoint_every=2)
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    folder = broken / "checkpoints"
    run = prepare(settings, "cpu")
    with contextlib.closing(Checkpoints(folder, run, ALONE, settings.recipe())) as saved:
        for _ in range(2):
            append_text(folder / "log.jsonl", json.dumps(run.iterate()) + "\n")
        saved.save(2)
    budget = dataclasses.replace(settings.training, micro_batch=1, checkpoint_every=1)
    shared = dataclasses.replace(settings, training=budget, compute=Compute(devices=2))
    command = [*TORCHRUN, "-m", "leapalign.train", "--settings", shared.json()]
    command += ["--out", str(broken), "--checkpoints", str(folder)]
    pair = subprocess.Popen(command, env=ON_CPU, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while reached(folder) < 4:
        assert pair.poll() is None, pair.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers_of(pair)[1].kill()
    _, messages = pair.communicate(timeout=PATIENCE)
    assert pair.returncode != 0, "the training ended before it could be killed"
    assert "resumed at iteration 2 of 10" in messages
    assert not (broken / WEIGHTS).exists()
    last = reached(folder)
    train(settings, broken, folder, "cpu")
    assert f"resumed at iteration {last} of 10" in capfd.readouterr().err
    train(settings, unbroken, tmp_path / "other", "cpu")
    assert largest_difference(broken, unbroken) < tolerances.DEVICES
    lines = zip(log_of(broken), log_of(unbroken), strict=True)
    assert all(line["nfe"] == expected["nfe"] for line, expected in lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stopped(LeapAlign):
    """LeapAlign in whose third iteration the scheduler asks to stop."""

    number: int = int(signal.SIGTERM)

    def updates(self, problem: Problem, iteration: int) -> Iterator[Progress]:
        if iteration == 2 and "STOPPED" not in os.environ:
            os.kill(os.getpid(), self.number)
        yield from super().updates(problem, iteration)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_schedulers_signal_ends_a_training_after_its_iteration_to_be_queued_again(
    settings: TrainSettings,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    method = Method(f"{__file__}:Stopped", {"number": int(signal.Signals[name])})
    budget = dataclasses.replace(settings.training, iterations=5, checkpoint_every=5)
    settings = dataclasses.replace(settings, training=budget, method=method)
    stopped, unbroken = tmp_path / "stopped", tmp_path / "unbroken"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        train(settings, stopped, tmp_path / "checkpoints", "cpu", Watch(2))
    assert end.value.code == REQUEUE == 75
    assert signal.getsignal(signal.SIGTERM) is before
    [line] = [text for text in capfd.readouterr().err.splitlines() if "stopped by" in text]
    assert line.startswith(f"stopped by {name} after 3 of 5 iterations, which are kept; run the")
    assert reached(tmp_path / "checkpoints") == 3
    monkeypatch.setenv("STOPPED", "")
    train(settings, stopped, tmp_path / "checkpoints", "cpu", Watch(2))
    train(settings, unbroken, tmp_path / "others", "cpu", Watch(2))
    assert log_of(stopped) == log_of(unbroken)
    files = sorted(path.relative_to(unbroken) for path in unbroken.rglob("*.safetensors"))
    assert len(files) == 3
    assert all((stopped / file).read_bytes() == (unbroken / file).read_bytes() for file in files)


def test_all_processes_stop_when_one_is_asked_to(settings: TrainSettings, tmp_path: Path) -> None:
    class Beside(Processes):
        def collect(self, value: object) -> list[object]:
            return [value, "SIGUSR1"]

    run = prepare(settings, "cpu")
    run.problem.processes = Beside()
    saved = checkpoints_of(run, tmp_path)
    with pytest.raises(SystemExit):
        stop_if_asked(Request(), run, saved)
    assert reached(tmp_path) == 0  # nothing is done, so there is nothing to save


def test_two_jobs_on_one_folder_are_refused_before_anything_is_loaded(
    settings: TrainSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, checkpoints = tmp_path / "out", tmp_path / "checkpoints"
    missing = dataclasses.replace(settings.backbone, path="nowhere")
    command = ["--settings", dataclasses.replace(settings, backbone=missing).json()]
    command += ["--out", str(out), "--checkpoints", str(checkpoints)]
    for folder in (out, checkpoints):
        with occupied(folder), pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code == 1
        expected = f"error: {folder}: another job is writing there; wait for it, or end it\n"
        assert capsys.readouterr().err == expected
    with pytest.raises(SystemExit):
        main(command)
    assert "nowhere: not a loadable FLUX" in capsys.readouterr().err


def test_what_changes_no_result_makes_no_checkpoint_of_other_settings(
    settings: TrainSettings,
) -> None:
    def changed(**budget: object) -> TrainSettings:
        return dataclasses.replace(
            settings, training=dataclasses.replace(settings.training, **budget)
        )

    compute = Compute(devices=8, precision="bfloat16", recompute=True, compile=True, image_batch=1)
    same = [changed(micro_batch=1), changed(checkpoint_every=1)]
    same.append(dataclasses.replace(settings, compute=compute))
    assert {other.recipe() for other in same} == {settings.recipe()}
    assert len({other.hash() for other in [settings, *same]}) == 4
    others = [changed(batch=4), changed(iterations=17), dataclasses.replace(settings, seed=4)]
    assert settings.recipe() not in {other.recipe() for other in others}


def test_an_average_is_torchs_own() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    network[1].bias.requires_grad_(False)
    ours = Average(network, 0.9)
    reference = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(3):
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(torch.randn_like(weight))
        ours.update()
        reference.update_parameters(network)
    network.register_buffer("scale", torch.ones(1))
    found, expected = ours.loadable(network, keep=True), reference.module.state_dict()
    assert found.keys() == {"0.weight", "0.bias", "1.weight", "scale"}
    assert all(torch.equal(found[name], expected[name]) for name in ours.trained)
    assert ours.loadable(network, keep=False) == {}


def test_a_checkpoint_before_the_first_step_resumes_to_the_same_step(
    settings: TrainSettings, tmp_path: Path
) -> None:
    runs = [prepare(settings, "cpu") for _ in range(2)]
    for run in runs:
        with contextlib.closing(Checkpoints(tmp_path, run, ALONE, "")) as saved:
            if not saved.resume():
                saved.save(1)
    for run in runs:
        run.iterate()
    weights = [run.average.weights for run in runs]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
