"""Files appear whole or not at all, and an error names its file and the fix."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from leapalign.errors import INTERRUPTED, main_guard
from leapalign.files import append_text, replacing, require_writable, write_json, write_text
from tests.disks import no_room_for, read_only


def save_tensors(path: Path) -> None:
    with replacing(path) as draft:
        save_file({"x": torch.zeros(1000)}, draft)


WRITERS = [
    pytest.param(lambda path: write_text(path, "x" * 4000), id="text"),
    pytest.param(lambda path: write_json(path, ["x" * 4000]), id="json"),
    pytest.param(save_tensors, id="safetensors"),
]


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_does_not_fit_leaves_the_old_one_and_is_named(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with no_room_for(100), pytest.raises(OSError, match=str(path)) as error:
        write(path)
    assert (error.value.errno, error.value.filename) == (errno.EFBIG, str(path))
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_folder_takes_its_place_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for content in ("old", "new"):
        with replacing(folder) as draft:
            draft.mkdir()
            (draft / content).touch()
        assert [path.name for path in folder.iterdir()] == [content]

    def interrupted() -> None:
        with replacing(folder) as draft:
            draft.mkdir()
            (draft / "part").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert [path.name for path in folder.iterdir()] == ["new"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has it")
def test_a_full_disks_error_names_what_was_appended_to() -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        append_text(Path("/dev/full"), "x")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "results"
    require_writable(folder)
    assert list(folder.iterdir()) == []
    with read_only(folder), pytest.raises(PermissionError) as error:
        require_writable(folder)
    assert error.value.filename == str(folder)


@pytest.mark.parametrize(
    ("number", "fix"),
    [
        (errno.ENOSPC, "free some disk space and run again; finished work is kept"),
        (errno.EDQUOT, "free some disk space and run again; finished work is kept"),
        (errno.EROFS, "set `results:` in config.yaml to a writable folder"),
        (errno.EACCES, "set `results:` in config.yaml to a writable folder"),
        (errno.EIO, "mend that and run again; finished work is kept"),
    ],
)
def test_the_command_lines_say_file_and_fix_in_one_line(
    number: int, fix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @main_guard
    def main() -> None:
        raise OSError(number, "reason", "results/file")

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    assert capsys.readouterr().err == f"error: reason: results/file; {fix}\n"


def test_an_interrupted_command_line_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    @main_guard
    def main() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == INTERRUPTED == 130
    assert "run the same command again to go on" in capsys.readouterr().err
