"""The GPU check proves itself on a CPU, at a tiny size through Triton's interpreter."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_check, kernels
from benchmarks.cases import Case, Maker

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="would measure at full size")


def one_case(maker: Maker) -> list[Case]:
    return [maker.leap(2, 3, 5)]


def run(monkeypatch: pytest.MonkeyPatch, out: Path) -> dict:
    monkeypatch.setattr(gpu_check, "odd_cases", one_case)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--seed", "5", "--out", str(out)])
    gpu_check.main()
    return json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("kernels")
def test_it_reports_errors_and_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = run(monkeypatch, tmp_path / "check.json")
    assert report["seed"] == 5
    drawn = [(row["dtype"], row["contiguous"]) for row in report["correctness"]]
    assert drawn == [(t, c) for t in ("float32", "bfloat16") for c in (True, False)]
    assert all(row["passes"] for row in report["correctness"])
    names = {row["name"] for row in report["speed"]["operations"]}
    assert names == {
        *("modulate", "gated_add", "qk_rope", "leap", "sde_step", "sde_log_prob", "prepare")
    }
    assert set(report["speed"]["blocks"]) == {"transformer_blocks", "single_transformer_blocks"}


@pytest.mark.usefixtures("kernels")
def test_a_wrong_kernel_fails_it_and_is_in_the_report(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "errors", lambda *_: {"output 0": 1.0})
    monkeypatch.setattr(gpu_check, "measure", lambda *_: {})
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "check.json")
    assert "4 cases are over their bounds" in capsys.readouterr().err
    report = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))
    assert not any(row["passes"] for row in report["correctness"])


def test_it_refuses_without_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check.dispatch, "ENABLED", False)
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "check.json")
    assert "LEAPALIGN_KERNELS" in capsys.readouterr().err


def test_speed_alone_is_refused_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kernels", "--out", str(tmp_path / "kernels.json")])
    with pytest.raises(SystemExit):
        kernels.main()
    assert "needs a CUDA device and finds none" in capsys.readouterr().err
