"""The contract that every registered method keeps: one test for whatever has a settings file."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from leapalign.config import load_method
from leapalign.direct import DirectGradient
from leapalign.errors import UserError
from leapalign.method import Method
from leapalign.settings import Method as MethodSettings
from tests import tolerances
from tests.leapalign.problems import AnalyticProblem, FluxProblem, iteration_of, relative_error

if TYPE_CHECKING:
    from leapalign.backbones.flux import Flux

ROOT = Path(__file__).parents[2]


def registered() -> Iterator[tuple[str, Method]]:
    """Every method with a settings file, once for each of its presets."""
    for folder in ("leapalign/configs", "baselines/configs"):
        for path in sorted((ROOT / folder).glob("*.yaml")):
            config = load_method(str(path))
            for preset, layer in (config.presets or {"": None}).items():
                settings = {**config.settings, **(layer.settings if layer else {})}
                method = MethodSettings(config.method, settings).build(str(path))
                yield f"{path.stem} {preset}".strip(), method


METHODS = dict(registered())
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


def paper_sized(**changes: int) -> AnalyticProblem:
    """25 steps and 24 images, which fill the largest group of the files' settings."""
    return AnalyticProblem(**{"steps": 25, "batch": 24} | changes)


def test_all_the_suites_methods_are_registered() -> None:
    names = {name.split()[0] for name in METHODS}
    assert names == {
        "leapalign",
        "refl",
        "draft_lv",
        "drtune",
        "flowbp_sparse",
        "flowbp_bridge",
        "flowbp_lagrange",
        "full_backprop",
        "dance_grpo",
        "mix_grpo",
        "mix_grpo_flash",
        "flow_grpo",
        "flow_grpo_fast",
    }


@every_method
def test_a_method_is_frozen_settings_that_name_their_paper(method: Method) -> None:
    cls = type(method)
    assert dataclasses.is_dataclass(cls)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(method, dataclasses.fields(method)[0].name, None)
    assert re.search(r"arXiv \d{4}\.\d{5}", str(sys.modules[cls.__module__].__doc__))
    described = "\n".join(str(base.__doc__) for base in cls.__mro__)
    for field in dataclasses.fields(method):
        assert re.search(rf"^ +{field.name}: ", described, re.MULTILINE), field.name


@every_method
def test_an_iteration_yields_finite_gradients_to_every_weight(method: Method) -> None:
    problem = paper_sized()
    method.check(problem.steps, problem.batch)
    problem.network.zero_grad(set_to_none=True)
    reports = list(method.updates(problem, 0))
    for name, weight in problem.network.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.isfinite().all(), name
        assert weight.grad.any(), name
    assert sum(len(report.rewards) for report in reports) == problem.batch
    assert all(report.trains for report in reports)
    assert all(report.evaluations > 0 for report in reports)
    assert problem.synchronised == len(reports)


@every_method
def test_the_gradient_is_a_function_of_seed_and_iteration_alone(method: Method) -> None:
    torch.manual_seed(0)
    first, _ = iteration_of(method, paper_sized(), iteration=3)
    torch.manual_seed(1)
    problem = paper_sized()
    for other in METHODS.values():
        iteration_of(other, problem, iteration=2)
    again, _ = iteration_of(method, problem, iteration=3)
    assert torch.equal(first, again)
    assert not torch.equal(first, iteration_of(method, paper_sized(), iteration=4)[0])
    assert not torch.equal(first, iteration_of(method, paper_sized(seed=1), iteration=3)[0])


@every_method
def test_micro_batches_do_not_change_the_gradient(method: Method) -> None:
    whole, _ = iteration_of(method, paper_sized())
    # The log-density of a stochastic step is float32 by definition.
    exact = isinstance(method, DirectGradient)
    bound = tolerances.BATCH_SPLIT_EXACT if exact else tolerances.BATCH_SPLIT
    for micro_batch in (1, 5):
        split, _ = iteration_of(method, paper_sized(micro_batch=micro_batch))
        assert relative_error(split, whole) < bound


@every_method
def test_micro_batches_do_not_change_the_gradient_of_a_flux_transformer(
    method: Method, flux: Flux
) -> None:
    whole, _ = iteration_of(method, FluxProblem(flux, steps=25, batch=24))
    split, _ = iteration_of(method, FluxProblem(flux, steps=25, batch=24, micro_batch=5))
    assert relative_error(split, whole) < tolerances.BATCH_SPLIT


@every_method
@pytest.mark.parametrize("steps", [1, 2, 3, 25])
@pytest.mark.parametrize("batch", [1, 8, 24])
def test_a_budget_is_refused_beforehand_or_trains(method: Method, steps: int, batch: int) -> None:
    try:
        method.check(steps, batch)
    except UserError:
        return
    total, _ = iteration_of(method, paper_sized(steps=steps, batch=batch))
    assert total.isfinite().all()
    assert total.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nesting": 1.5}, r"nesting: α must lie in \[0, 1\], got 1\.5"),
        ({"tau": 0.0}, "tau: τ must be positive, got 0"),
        ({"leaps": 0}, "leaps: must lie between 1 and the 25 training steps, got 0"),
        ({"distance": 0.0}, r"distance: 0\.0 needs two leaps"),
        ({"distance": 0.5, "leaps": 3}, r"distance: 0\.5 needs two leaps"),
        ({"range_low": 0.7, "range_high": 0.2}, "range_low"),
    ],
)
def test_leapalign_refuses_settings_without_a_meaning(
    settings: dict[str, float], message: str
) -> None:
    method = MethodSettings("leapalign.leap:LeapAlign", settings).build()
    with pytest.raises(UserError, match=message):
        method.check(25, 12)


def test_an_unknown_setting_names_the_nearest_one() -> None:
    settings = MethodSettings("leapalign.leap:LeapAlign", {"nestling": 0.3})
    with pytest.raises(UserError, match=r"nestling.*did you mean `nesting`"):
        settings.build()
