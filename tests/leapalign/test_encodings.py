"""A prompt is encoded once and alone; then its encoding is on disk and the text encoders gone."""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import shutil
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file

from leapalign import cache
from leapalign.backbones.encodings import EncodedPrompts, Encoder, Encodings
from leapalign.backbones.flux import Flux
from leapalign.errors import UserError
from leapalign.settings import Method, TrainSettings
from leapalign.training import prepare
from leapalign.weights import check_weights, fingerprint
from tests.leapalign.problems import PROMPTS

MORE = ["a tree", "two trees"]


class Counted:
    """An encoder that counts how often it is loaded, and what it encodes."""

    def __init__(self) -> None:
        self.loaded, self.encoded = 0, []

    @contextmanager
    def __call__(self) -> Iterator[Encoder]:
        self.loaded += 1
        yield self.encode

    def encode(self, prompt: str) -> EncodedPrompts:
        self.encoded.append(prompt)
        generator = torch.Generator().manual_seed(len(prompt))
        tokens = torch.randn(1, 3, 4, generator=generator).bfloat16()
        return EncodedPrompts(tokens, torch.randn(1, 2, generator=generator))


def equal(a: EncodedPrompts, b: EncodedPrompts) -> bool:
    return torch.equal(a.tokens, b.tokens) and torch.equal(a.pooled, b.pooled)


def test_the_encoders_are_loaded_once_and_only_for_what_is_missing(tmp_path: Path) -> None:
    first = Counted()
    encodings = Encodings(tmp_path, first)
    encodings.prefetch([*PROMPTS, PROMPTS[0]])
    assert (first.loaded, first.encoded) == (1, PROMPTS)
    encodings.prefetch(PROMPTS)
    fresh = encodings([PROMPTS[1], PROMPTS[0], PROMPTS[1]])
    assert first.loaded == 1

    second = Counted()
    again = Encodings(tmp_path, second)
    assert equal(again([PROMPTS[1], PROMPTS[0], PROMPTS[1]]), fresh)
    assert again([PROMPTS[0]]).tokens.dtype == torch.bfloat16
    again.prefetch([PROMPTS[0], *MORE])
    assert (second.loaded, second.encoded) == (1, MORE)


@pytest.mark.parametrize("damage", ["cut", "flipped", "other", "empty"])
def test_a_damaged_entry_is_computed_anew(tmp_path: Path, damage: str) -> None:
    encodings = Encodings(tmp_path, Counted())
    whole = encodings(PROMPTS[:1])
    path = encodings.path(PROMPTS[0])
    data = path.read_bytes()
    if damage == "other":
        save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    else:
        spoilt = {"cut": data[:-5], "flipped": data[:-1] + bytes([data[-1] ^ 1]), "empty": b""}
        path.write_bytes(spoilt[damage])
    counted = Counted()
    assert equal(Encodings(tmp_path, counted)(PROMPTS[:1]), whole)
    assert counted.encoded == PROMPTS[:1]
    assert path.read_bytes() == data


def test_a_cache_that_cannot_be_written_is_done_without_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As root any folder can be written: here a file stands where the folder should be."""
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache._say_once.cache_clear()
    counted = Counted()
    encodings = Encodings(tmp_path / "blocked/encodings", counted)
    encodings.prefetch(PROMPTS)
    assert equal(encodings(PROMPTS), Encodings(tmp_path, Counted())(PROMPTS))
    assert counted.encoded == PROMPTS
    said = capsys.readouterr().err
    assert said.count("cannot be written") == 1
    assert "set `cache:` in config.yaml" in said


def test_the_folder_of_the_cache_is_the_users_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "leapalign"
    monkeypatch.setenv("LEAPALIGN_CONFIG", '{"cache": "~/elsewhere"}')
    assert cache.folder() == Path.home() / "elsewhere"


def _encode_all(folder: Path) -> None:
    Encodings(folder, Counted())(PROMPTS)


def test_processes_share_a_cache(tmp_path: Path) -> None:
    """All write the same files at once; each reads whole ones."""
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=_encode_all, args=(tmp_path,)) for _ in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0] * 4
    assert len(list(tmp_path.iterdir())) == len(PROMPTS)
    counted = Counted()
    Encodings(tmp_path, counted)(PROMPTS)
    assert counted.loaded == 0


@pytest.fixture
def folder(tiny_flux_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A FLUX folder that may be spoilt, and a cache that is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(tiny_flux_folder, tmp_path / "flux"))


@torch.no_grad()
def test_encodings_are_the_stock_pipelines_bit_for_bit_in_any_company(folder: Path) -> None:
    together = Flux.load(folder, 64).encode([*PROMPTS, PROMPTS[1]])
    read = Flux.load(folder, 64).encode(PROMPTS)
    pipeline = FluxPipeline.from_pretrained(folder)
    length = pipeline.tokenizer_2.model_max_length
    for i, prompt in enumerate(PROMPTS):
        tokens, pooled, _ = pipeline.encode_prompt(prompt, None, max_sequence_length=length)
        assert equal(together[i : i + 1], EncodedPrompts(tokens, pooled))
        assert equal(read[i : i + 1], together[i : i + 1])
    assert torch.equal(together.tokens[1], together.tokens[3])


def test_the_text_encoders_are_there_only_while_they_encode(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[weakref.ref[Any]] = []
    load = FluxPipeline.from_pretrained

    def watched(*args: Any, **kwargs: Any) -> FluxPipeline:
        pipeline = load(*args, **kwargs)
        if pipeline.text_encoder_2 is not None:
            alive.append(weakref.ref(pipeline.text_encoder_2))
        return pipeline

    monkeypatch.setattr(FluxPipeline, "from_pretrained", watched)
    flux = Flux.load(folder, 64)
    assert not alive
    flux.prefetch(PROMPTS, 3.5)
    gc.collect()
    assert [one() for one in alive] == [None]
    flux.field(PROMPTS, 3.5)
    Flux.load(folder, 64).field(PROMPTS, 3.5)
    assert len(alive) == 1


@pytest.mark.parametrize("changed", ["text_encoder_2/config.json", "tokenizer/tokenizer.json", ""])
def test_other_text_encoders_or_another_precision_have_other_encodings(
    folder: Path, changed: str
) -> None:
    before = Flux.load(folder, 64).encodings.path("a")
    assert Flux.load(folder, 64).encodings.path("a") == before
    (folder / "transformer/note").write_text("no part of the text encoders")
    assert Flux.load(folder, 64).encodings.path("a") == before
    if changed:
        with (folder / changed).open("a") as file:
            file.write("\n")
        assert Flux.load(folder, 64).encodings.path("a") != before
    else:
        half = Flux.load(folder, 64, encoder_dtype=torch.bfloat16)
        assert half.encodings.path("a") != before
        assert half.encode(["a"]).tokens.dtype == torch.bfloat16


def test_a_hub_id_is_its_snapshot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, from a hub cache as a download leaves it."""
    model = folder.parent / "hub/models--owner--name"
    (model / "snapshots").mkdir(parents=True)
    (model / "snapshots" / ("0" * 40)).symlink_to(folder)
    (model / "refs").mkdir()
    (model / "refs/main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder.parent / "hub"))
    here, there = Flux.load(folder, 64), Flux.load("owner/name", 64)
    assert there.encodings.path("a") == here.encodings.path("a")
    assert fingerprint("owner/name") == fingerprint(str(folder))
    check_weights("owner/name", "backbone.path")
    with pytest.raises(UserError, match=r"owner/other: not a loadable FLUX"):
        Flux.load("owner/other", 64)
    with pytest.raises(UserError, match=r"download it with `hf download owner/other`"):
        check_weights("owner/other", "backbone.path")


def shard(folder: Path) -> Path:
    """Split the transformer's weights in two, as diffusers saves large ones; the second file."""
    FluxPipeline.from_pretrained(folder).transformer.save_pretrained(
        folder / "transformer", max_shard_size="60KB"
    )
    return sorted((folder / "transformer").glob("*-of-*.safetensors"))[1]


def test_a_sharded_transformer_is_the_same(folder: Path) -> None:
    before = Flux.load(folder, 64).transformer.state_dict()
    shard(folder)
    after = Flux.load(folder, 64).transformer.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_partial_folder_is_refused_by_the_name_of_what_is_missing(folder: Path) -> None:
    whole = folder.parent / "whole"
    shutil.copytree(folder, whole)

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            Flux.load(folder, 64)
        shutil.rmtree(folder)
        shutil.copytree(whole, folder)

    missing = shard(folder)
    missing.unlink()
    refused(rf"'transformer' lacks {missing.name}, which its index lists")
    (folder / "text_encoder_2/model.safetensors").unlink()
    refused(r"'text_encoder_2' has no weights")
    shutil.rmtree(folder / "tokenizer")
    refused(r"its folder 'tokenizer' is missing")
    vae = folder / "vae/diffusion_pytorch_model.safetensors"
    os.truncate(vae, vae.stat().st_size - 8)
    refused(r"'vae' has a damaged diffusion_pytorch_model\.safetensors")
    file = folder / "transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["x_embedder.weight"]
    save_file(tensors, file)
    refused(r"'transformer' lacks 1 of its tensors, x_embedder\.weight")


def test_the_decoder_stays_in_float32_and_a_bfloat16_folder_trains_float32_weights(
    folder: Path,
) -> None:
    FluxPipeline.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    half = Flux.load(folder, 64, dtype=torch.bfloat16)
    assert half.transformer.dtype == torch.bfloat16
    assert half.pipeline.vae.dtype == torch.float32
    trained = Flux.load(folder, 64, encoder_dtype=torch.bfloat16)
    assert trained.transformer.dtype == torch.float32
    for mine, stored in zip(
        trained.transformer.parameters(), half.transformer.parameters(), strict=True
    ):
        assert torch.equal(mine, stored.float())


@pytest.mark.parametrize(
    "method",
    [Method("leapalign.leap:LeapAlign"), Method("baselines.flow_grpo:FlowGRPO", {"group": 2})],
)
def test_no_training_needs_the_text_encoders_once_it_has_begun(
    settings: TrainSettings, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = dataclasses.replace(settings.training, iterations=3)
    run = prepare(dataclasses.replace(settings, method=method, training=budget), "cpu")
    monkeypatch.setattr(Flux, "text_encoders", lambda *_: pytest.fail("loaded again"))
    for _ in range(3):
        run.iterate()


def test_a_digest_is_had_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leapalign").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.truncate(2**26)
    assert len(fingerprint(str(tmp_path / "large.safetensors"))["large.safetensors"]) == 64
