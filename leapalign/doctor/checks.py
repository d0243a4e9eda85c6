"""What can be wrong before anything is computed: settings, folders, licences, disks.

Nothing here knows torch, so it is asked before every workflow; what is wrong is a `UserError` that
names file or key, and the fix.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from leapalign.cache import folder as cache_folder
from leapalign.doctor import folders
from leapalign.doctor.machine import GIGABYTE
from leapalign.errors import UserError, remedy
from leapalign.files import require_writable, skew
from leapalign.record import package_versions
from leapalign.registry import how_to_get, registered
from leapalign.settings import RunSettings, TrainSettings
from leapalign.weights import SUFFIXES, check_weights

CHECKPOINTS = 3
"""The last two, and the one that is being written."""

KEPT_STATES = 4
"""Float32 numbers that a checkpoint has of each weight: itself, two moments, the average."""

FLOAT32 = 4
WIDTH = {"float32": 4, "bfloat16": 2}

SKEW = 2.0
"""Seconds by which two clocks may differ: a job takes longer."""

PNG = 2.0
"""Bytes of a pixel in an image file, about."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check, for people."""

    level: Literal["ok", "warning", "refused"]
    subject: str
    text: str


def refuse(settings: TrainSettings) -> None:
    """Refuse a training whose settings do not fit its model's folder, or each other.

    Raises:
        UserError: naming key, file and fix.
    """
    _refuse_shares(settings)
    folder = folders.found(settings.backbone.path)
    if folder is None or not (folder / "model_index.json").is_file():
        return  # of the hub, or no pipeline's: its own loader will say what it wants
    refuse_partial(folder)
    if folders.pipeline_of(folder) in (folders.FLUX, folders.SD3):
        _refuse_resolution(settings, folder)
        _refuse_guidance(settings, folder)


def refuse_trainings(
    runs: Sequence[RunSettings], results: Path, watched: Mapping[str, int]
) -> None:
    """Refuse trainings that do not fit their models' folders, or that a disk has no room for.

    Args:
        runs: one seed of each.
        results: the folder where they write.
        watched: run → iterations between its snapshots.

    Raises:
        UserError: naming the run, key or file, and the fix.
    """
    for run in runs:
        try:
            if run.train is not None:
                refuse(run.train)
        except UserError as error:
            raise UserError(f"run `{run.run}` at scale {run.generate.scale}: {error}") from None
    for found in disks(runs, results, watched):
        if found.level == "refused":
            raise UserError(found.text)


def _refuse_shares(settings: TrainSettings) -> None:
    """Every process makes as many of an update's images as the others."""
    devices, batch = settings.compute.devices, settings.training.batch
    updates = int(settings.method.settings.get("updates_per_iteration", 1))
    images = batch // updates
    of = f"{images} images an update" if updates > 1 else f"a batch of {images}"
    count = _largest_divisor(images, devices)
    if images < devices:
        raise UserError(
            f"compute.devices: {devices} processes, but {of}: there are more processes than "
            f"prompts; set it to {count}, or raise training.batch to {devices * updates}"
        )
    if images % devices:
        raise UserError(
            f"training.batch: {of} cannot be shared evenly by {devices} processes; set "
            f"compute.devices to {count}, or training.batch to "
            f"{(images // devices + 1) * devices * updates}"
        )


def _largest_divisor(number: int, most: int) -> int:
    return max(n for n in range(1, min(number, most) + 1) if number % n == 0)


def refuse_partial(folder: Path) -> None:
    """Refuse a pipeline's folder that lacks a part, a configuration or a shard of the weights.

    Raises:
        UserError: naming the file.
    """
    if folder.is_relative_to(folders.MODELS):
        return
    again = how_to_get(folder) or "get the folder again"
    for part in folders.parts_of(folder):
        if not (folder / part).is_dir():
            raise UserError(f"{folder / part}: missing, though model_index.json names it; {again}")
        for index in sorted((folder / part).glob("*.index.json")):
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            missing = sorted(name for name in files if not (folder / part / name).is_file())
            if missing:
                raise UserError(
                    f"{folder / part / missing[0]}: missing, one of {len(missing)} of {len(files)} "
                    f"that {index.name} names; {again}"
                )
        weighted = part == "vae" or part.startswith(("transformer", "text_encoder"))
        if weighted and not any(file.suffix in SUFFIXES for file in (folder / part).iterdir()):
            raise UserError(f"{folder / part}: no .safetensors in it; {again}")


def _refuse_resolution(settings: TrainSettings, folder: Path) -> None:
    token, resolution = folders.token_side(folder), settings.resolution
    if resolution % token:
        below = resolution // token * token
        raise UserError(
            f"resolution: {resolution} is not a multiple of {token}, the size of one latent token; "
            f"set it to {below or token} or {below + token}"
        )


def _refuse_guidance(settings: TrainSettings, folder: Path) -> None:
    guidance, config = settings.training.guidance, folders.read(folder, "transformer")
    if guidance > 1.0 and config.get("guidance_embeds") is False:
        raise UserError(
            f"training.guidance: {guidance:g}, but this model has none (guidance_embeds is false "
            f"in {folder / 'transformer/config.json'}); set it to 1"
        )


def versions() -> Finding:
    """The packages that numbers depend on."""
    found = package_versions()
    shown = ("torch", "diffusers", "transformers", "accelerate")
    return Finding("ok", "versions", ", ".join(f"{name} {found.get(name, '?')}" for name in shown))


def weights(path: str, source: str) -> Finding:
    """Whether weights are there, and whole as far as their digests are known."""
    try:
        check_weights(path, source)
        if (Path(path) / "model_index.json").is_file():
            refuse_partial(Path(path))
    except UserError as error:
        return Finding("refused", path, str(error))
    return Finding("ok", path, "weights found")


def licence(path: str) -> Finding | None:
    """Under which terms weights may be used; None where the registry does not know them."""
    known = registered(path)
    if known is None:
        return None
    _, entry = known
    terms = f": {entry.terms}" if entry.terms else ""
    return Finding("warning" if entry.terms else "ok", path, f"licence {entry.license}{terms}")


def writable(subject: str, folder: Path) -> Finding:
    """Whether files can be written in a folder, and are dated by a clock that goes as ours."""
    try:
        require_writable(folder)
        seconds = skew(folder)
    except OSError as error:
        return Finding("refused", subject, f"{folder}: {error.strerror}; {remedy(error)}")
    if abs(seconds) > SKEW:
        differ = f"{abs(seconds):.0f} s {'ahead' if seconds > 0 else 'behind'}"
        return Finding(
            "warning",
            subject,
            f"{folder}: its disk's clock is {differ} of this machine's, so Snakemake may make anew "
            "what is done; let both follow one time server, or call Snakemake with "
            "`--rerun-triggers params input`",
        )
    return Finding("ok", subject, f"{folder} can be written")


def cache() -> Finding:
    """Whether digests and measurements can be kept; if not, each is made anew when it is needed."""
    try:
        require_writable(cache_folder())
    except OSError as error:
        return Finding(
            "warning",
            "cache",
            f"{cache_folder()}: {error.strerror}; set `cache:` in config.yaml or XDG_CACHE_HOME to "
            "a writable folder: what cannot be kept is found out anew each time",
        )
    return Finding("ok", "cache", f"{cache_folder()} can be written")


def disks(
    runs: Sequence[RunSettings], results: Path, watched: Mapping[str, int]
) -> Iterator[Finding]:
    """Whether the disks have room for all that trainings have yet to write.

    Args:
        runs: the trainings.
        results: the folder where they write; the cache may be on the same disk.
        watched: run → iterations between its snapshots.
    """
    kept = cache_folder()
    to_write = written(runs, results, watched)
    to_keep = max(0.0, encoded(runs) - _bytes(kept / "encodings"))
    if _nearest(results).stat().st_dev == _nearest(kept).stat().st_dev:
        yield disk(results, to_write + to_keep, "`results:` or `cache:`")
    else:
        yield disk(results, to_write)
        yield disk(kept, to_keep, "`cache:`")


def disk(folder: Path, needed: float, keys: str = "`results:`") -> Finding:
    """Whether a folder's disk has room for what is to be written there.

    Args:
        folder: it need not exist.
        needed: bytes.
        keys: of config.yaml, which name what could be elsewhere.
    """
    free = shutil.disk_usage(_nearest(folder)).free
    text = f"{folder}: {needed / GIGABYTE:.3g} GB needed, {free / GIGABYTE:.3g} GB free"
    if needed <= free:
        return Finding("ok", "disk", text)
    elsewhere = f"set {keys} in config.yaml to another disk"
    return Finding("refused", "disk", f"{text}; free some, or {elsewhere}")


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    there = folder.absolute()
    return next(path for path in [there, *there.parents] if path.exists())


def _bytes(folder: Path) -> int:
    """What the files of a folder take; 0 where there is none."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def written(runs: Sequence[RunSettings], results: Path, watched: Mapping[str, int]) -> float:
    """Bytes that trainings have yet to write, beside those of earlier calls.

    Each leaves weights, snapshots and images; while it goes on there are checkpoints too, with the
    snapshots so far, of which those of the largest count.
    """
    left, passing = 0.0, [0.0]
    for run in runs:
        if run.train is None:
            continue
        size, every = _parameters(run), watched.get(run.run)
        weights = size * WIDTH[run.train.compute.precision]
        snapshots = weights * ((run.train.training.iterations - 1) // every) if every else 0
        of = f"{run.run}/seed{run.train.seed}"
        there = _bytes(results / "train" / of) + _bytes(results / "images" / of)
        left += max(0.0, weights + snapshots + _images(run) - there)
        states = CHECKPOINTS * KEPT_STATES * FLOAT32 * size
        passing.append(states + snapshots - _bytes(results / "checkpoints" / of))
    return left + max(passing)


def encoded(runs: Sequence[RunSettings]) -> float:
    """Bytes of the encodings of all prompts that trainings draw, each once."""
    sizes: dict[tuple[str, str], float] = {}
    for run in runs:
        folder = Path(run.generate.backbone.path)
        if run.train is None or not (folder / "model_index.json").is_file():
            continue
        if folders.pipeline_of(folder) not in folders.T5_TOKENS:
            continue
        budget, width = run.train.training, WIDTH[run.train.compute.precision]
        # A policy gradient makes a group of images of each prompt.
        drawn = budget.iterations * (budget.batch // run.train.method.settings.get("group", 1))
        count = min(_lines(budget.prompts), drawn)
        size = count * math.prod(folders.prompt(folder)) * width
        key = str(folder), budget.prompts
        sizes[key] = max(size, sizes.get(key, 0.0))
    return sum(sizes.values())


def _parameters(run: RunSettings) -> int:
    """Those that a run trains; an adapter's are next to nothing."""
    if run.train is None or run.train.training.adapter is not None:
        return 0
    folder = Path(run.train.backbone.path) / "transformer"
    return sum(stored(file) for file in folder.glob("*.safetensors"))


def stored(file: Path) -> int:
    """Numbers that a safetensors file holds, by its header."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(of["shape"]) for name, of in header.items() if name != "__metadata__")


def _images(run: RunSettings) -> float:
    """Bytes of a run's evaluated images, as PNG."""
    evaluation = run.generate.evaluation
    prompts = evaluation.limit or _lines(evaluation.prompts)
    return prompts * evaluation.images_per_prompt * PNG * run.generate.resolution**2


def _lines(path: str) -> int:
    try:
        return Path(path).read_bytes().count(b"\n")
    except OSError:
        return 0


def findings_of(paths: Iterable[str], source: str) -> Iterator[Finding]:
    """Weights and licences."""
    for path in paths:
        yield weights(path, source)
        terms = licence(path)
        if terms is not None:
            yield terms
