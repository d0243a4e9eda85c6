"""What is computed once is kept whole, and computed again where the file is not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from leapalign import cache, weights
from leapalign.weights import digest


@dataclass(frozen=True, slots=True)
class Size:
    """Something that takes long to find out."""

    bytes: int


@pytest.mark.parametrize("damaged", ["", '{"bytes": 1', "17", "[]", '{"kilobytes": 1}', "{}"])
def test_what_was_kept_is_found_anew_where_its_file_is_damaged(
    tmp_path: Path, damaged: str
) -> None:
    file = tmp_path / "size.json"
    assert cache.kept(Size, lambda: Size(1), file) == Size(1)
    assert cache.kept(Size, lambda: Size(2), file) == Size(1)
    file.write_text(damaged, encoding="utf-8")
    assert cache.kept(Size, lambda: Size(3), file) == Size(3)
    assert cache.kept(Size, lambda: Size(4), file) == Size(3)


def test_a_large_files_digest_is_computed_once_and_again_where_it_was_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    large = tmp_path / "large.safetensors"
    with large.open("wb") as file:
        file.truncate(2**26)
    found = digest(large)
    with monkeypatch.context() as patched:
        patched.setattr(weights, "_sha256", None)
        assert digest(large) == found
    (kept,) = tmp_path.glob("cache/leapalign/sha256/*.json")
    kept.write_text(kept.read_text()[:9])
    assert digest(large) == found
