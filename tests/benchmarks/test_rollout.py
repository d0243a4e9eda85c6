"""Our rollout and the stock pipeline's own loop do the same work, and end at the same latents."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import rollout
from benchmarks.step import settings_of
from leapalign.errors import UserError
from tests import tolerances


@pytest.mark.parametrize(("backbone", "passes"), [(None, 1), ("sd3", 2)])
def test_both_end_at_the_same_latents_after_equally_many_passes(
    backbone: str | None, passes: int
) -> None:
    settings = settings_of("leapalign", "pocket", backbone)
    short = replace(settings.training, steps=3, micro_batch=2)
    found = rollout.measure(replace(settings, training=short), "cpu", repeats=1)
    assert found["largest_difference"] < tolerances.PIPELINE_LATENTS
    for way in ("rollout", "stock"):
        assert found[way]["seconds"] > 0
        assert found[way]["passes"] == 3
        assert found[way]["sample_forwards"] == 2 * 3 * passes
    assert found["over_stock"] == found["stock"]["seconds"] / found["rollout"]["seconds"]


def test_random_weights_of_a_size_are_the_same_on_both_sides(tmp_path: Path) -> None:
    out = tmp_path / "rollout.json"
    rollout.main(["--size", "tiny", "--repeats", "1", "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["precision"] == "bfloat16"
    assert found["largest_difference"] < tolerances.BFLOAT16_LATENTS
    assert found["stock"]["sample_forwards"] == found["rollout"]["sample_forwards"] == 2 * 4


def test_a_choice_that_contradicts_itself_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "rollout.json")
    with pytest.raises(SystemExit):
        rollout.main(["--size", "tiny", "--backbone", "sd3", "--out", out])
    assert "leave out --size" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        rollout.main(["--scale", "smoke", "--backbone", "sd3", "--out", out])
    assert "has no `backbones.sd3`" in capsys.readouterr().err


def test_another_pipeline_is_refused() -> None:
    with pytest.raises(UserError, match="SimpleNamespace: its loop is not measured"):
        rollout.start_of(SimpleNamespace(), None, [], None, 1.0)
