"""The detector and the colour classifier compute what the official code does, and say what fails.

The golden files were made by tests/parity/geneval/detector.py (mmdet 2.28.2 with OpenCV) and
tests/parity/geneval/colors.py (clip_benchmark 1.4.0), on random weights that depend on their names.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from eval.geneval import mask2former, summarize
from eval.geneval.colors import CONFIG, WEIGHTS, ColorNamer
from eval.geneval.mask2former import Mask2Former, build
from eval.geneval.mmdet import convert
from eval.geneval.records import COLORS
from eval.geneval.segments import boxes_of, pad, prepare, resize, segment
from eval.score import main
from leapalign.errors import UserError
from tests import tolerances
from tests.parity.geneval import pictures, scenes
from tests.parity.geneval.pictures import detector_state

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    with np.load(GOLDEN / "geneval_detector.npz") as file:
        arrays = dict(file)
    return arrays | json.loads(str(arrays.pop("about")))


@pytest.fixture(scope="module")
def state(golden: dict[str, Any]) -> dict[str, Tensor]:
    """An mmdet checkpoint, the index buffers that mmdet keeps in it included."""
    shapes = golden["shapes"]
    buffers = {name for name in shapes if name.endswith("index")}
    weights = detector_state({name: shapes[name] for name in shapes.keys() - buffers})
    return weights | {name: torch.zeros(shapes[name], dtype=torch.int64) for name in buffers}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    write_clip(folder, scenes.CONFIG)
    return folder


def write_clip(folder: Path, config: dict[str, Any]) -> None:
    model = {"model_cfg": config, "preprocess_cfg": {}}
    (folder / CONFIG).write_text(json.dumps(model))
    save_file(scenes.tiny_clip().state_dict(), folder / WEIGHTS)


def test_the_input_is_opencvs_bit_for_bit(golden: dict[str, Any]) -> None:
    for size, digest in golden["inputs"].items():
        height, width = map(int, size.split("x"))
        scale = min(1333 / max(height, width), 800 / min(height, width))
        new = int(height * scale + 0.5), int(width * scale + 0.5)
        padded = np.ascontiguousarray(pad(resize(pictures.picture(height, width), *new)))
        assert hashlib.sha256(padded.tobytes()).hexdigest() == digest, size
        prepared = prepare(pictures.picture(height, width))
        assert prepared.pixels.shape[2:] == padded.shape[:2]
        assert (prepared.height, prepared.width) == new


@pytest.mark.parametrize("size", pictures.SIZES)
def test_the_detections_are_mmdets(
    size: tuple[int, int], golden: dict[str, Any], state: dict[str, Tensor]
) -> None:
    model = build(state, Path("random.pth")).eval().double()
    prepared = prepare(pictures.picture(*size), *pictures.SMALL)
    with torch.inference_mode():
        outputs = model(pixel_values=prepared.pixels.double())
    logits = outputs.class_queries_logits[0], outputs.masks_queries_logits[0]
    official = {key.partition("/")[2]: golden[key] for key in golden if key.startswith(name(size))}
    for ours, theirs in zip(logits, ("class_logits", "mask_logits"), strict=True):
        assert np.abs(ours.numpy() - official[theirs]).max() <= tolerances.DETECTOR_LOGITS
    found = segment(*logits, prepared, *size)
    order = found.labels.argsort(stable=True)
    labels, boxes, scores, masks = (column[order].numpy() for column in found)
    assert (labels == official["labels"]).all()
    assert (boxes == official["boxes"][:, :4]).all()
    assert np.abs(scores - official["boxes"][:, 4]).max() <= tolerances.DETECTOR_SCORE
    assert (np.packbits(masks) == official["masks"]).all()
    assert len(np.unique(boxes, axis=0)) > 1
    assert len(np.unique(labels)) > 1


def name(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def test_mmdet_3s_names_are_the_same_weights(state: dict[str, Tensor]) -> None:
    renamed = {}
    for key, tensor in state.items():
        key = re.sub(r"(pixel_decoder.*)attentions\.0", r"\1self_attn", key)
        key = re.sub(r"(transformer_decoder.*)attentions\.0", r"\1cross_attn", key)
        key = re.sub(r"(transformer_decoder.*)attentions\.1", r"\1self_attn", key)
        renamed[re.sub(r"ffns\.0\.", "ffn.", key)] = tensor
    assert renamed.keys() != state.keys()
    ours, theirs = convert(renamed), convert(state)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape", "other"])
def test_another_checkpoint_is_refused_by_name(
    damage: str, state: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(b"")
    changed = dict(state)
    bias = "panoptic_head.transformer_decoder.layers.1.norms.1.bias"
    {
        "missing": lambda: changed.pop(bias),
        "unknown": lambda: changed.update({"bbox_head.weight": torch.zeros(1)}),
        "shape": lambda: changed.update({bias: torch.zeros(3)}),
        "other": changed.clear,
    }[damage]()
    with pytest.raises(UserError, match=r"other\.pth: no Mask2Former of mmdet"):
        build(changed, path)


def test_a_mask_has_its_tight_box_and_an_empty_one_zeros() -> None:
    masks = torch.rand(20, 13, 17, generator=torch.Generator().manual_seed(0)) > 0.98
    masks[3] = False
    for mask, box in zip(masks, boxes_of(masks).tolist(), strict=True):
        rows, columns = np.nonzero(mask.numpy())
        edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else 0
        assert box == (list(map(float, edges)) if edges else [0.0] * 4)


def test_an_empty_mask_scores_nothing() -> None:
    prepared = prepare(pictures.picture(32, 32), 32, 32)
    found = segment(torch.randn(4, 3), torch.full((4, 8, 8), -1.0), prepared, 32, 32)
    assert found.scores.tolist() == [0.0] * 8


def test_colors_are_the_official_classifiers(clip_folder: Path) -> None:
    namer = ColorNamer.load(clip_folder, CPU)
    with np.load(GOLDEN / "geneval_colors.npz") as file:
        official = file["logits"]
    logits, names = [], []
    for index, label in enumerate(scenes.LABELS):
        image, objects = scenes.scene(index)
        shown = Image.fromarray(image), [(tuple(box), mask) for box, mask in objects], label
        logits.append(namer.logits(*shown).numpy())
        names += namer(*shown)
    assert np.abs(np.concatenate(logits) - official).max() <= tolerances.COLOR_LOGITS
    assert official.std(axis=0).min() > 100 * tolerances.COLOR_LOGITS
    assert names == [COLORS[best] for best in official.argmax(1)]


def test_a_clip_with_another_activation_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path, scenes.CONFIG | {"quick_gelu": False})
    with pytest.raises(UserError, match="needs quick_gelu: true"):
        ColorNamer.load(tmp_path, CPU)


@pytest.fixture
def weights(tmp_path: Path, state: dict[str, Tensor], clip_folder: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    checkpoint = {"meta": {"CLASSES": ("person",), "epoch": 50}, "state_dict": state}
    torch.save(checkpoint, folder / "mask2former_tiny.pth")
    (folder / "clip").symlink_to(clip_folder)
    return folder


def geneval(weights: Path, images: Path, out: Path) -> list[str]:
    options = {"--metric": "geneval", "--weights": weights, "--images": images, "--out": out}
    return [str(part) for option in options.items() for part in option]


def test_a_blind_detector_is_refused_before_it_judges(weights: Path) -> None:
    with pytest.raises(UserError, match=r"blind on cpu: .* person in a portrait 0\.\d\d, below"):
        Mask2Former.load(weights, CPU)


def test_a_folder_needs_one_checkpoint(weights: Path) -> None:
    (weights / "mask2former_other.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"has 2 files mask2former\*\.pth, needs one"):
        Mask2Former.load(weights, CPU)


def test_the_command_line_judges_with_the_networks(
    images: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mask2former, "SURE", 0.0)
    prompts = tmp_path / "prompts.jsonl"
    clauses = [{"class": "bench", "count": 1, "color": color} for color in COLORS[:3]]
    lines = [
        {"tag": "colors", "include": [one], "prompt": f"a photo of a {one['color']} bench"}
        for one in clauses
    ]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (images / "manifest.jsonl").unlink()
    out = tmp_path / "geneval.csv"
    main([*geneval(weights, images, out), "--prompts", str(prompts)])
    records = [json.loads(line) for line in out.with_suffix(".jsonl").read_text().splitlines()]
    assert [json.loads(one["metadata"]) for one in records] == lines
    assert summarize(records)["total_prompts"] == 3


def test_a_class_that_the_detector_cannot_see_is_named_before_it_is_loaded(
    images: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "geneval.csv"
    with pytest.raises(SystemExit):
        main(geneval(weights, images, out))
    assert "00000.png: metadata: no class `cube`" in capsys.readouterr().err
