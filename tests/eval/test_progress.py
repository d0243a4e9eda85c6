"""A log gets about ten lines of progress, whatever the job's size."""

from __future__ import annotations

import pytest

from eval.progress import batches


@pytest.mark.parametrize(
    ("count", "size", "lines"), [(400, 50, 8), (1000, 1, 10), (3, 2, 2), (7, 10, 1), (0, 4, 0)]
)
def test_a_log_gets_about_ten_lines(
    count: int, size: int, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = [item for batch in batches(range(count), size, "score") for item in batch]
    assert taken == list(range(count))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    assert said[-1:] == [f"score: {count}/{count}"] * bool(lines)
