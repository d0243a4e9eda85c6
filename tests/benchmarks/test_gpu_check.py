"""The GPU check proves itself on a CPU, at a tiny size through Triton's interpreter."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks import correctness, gpu_check, kernels
from benchmarks.cases import Case, Maker
from benchmarks.gpu_check import Part

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="would measure at full size")

ROOT = Path(__file__).parents[2]
WRITES = "import json, sys; open(sys.argv[-1], 'w').write(json.dumps({'rate': 3}))"


def one_case(maker: Maker) -> list[Case]:
    return [maker.leap(2, 3, 5)]


def python(code: str, share: float = 0.5) -> Part:
    return Part((sys.executable, "-c", code), share)


def alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def check(monkeypatch: pytest.MonkeyPatch, out: Path, **parts: Part) -> dict:
    """The report of a check of these parts."""
    monkeypatch.setattr(gpu_check, "parts", lambda _size: parts)
    gpu_check.main(["--out", str(out)])
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("kernels")
def test_the_kernels_errors_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(correctness, "odd_cases", one_case)
    out = tmp_path / "correctness.json"
    correctness.main(["--seed", "5", "--out", str(out)])
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["seed"] == 5
    drawn = [(row["dtype"], row["contiguous"]) for row in report["cases"]]
    assert drawn == [(t, c) for t in ("float32", "bfloat16") for c in (True, False)]
    assert all(row["passes"] for row in report["cases"])


@pytest.mark.usefixtures("kernels")
def test_a_wrong_kernel_fails_the_check_and_is_in_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(correctness, "odd_cases", one_case)
    monkeypatch.setattr(correctness, "errors", lambda *_: {"output 0": 1.0})
    out = tmp_path / "correctness.json"
    with pytest.raises(SystemExit):
        correctness.main(["--out", str(out)])
    assert "4 cases are over their bounds" in capsys.readouterr().err
    report = json.loads(out.read_text(encoding="utf-8"))
    assert not any(row["passes"] for row in report["cases"])


def test_correctness_is_refused_without_kernels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        correctness.main(["--out", str(tmp_path / "correctness.json")])
    assert "LEAPALIGN_KERNELS=1" in capsys.readouterr().err


@pytest.mark.usefixtures("kernels")
def test_the_kernels_speed_is_told_for_every_operation_and_block(tmp_path: Path) -> None:
    out = tmp_path / "kernels.json"
    kernels.main(["--size", "tiny", "--out", str(out)])
    report = json.loads(out.read_text(encoding="utf-8"))
    names = {row["name"] for row in report["operations"]}
    assert names == {
        *("modulate", "gated_add", "qk_rope", "leap", "sde_step", "sde_log_prob", "prepare")
    }
    assert set(report["blocks"]) == {"transformer_blocks", "single_transformer_blocks"}


def test_full_size_speed_is_refused_without_a_gpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        kernels.main(["--out", str(tmp_path / "kernels.json")])
    assert "needs a CUDA device and finds none" in capsys.readouterr().err


def test_one_json_holds_what_the_real_parts_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tiny = gpu_check.parts("tiny")
    one = replace(
        tiny["correctness"], command=[*tiny["correctness"].command, "--operations", "leap"]
    )
    out = tmp_path / "check.json"
    report = check(monkeypatch, out, correctness=one, full_size=tiny["full_size"])
    assert {case["name"] for case in report["correctness"]["cases"]} == {"leap"}
    assert all(case["passes"] for case in report["correctness"]["cases"])
    assert "error" not in report["correctness"] | report["full_size"]
    assert set(report["full_size"]["cases"]) == {"leapalign", "dance_grpo"}
    for case in report["full_size"]["cases"].values():
        phases = case["phases"]
        whole = sum(phase["seconds"] for phase in phases.values())
        assert case["step_seconds"] == pytest.approx(whole)
        assert case["predicted"]["seconds"] > 0
        for phase in ("rollout", "replay"):
            assert phases[phase]["share_of_matrix_rate"] > 0
            assert phases[phase]["predicted_gigabytes"] > 0
        assert case["settings"]["training"]["adapter"]["rank"] == 4


def test_a_part_that_fails_is_told_beside_what_it_had_found_and_the_next_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "check.json"
    with pytest.raises(SystemExit):
        check(
            monkeypatch,
            out,
            broken=python(f"{WRITES}; raise ValueError('no such kernel')"),
            absent=Part(["no-such-sanitizer"], 0.5, "no-such-sanitizer"),
            whole=python(WRITES),
        )
    report = json.loads(out.read_text(encoding="utf-8"))
    assert "ValueError: no such kernel" in report["broken"]["error"]
    assert report["broken"]["rate"] == report["whole"]["rate"] == 3
    assert "there is no no-such-sanitizer here" in report["absent"]["error"]
    assert "error" not in report["whole"]
    assert "broken, absent failed" in capsys.readouterr().err


def test_a_part_is_stopped_with_its_children_once_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child = tmp_path / "child"
    hangs = (
        f"{WRITES}; import subprocess; child = subprocess.Popen(['sleep', '600']); "
        f"open({str(child)!r}, 'w').write(str(child.pid)); child.wait()"
    )
    monkeypatch.setattr(gpu_check, "SECONDS", {"tiny": 10.0})
    out = tmp_path / "check.json"
    with pytest.raises(SystemExit):
        check(monkeypatch, out, slow=python(hangs), next=python(WRITES))
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["slow"]["error"].startswith("stopped after 5 s")
    assert report["slow"]["rate"] == report["next"]["rate"] == 3
    deadline = time.monotonic() + 10.0
    while alive(int(child.read_text())) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(int(child.read_text()))


def test_every_wheel_that_is_carried_is_in_the_lock() -> None:
    makefile, lock = ((ROOT / name).read_text() for name in ("Makefile", "requirements.lock"))
    carried = makefile.split("CARRIED :=")[1].split("FOR ?=")[0].replace("\\", " ").split()
    assert "diffusers" in carried
    assert not [name for name in carried if f"\n{name}==" not in lock]
