"""Fetching: what was interrupted goes on, what is not as published is refused."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import yaml
from huggingface_hub.errors import GatedRepoError, HTTPError

from leapalign import registry, sources
from leapalign.errors import UserError
from leapalign.fetch import fetch, is_whole, main, read_lock
from leapalign.weights import check_weights, fingerprint

MODEL = b"weights " * 1000
CONFIG = b'{"width": 8}'


@pytest.fixture(autouse=True)
def entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A registry of one entry from the hub, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    listed = {
        "tiny": {
            "folder": "weights/tiny",
            "gigabytes": 1e-5,
            "license": "MIT",
            "hub": [{"repo": "owner/tiny", "files": ["*.safetensors", "config.json"]}],
        }
    }
    monkeypatch.setattr(registry, "REGISTRY", tmp_path / "registry.yaml")
    monkeypatch.setattr(registry, "LOCK", tmp_path / "weights.lock.json")
    write(listed)
    yield listed
    registry.load_registry.cache_clear()
    fingerprint.cache_clear()


def write(listed: dict[str, Any]) -> None:
    registry.REGISTRY.write_text(yaml.safe_dump(listed))
    registry.load_registry.cache_clear()


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    folder = tmp_path / "mirror"
    repo = folder / "owner" / "tiny"
    repo.mkdir(parents=True)
    (repo / "model.safetensors").write_bytes(MODEL)
    (repo / "config.json").write_bytes(CONFIG)
    (repo / "README.md").write_bytes(b"not asked for")
    return folder


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_mirror_is_copied_verified_and_locked(mirror: Path) -> None:
    fetch("tiny", mirror)
    folder = Path("weights/tiny")
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "config.json", "SHA256SUMS"}
    assert (folder / "model.safetensors").read_bytes() == MODEL
    locked = read_lock()["tiny"]
    assert locked.files == {"model.safetensors": sha256(MODEL), "config.json": sha256(CONFIG)}
    assert locked.sizes == {"model.safetensors": len(MODEL), "config.json": len(CONFIG)}
    check_weights("weights/tiny", "scale.yaml")


def test_what_is_whole_needs_no_source(mirror: Path, capsys: pytest.CaptureFixture) -> None:
    fetch("tiny", mirror)
    fetch("tiny")
    assert capsys.readouterr().err.splitlines()[-1] == "tiny: whole, in weights/tiny"


def test_an_interrupted_copy_goes_on_where_it_stopped(
    mirror: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = Path("weights/tiny/model.safetensors.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(MODEL[:5000])
    begun = []
    pour = sources._pour
    monkeypatch.setattr(
        sources,
        "_pour",
        lambda source, to, done, size: begun.append(done) or pour(source, to, done, size),
    )
    fetch("tiny", mirror)
    assert begun == [5000, 0]
    assert (part.parent / "model.safetensors").read_bytes() == MODEL
    assert not part.exists()


def test_a_damaged_file_is_fetched_again(mirror: Path) -> None:
    fetch("tiny", mirror)
    file = Path("weights/tiny/model.safetensors")
    file.write_bytes(MODEL[:-1] + b"?")
    fingerprint.cache_clear()
    with pytest.raises(UserError, match=r"damaged.* fetch_weights --config fetch=tiny"):
        check_weights("weights/tiny", "scale.yaml")
    assert not is_whole(file.parent)
    fetch("tiny", mirror)
    assert file.read_bytes() == MODEL


def test_a_source_that_has_changed_since_it_was_locked_is_refused(mirror: Path) -> None:
    fetch("tiny", mirror)
    Path("weights/tiny").rename("elsewhere")
    (mirror / "owner/tiny/config.json").write_bytes(b"{}")
    with pytest.raises(
        UserError, match=r"config\.json: its SHA-256 is .* weights\.lock\.json says"
    ):
        fetch("tiny", mirror)
    assert not is_whole(Path("weights/tiny"))


def test_missing_weights_name_the_command_and_its_cost(entries: dict[str, Any]) -> None:
    command = r"snakemake --cores 1 fetch_weights --config fetch=tiny` \(1e-05 GB of disk\)"
    for path in ("weights/tiny", "weights/tiny/model.safetensors"):
        with pytest.raises(UserError, match=rf"scale\.yaml: no weights at {path}; get .*{command}"):
            check_weights(path, "scale.yaml")
    entries["tiny"]["accept"] = "https://example.org/licence"
    write(entries)
    with pytest.raises(UserError, match=r"licence is accepted at https://example.org/licence"):
        check_weights("weights/tiny", "scale.yaml")
    with pytest.raises(UserError, match="git checkout -- elsewhere"):
        check_weights("elsewhere", "scale.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiyn"], r"registry\.yaml: no `tiyn`; did you mean `tiny`\?"),
        (["tiny", "--mirror", "nowhere"], "--mirror: nowhere: no such folder"),
        (["tiny", "--mirror", "empty"], r"empty/owner/tiny: has no file \*\.safetensors"),
    ],
)
def test_a_mistake_is_named_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    Path("empty").mkdir()
    with pytest.raises(SystemExit):
        main(arguments)
    [line] = capsys.readouterr().err.splitlines()[-1:]
    assert re.search(message, line)


def test_too_small_a_disk_is_refused_before_anything_is_fetched(
    entries: dict[str, Any], mirror: Path
) -> None:
    entries["tiny"]["gigabytes"] = 1e9
    write(entries)
    with pytest.raises(UserError, match=r"weights/tiny: .* GB free, about 1e\+09 GB needed"):
        fetch("tiny", mirror)


def test_the_list_says_what_is_here(mirror: Path, capsys: pytest.CaptureFixture) -> None:
    main([])
    assert "-      weights/tiny" in capsys.readouterr().out
    fetch("tiny", mirror)
    main([])
    assert "whole  weights/tiny" in capsys.readouterr().out


class FakeHub:
    """The hub's two functions over a mirror; `asked` are the revisions that were asked for."""

    def __init__(self, mirror: Path, digest: str | None = None) -> None:
        self.mirror, self.digest, self.asked = mirror, digest, []

    def info(self, repo: str, revision: str | None, files_metadata: bool) -> SimpleNamespace:
        assert files_metadata
        self.asked.append(revision)
        files = sorted(path for path in (self.mirror / repo).iterdir())
        siblings = [
            SimpleNamespace(
                rfilename=path.name,
                lfs=SimpleNamespace(sha256=self.digest or sha256(path.read_bytes())),
            )
            for path in files
        ]
        return SimpleNamespace(sha="c" * 40, siblings=siblings)

    def download(self, repo: str, *, local_dir: Path, allow_patterns: list[str], **_: str) -> None:
        (local_dir / ".cache").mkdir(parents=True)
        for name in allow_patterns:
            (local_dir / name).write_bytes((self.mirror / repo / name).read_bytes())


@pytest.fixture
def hub(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(mirror)
    monkeypatch.setattr(sources, "HfApi", lambda: SimpleNamespace(model_info=fake.info))
    monkeypatch.setattr(sources, "snapshot_download", fake.download)
    return fake


def test_the_hubs_newest_commit_is_locked_and_asked_for_again(hub: FakeHub) -> None:
    fetch("tiny")
    folder = Path("weights/tiny")
    assert read_lock()["tiny"].revisions == {"owner/tiny": "c" * 40}
    assert not (folder / ".cache").exists()
    assert is_whole(folder)
    folder.rename("elsewhere")
    fetch("tiny")
    assert hub.asked == [None, "c" * 40]


def test_a_pinned_commit_is_asked_for(hub: FakeHub, entries: dict[str, Any]) -> None:
    entries["tiny"]["hub"][0]["revision"] = "a" * 40
    write(entries)
    fetch("tiny")
    assert hub.asked == ["a" * 40]


def test_a_file_that_is_not_as_the_hub_published_it_is_refused(hub: FakeHub) -> None:
    hub.digest = "0" * 64
    with pytest.raises(UserError, match=r"its SHA-256 is .*, its publisher says 0000"):
        fetch("tiny")
    assert not is_whole(Path("weights/tiny"))


@pytest.mark.usefixtures("hub")
def test_a_licence_to_accept_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise GatedRepoError("gated", response=MagicMock())

    monkeypatch.setattr(sources, "snapshot_download", refuse)
    with pytest.raises(UserError, match=r"accept its licence at https://huggingface.co/owner/tiny"):
        fetch("tiny")


def test_without_a_connection_the_mirror_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise HTTPError("name not known")

    monkeypatch.setattr(sources, "HfApi", lambda: SimpleNamespace(model_info=fail))
    with pytest.raises(
        UserError, match=r"owner/tiny: name not known: no connection; .* mirror=DIR"
    ):
        fetch("tiny")


class Server(BaseHTTPRequestHandler):
    """Serves MODEL, with ranges unless the path says so; keeps the ranges asked for."""

    asked: list[str]

    def do_GET(self) -> None:
        begin = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        self.asked.append(self.headers["Range"])
        if "whole" in self.path:
            self.answer(200, MODEL)
        elif begin >= len(MODEL):
            self.answer(416, b"")
        elif "short" in self.path:
            self.answer(206, MODEL[begin:], sent=100)
        else:
            self.answer(206, MODEL[begin:])

    def answer(self, status: int, body: bytes, sent: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:sent])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Server.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.01)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def web(entries: dict[str, Any], url: str, digest: str = sha256(MODEL)[:8]) -> None:
    entries["tiny"] |= {"hub": [], "web": [{"url": url, "sha256": digest}]}
    write(entries)


@pytest.mark.parametrize(
    ("path", "begin"), [("model.pth", 0), ("model.pth", 700), ("whole.pth", 700)]
)
def test_a_download_goes_on_where_it_stopped(
    path: str, begin: int, address: str, entries: dict[str, Any]
) -> None:
    web(entries, f"{address}/{path}")
    folder = Path("weights/tiny")
    folder.mkdir(parents=True)
    if begin:
        (folder / f"{path}.part").write_bytes(MODEL[:begin])
    fetch("tiny")
    assert Server.asked == [f"bytes={begin}-"]
    assert (folder / path).read_bytes() == MODEL


def test_a_download_whose_end_was_not_noticed_is_complete(
    address: str, entries: dict[str, Any]
) -> None:
    web(entries, f"{address}/model.pth")
    Path("weights/tiny").mkdir(parents=True)
    Path("weights/tiny/model.pth.part").write_bytes(MODEL)
    fetch("tiny")
    assert is_whole(Path("weights/tiny"))


def test_a_broken_download_is_kept_to_go_on_from(address: str, entries: dict[str, Any]) -> None:
    web(entries, f"{address}/short.pth")
    with pytest.raises(UserError, match=r"short\.pth: stopped at 100 of 8000 bytes; run it again"):
        fetch("tiny")
    assert Path("weights/tiny/short.pth.part").stat().st_size == 100


def test_a_download_of_another_digest_is_refused(address: str, entries: dict[str, Any]) -> None:
    web(entries, f"{address}/model.pth", digest="743b7d99")
    with pytest.raises(UserError, match=r"model\.pth: its SHA-256 is .*publisher says 743b7d99"):
        fetch("tiny")


def test_the_shipped_registry_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    registry.load_registry.cache_clear()
    entries = registry.load_registry()
    assert {"flux", "hpsv2", "hpsv3", "pickscore", "imagereward", "geneval"} <= set(entries)
    assert len({entry.folder for entry in entries.values()}) == len(entries)
    assert all(entry.hub or entry.web for entry in entries.values())
    assert json.dumps(registry.how_to_get("weights/geneval/clip")).count("fetch=geneval") == 1
