"""A manifest reads back as it was written, and a bad one names its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from eval.manifest import Sample, read_manifest, write_manifest
from leapalign.errors import UserError


def test_a_manifest_reads_back(tmp_path: Path) -> None:
    samples = (
        Sample("00000.png", 0, 'a "café"\u2028☕', 0, 5, {"tag": "colors"}),
        Sample("00001.png", 1, "b", 0, None, {}),
    )
    write_manifest(tmp_path, samples)
    assert read_manifest(tmp_path) == samples
    assert [sample.tag for sample in samples] == ["colors", ""]


@pytest.mark.parametrize(
    ("line", "message"),
    [("no json", "line 3"), ('{"image": "a.png"}', "line 3"), ("[]", "line 3")],
)
def test_a_bad_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    write_manifest(tmp_path, [Sample(f"{n}.png", n, "p", 0, 5, {}) for n in range(2)])
    with (tmp_path / "manifest.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UserError, match=message):
        read_manifest(tmp_path)


def test_an_image_named_twice_is_refused(tmp_path: Path) -> None:
    write_manifest(tmp_path, [Sample("a.png", n, "p", 0, 5, {}) for n in range(2)])
    with pytest.raises(UserError, match="occurs twice"):
        read_manifest(tmp_path)


def test_no_manifest_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="generate the images first"):
        read_manifest(tmp_path)
    write_manifest(tmp_path, [])
    with pytest.raises(UserError, match="empty"):
        read_manifest(tmp_path)
