"""A method's design is what its Plans say: leaps, steps with gradient, coupling, cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from baselines.draft_lv import DRaFTLV
from baselines.drtune import DRTune
from baselines.flowbp_bridge import FlowBPBridge
from baselines.flowbp_lagrange import FlowBPLagrange
from baselines.flowbp_sparse import FlowBPSparse
from baselines.full_backprop import FullBackprop
from baselines.refl import ReFL
from leapalign import survey
from leapalign.config import RunConfig, resolve_run
from leapalign.design import Design, describe, kind
from leapalign.direct import DirectGradient
from leapalign.grid import Grid
from leapalign.leap import LeapAlign
from leapalign.parsing import dump, parse
from leapalign.plan import Leap, euler_path, jump, quadrature
from leapalign.streams import choices
from tests.leapalign.problems import AnalyticProblem, iteration_of

GRID = Grid.shifted(10, 3.0)
ROOT = Path(__file__).parents[2]


def design(method: DirectGradient, draws: int = 300) -> Design:
    plans = [method.plan(GRID, choices(0, draw, "plan")) for draw in range(draws)]
    return describe(plans, GRID)


@pytest.mark.parametrize(
    ("leap", "expected"),
    [
        (jump(GRID, 4, 5), "step"),
        (euler_path(GRID, 4, 5), "step"),
        (jump(GRID, 4, 10), "jump"),
        (euler_path(GRID, 4, 10), "euler"),
        (Leap(2, 10, euler_path(GRID, 2, 5).weight | jump(GRID, 5, 10).weight, {}), "euler+jump"),
        (quadrature(GRID, 4, 10, [4, 6, 9], {}), "quadrature"),
        (quadrature(GRID, 4, 6, [4, 5], {}), "quadrature"),
        (quadrature(GRID, 4, 10, [5], {}), "jump"),
    ],
)
def test_a_leaps_kind_shows_in_its_weights(leap: Leap, expected: str) -> None:
    assert kind(leap, GRID) == expected


# Early steps, nested gradient, leaps, several steps; the first four are the paper's Table 1.
@pytest.mark.parametrize(
    ("method", "properties", "leaps", "chain"),
    [
        (ReFL(last=4), "----", ["jump"], 1),
        (DRaFTLV(), "----", ["step"], 1),
        (DRTune(active=2, last=4), "e--s", ["euler+jump"], 1),
        (LeapAlign(), "enls", ["jump", "jump"], 2),
        (LeapAlign(nesting=0.0), "e-ls", ["jump", "jump"], 1),
        (LeapAlign(leaps=1), "e-l-", ["jump"], 1),
        (LeapAlign(reward_on="prediction"), "enls", ["jump", "jump"], 2),
        (LeapAlign(range_high=0.7), "-nls", ["jump", "jump"], 2),
        (FlowBPSparse(), "e--s", ["euler"], 1),
        (FlowBPBridge(), "en-s", ["euler", "euler"], 2),
        (FlowBPLagrange(), "enls", ["quadrature", "quadrature"], 2),
        (FullBackprop(), "en-s", ["step"] * 10, 10),
    ],
)
def test_properties_follow_from_the_plans(
    method: DirectGradient, properties: str, leaps: list[str], chain: int
) -> None:
    found = design(method)
    answers = (found.early_steps, found.nested, found.leap, found.several)
    expected = tuple(letter != "-" for letter in properties)
    assert (answers, list(found.leaps), found.chain) == (expected, leaps, chain)


@pytest.mark.parametrize(
    "method", [ReFL(last=4), DRaFTLV(), DRTune(active=2, last=4), LeapAlign(), FullBackprop()]
)
def test_the_cost_is_what_training_reports(method: DirectGradient) -> None:
    problem, plans = AnalyticProblem(batch=9, steps=10), []
    _, [report] = iteration_of(method, problem)
    plans = [method.plan(problem.grid(10), problem.choices(0, slot, "plan")) for slot in range(9)]
    found = describe(plans, problem.grid(10))
    assert 9 * found.forwards == pytest.approx(report.forwards)
    assert 9 * found.evaluations == pytest.approx(report.evaluations)


def test_which_steps_train_is_counted() -> None:
    found = design(ReFL(last=4), draws=2000)
    assert found.trained[:6] == (0.0,) * 6
    assert sum(found.trained) == pytest.approx(1.0)
    assert (found.reached, found.active) == (4, (1, 1))
    assert design(FlowBPSparse()).active == (3, 3)
    assert design(DRTune(active=2, last=6)).active == (1, 2)


def settings(config: str) -> dict[str, object]:
    run = RunConfig(method=f"baselines/configs/{config}.yaml")
    return dump(resolve_run("run", run, "pocket", 0).train)


def test_the_survey_writes_every_runs_design(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(survey, "DRAWS", 50)
    runs = {name: settings(name) for name in ("refl", "flowbp_sparse")}
    survey.main(["--runs", json.dumps(runs), "--out", str(tmp_path / "designs.json")])
    written = json.loads((tmp_path / "designs.json").read_text())
    assert list(written) == list(runs)
    found = parse(Design, written["flowbp_sparse"], "designs.json")
    assert (found.steps, found.active, found.leaps) == (25, (3, 3), ("euler",))


def test_a_method_without_plans_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    runs = json.dumps({"mix": settings("mix_grpo")})
    with pytest.raises(SystemExit):
        survey.main(["--runs", runs, "--out", str(tmp_path / "designs.json")])
    assert "run `mix`: baselines.mix_grpo:MixGRPO draws no Plans" in capsys.readouterr().err
