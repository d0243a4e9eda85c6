"""The workspaces that the workflow's tests share."""

from __future__ import annotations

import shutil

import pytest
from filelock import FileLock

from tests.dag.workspace import Workspace


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """A copy of the suite without results, for dry runs; tests leave it as it is."""
    return Workspace.make(tmp_path_factory.mktemp("pristine") / "suite")


@pytest.fixture
def workspace(tmp_path):
    """A copy of the suite without results, for a test to edit."""
    return Workspace.make(tmp_path / "suite")


@pytest.fixture
def edited(smoke, tmp_path):
    """The finished workspace, copied so that a test may edit it."""
    shutil.copytree(smoke.folder, tmp_path / "smoke", symlinks=True)
    return Workspace(tmp_path / "smoke")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, worker_id):
    """A workspace in which the smoke scale has run once.

    All workers of a session share it; tests leave it as they found it.
    """
    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "smoke"
    finished = folder / "finished"
    with FileLock(f"{folder}.lock"):
        if not finished.is_file():
            workspace = Workspace.make(folder)
            done = workspace.snakemake("--cores 2 --config scale=smoke --resources gpu=8 all")
            assert done.returncode == 0, done.stdout + done.stderr
            finished.touch()
    return Workspace(folder)
