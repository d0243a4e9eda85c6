"""The step benchmark takes iterations of every method, and counts their passes."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import step


def test_every_method_has_its_time_and_its_passes(tmp_path: Path) -> None:
    out = tmp_path / "step.json"
    step.main(["--scale", "smoke", "--repeats", "1", "--out", str(out)])
    found = json.loads(out.read_text())["time"]
    assert set(found) == set(step.METHODS)
    for row in found.values():
        assert row["multiple"] == row["step_seconds"] / row["bare_seconds"]
    # Four images in four steps, and both leaps of each again with gradient.
    ours = found["leapalign"]
    assert (ours["sample_forwards"], ours["sample_replays"]) == (4 * 4, 4 * 2)
