"""Our scorers on the same tiny checkpoints and cases as the official code, and the table of both.

    python -m tests.parity.compare

prints the table and writes it to `golden/TABLE.md`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from PIL import Image

from leapalign.errors import UserError
from leapalign.rewards import Reward, load_reward
from leapalign.rewards.images import to_tensor
from leapalign.rewards.instruction import official_text
from tests.parity import checkpoints
from tests.parity.cases import Case, cases, digest

GOLDEN = Path(__file__).parent / "golden"
METRICS = ("hpsv2", "pickscore", "hpsv3", "imagereward")

CHANNELS = "the official processor takes 3 rows of pixels for 3 channels"
DEVIATIONS = {
    ("pickscore", "rgb-2x3"): CHANNELS,
    ("hpsv3", "prompt: reward token"): "rated at the prompt's token, not the question's; refused",
}
"""Where ours differs on purpose from a score that the official code gives, and why."""

WRITE: dict[str, Callable[..., object]] = {
    "hpsv2": checkpoints.write_hpsv2,
    "pickscore": checkpoints.write_pickscore,
    "hpsv3": lambda folder, shapes: checkpoints.write_hpsv3(folder, shapes, official_text()),
    "imagereward": checkpoints.write_imagereward,
}


@dataclass(frozen=True)
class Row:
    """One case: our score and the official one, or why there is none."""

    case: str
    ours: float | str
    official: float | str

    @property
    def difference(self) -> float | None:
        """|ours - official|, where both are numbers."""
        if isinstance(self.ours, str) or isinstance(self.official, str):
            return None
        return abs(self.ours - self.official)


@dataclass(frozen=True)
class Parity:
    """One scorer's rows, and the gap between its two paths on the RGB images.

    Attributes:
        gaps: |score - score_pil| by case.
    """

    metric: str
    versions: dict[str, str]
    rows: tuple[Row, ...]
    gaps: dict[str, float]

    @property
    def compared(self) -> dict[str, float]:
        """The differences by case, deviations left out."""
        return {
            row.case: row.difference
            for row in self.rows
            if row.difference is not None and (self.metric, row.case) not in DEVIATIONS
        }


def read_golden(metric: str) -> dict[str, Any]:
    """What the official code said."""
    return json.loads((GOLDEN / f"{metric}.json").read_text(encoding="utf-8"))


def write_weights(metric: str, folder: Path) -> None:
    """The tiny checkpoint that the official code was given."""
    WRITE[metric](folder, read_golden(metric)["tensors"])


@cache
def compare(metric: str) -> Parity:
    """Score every case with ours, on the checkpoint that the official code was given."""
    golden = read_golden(metric)
    with tempfile.TemporaryDirectory() as place:
        weights, images = Path(place, "weights"), Path(place, "images")
        weights.mkdir()
        images.mkdir()
        write_weights(metric, weights)
        found = cases(images)
        assert digest(images) == golden["images"], "the images are not those of the golden file"
        reward = load_reward(metric, weights)
        rows = tuple(
            Row(case.name, attempt(reward, images, case), golden["scores"][case.name])
            for case in found
        )
        return Parity(metric, golden["versions"], rows, dict(gaps(reward, images, found)))


def attempt(reward: Reward, folder: Path, case: Case) -> float | str:
    """Our score of the file, or the reason that there is none."""
    try:
        with Image.open(folder / case.image) as image:
            return reward.score_pil([image], [case.prompt]).item()
    except UserError as error:
        return str(error)


@torch.no_grad()
def gaps(reward: Reward, folder: Path, found: list[Case]) -> Iterator[tuple[str, float]]:
    """Between the training and the evaluation path, on 8-bit RGB images that fit both."""
    for case in found:
        if case.name.startswith("rgb-"):
            try:
                with Image.open(folder / case.image) as image:
                    exact = reward.score_pil([image], [case.prompt])
                    pixels = to_tensor(image)[None]
            except UserError:
                continue
            yield case.name, (reward.score(pixels, [case.prompt]) - exact).abs().item()


def summary(parity: Parity) -> str:
    """One line: the largest difference, the gap, the versions."""
    versions = ", ".join(f"{name} {version}" for name, version in parity.versions.items())
    worst = max(parity.compared, key=parity.compared.__getitem__)
    return (
        f"| {parity.metric} | {len(parity.compared)} | {parity.compared[worst]:.1e} ({worst}) | "
        f"{mean(parity.gaps.values()):.1e} / {max(parity.gaps.values()):.1e} | {versions} |"
    )


def table() -> str:
    """All scorers in Markdown: a summary, then one row a case."""
    compared = [compare(metric) for metric in METRICS]
    lines = [
        "# Our scorers beside the official code",
        "",
        "Tiny random checkpoints in the official formats, on the CPU, in float32; made by "
        "`python -m tests.parity.compare`.",
        "",
        "| scorer | cases | largest difference | training path, mean / largest gap | official |",
        "|---|---|---|---|---|",
        *map(summary, compared),
        "",
        "`(a)`: the official code fails here; `(b)`: ours refuses; `(c)`: a deviation, explained "
        "at the end.",
        "16-bit files are clipped by the official code as shown; `eval.score` refuses them before "
        "any scorer sees them.",
        "",
        "| case | " + " | ".join(f"{m} ours | official | difference" for m in METRICS) + " |",
        "|---|" + "---|" * (3 * len(METRICS)),
    ]
    for rows in zip(*(parity.rows for parity in compared), strict=True):
        cells = [cell(metric, row) for metric, row in zip(METRICS, rows, strict=True)]
        lines.append(f"| {rows[0].case} | " + " | ".join(cells) + " |")
    lines += ["", "Deviations:", ""]
    lines += [f"- {metric}, {case}: {why}." for (metric, case), why in DEVIATIONS.items()]
    refused = {row.ours: None for parity in compared for row in parity.rows if text(row.ours)}
    lines += ["", "What is refused, and why:", "", *(f"- {reason}" for reason in refused)]
    return "\n".join(lines) + "\n"


def cell(metric: str, row: Row) -> str:
    """Ours, the official score, their difference."""
    mark = " (c)" if (metric, row.case) in DEVIATIONS else ""
    ours = "(b)" if text(row.ours) else f"{row.ours:.6f}"
    official = f"(a) {row.official}" if text(row.official) else f"{row.official:.6f}"
    difference = "" if row.difference is None else f"{row.difference:.1e}"
    return f"{ours} | {official} | {difference}{mark}"


def text(value: float | str) -> bool:
    """Whether there is a reason in place of a score."""
    return isinstance(value, str)


def main() -> None:
    """Print the table and write it beside the goldens."""
    torch.set_num_threads(1)
    made = table()
    (GOLDEN / "TABLE.md").write_text(made, encoding="utf-8")
    sys.stdout.write(made)


if __name__ == "__main__":
    main()
