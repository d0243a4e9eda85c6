"""What HPSv3 is asked: the official wording, or the one that a folder of weights carries."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from leapalign.errors import UserError

REWARD_TOKEN = "<|Reward|>"
FILE = "instruction.txt"
PROMPT = "{text_prompt}"

# The wording is the authors'; it is read from their package (hpsv3 1.0.0), never copied.
PACKAGE, SOURCE = "hpsv3", "hpsv3/dataset/data_collator_qwen.py"
HASHES = {
    "INSTRUCTION": "0393599dad45a971903d1d62a3acf9bad3ccccdafa7f40f680523419e1f68b7a",
    "prompt_with_special_token": "2471faca094ae5bd6fe17b71dce20c3d7583625545e235889f7e74e7eeb69d0a",
}
OFFICIAL_PIXELS = 256 * 28 * 28


@dataclass(frozen=True, slots=True)
class Instruction:
    """A wording with a place for the prompt, and the image's area where it is prescribed."""

    text: str
    pixels: int | None = None

    def fill(self, prompt: str) -> str:
        """The wording for one prompt."""
        return self.text.replace(PROMPT, prompt)


def read_instruction(folder: Path) -> Instruction:
    """The folder's own instruction.txt, or else the official wording.

    Raises:
        UserError: The wording lacks its reward token, or the official package is missing or
            altered.
    """
    file = folder / FILE
    if not file.is_file():
        return Instruction(official_text(), OFFICIAL_PIXELS)
    text = file.read_text(encoding="utf-8")
    for part in (PROMPT, REWARD_TOKEN):
        if text.count(part) != 1:
            raise UserError(f"{file}: must contain {part} exactly once")
    return Instruction(text)


def official_text() -> str:
    """Instruction and closing sentence, read from the installed official package's source."""
    try:
        source = Path(str(metadata.distribution(PACKAGE).locate_file(SOURCE)))
        module = ast.parse(source.read_text(encoding="utf-8"))
    except (metadata.PackageNotFoundError, OSError) as error:
        raise UserError(
            "HPSv3's instruction ships in its authors' package: pip install --no-deps hpsv3==1.0.0"
        ) from error
    constants = {
        target.id: node.value.value
        for node in module.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }
    for name, expected in HASHES.items():
        if hashlib.sha256(constants.get(name, "").encode()).hexdigest() != expected:
            raise UserError(f"{source}: {name} is not that of hpsv3 1.0.0; install that version")
    return "".join(constants[name] for name in HASHES)
