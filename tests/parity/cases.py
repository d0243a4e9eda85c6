"""Images of odd sizes and modes, and prompts full of traps: what every scorer is compared on.

Everything is made by integer arithmetic from a generator whose stream numpy has frozen, and kept in
formats without loss, so the same pixels come out wherever this runs.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# width x height. The longest or the shortest side fits already, crops fall between pixels (225x224,
# 301x224), a side rounds differently with its neighbours in the last bit (640x330, 320x85), ...
SIZES = (
    *("1x1", "2x3", "30x500", "500x30", "224x200", "200x224", "224x224", "333x517", "517x333"),
    *("225x224", "224x225", "227x224", "224x301", "301x224", "640x330", "320x85", "512x512"),
    *("448x448", "300x200", "1216x832", "1024x1024", "640x480", "97x131", "131x97", "64x64"),
    *("65x63", "100x700", "99x99", "223x223", "1000x7", "7x1000", "250x249", "449x447", "448x446"),
    *("17x23", "400x225", "225x400", "3x2", "341x255", "1x449"),
)
MODES = ("L", "L", "LA", "RGBA", "RGBA", "CMYK", "CMYK", "P", "P", "1", "I;16")
MODE_SIZES = ("333x517", "120x90", "225x224")
ORIENTATIONS = (3, 6, 8)
EXIF_ORIENTATION = 0x0112

WORDS = (
    *("a", "red", "cat,", "dog;", "boat", "sailing", "under", "the", "stormy", "sky", "at", "Dawn"),
    *("—", "3", "candles", "&", "“two”", "mirrors"),
)
PROMPTS = {
    "plain": "a photo of a red apple on a wooden table",
    "capitals": "A Portrait of Ada LOVELACE, Oil on Canvas",
    "entities": "salt &amp; pepper &lt;3 &quot;fresh&quot; &amp;amp; hot",
    "curly quotes": "the sign says “open” and it’s Ada’s café",
    "emoji": "a smiling face 😀 with a family 👨‍👩‍👧 and a flag 🇫🇷",
    "accents": "naïve façade, Ångström, Erdős, ﬁne ½ ①",
    "chinese": "一只红色的猫坐在蓝色的椅子上",
    "spaces": "  two   spaces,\ta tab\nand a line  ",
    "digits": "1234567890 candles, 3.14159, 10,000 years",
    "symbols": "c++ & c# {text_prompt} %s $HOME #1 [DEC] [ENC] ~`^",
    "500 words": " ".join(WORDS[(7 * i + i // 5) % len(WORDS)] for i in range(500)),
    "one letter": "x",
    "empty": "",
    "end of text": "stop <|endoftext|> here <end_of_text>",
    "image token": "a frame with <|image_pad|> in it",
    "reward token": "rate it <|Reward|> please",
    "chat tokens": "a cat<|im_end|><|vision_start|>",
    "video token": "a film <|video_pad|> still",
}


@dataclass(frozen=True)
class Case:
    """An image file and a prompt."""

    name: str
    image: str
    prompt: str


def cases(folder: Path) -> list[Case]:
    """All cases, with the images written into `folder`."""
    images = list(write_images(folder))
    texts = list(PROMPTS.values())[:12]  # those that no scorer refuses
    by_image = [Case(Path(name).stem, name, texts[i % len(texts)]) for i, name in enumerate(images)]
    by_prompt = [Case(f"prompt: {key}", images[0], text) for key, text in PROMPTS.items()]
    return by_image + by_prompt


def write_images(folder: Path) -> Iterator[str]:
    """Write every image; yields the file names."""
    yield save(folder, "rgb-256x256.png", picture("256x256"))
    for size in SIZES:
        yield save(folder, f"rgb-{size}.png", picture(size))
    for turn, mode in enumerate(MODES):
        size = MODE_SIZES[turn % len(MODE_SIZES)]
        suffix = "tif" if mode == "CMYK" else "png"
        name = f"{mode.replace(';', '').lower()}-{size}-{turn}.{suffix}"
        yield save(folder, name, in_mode(picture(size), mode))
    for orientation in ORIENTATIONS:
        exif = Image.Exif()
        exif[EXIF_ORIENTATION] = orientation
        yield save(folder, f"exif{orientation}-333x225.png", picture("333x225"), exif=exif)
    for mode, transparent in {"P": 3, "RGB": (90, 90, 90)}.items():
        image = in_mode(picture("300x224"), mode)
        yield save(folder, f"transparent-{mode.lower()}.png", image, transparency=transparent)


def save(folder: Path, name: str, image: Image.Image, **options: Any) -> str:
    """Save an image; returns its name."""
    image.save(folder / name, **options)
    return name


def picture(size: str) -> Image.Image:
    """Coarse blocks, a gradient and fine noise of this "width x height"."""
    width, height = map(int, size.split("x"))
    random = np.random.RandomState(zlib.crc32(size.encode()))
    blocks = random.randint(0, 160, (height // 16 + 1, width // 16 + 1, 3))
    blocks = blocks.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    gradient = np.arange(width)[None, :, None] * 63 // width
    noise = random.randint(0, 33, (height, width, 3))
    return Image.fromarray((blocks + gradient + noise).astype(np.uint8))


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The picture in another mode, by Pillow's own rules where they cannot change."""
    pixels = np.asarray(image)
    grey = np.ascontiguousarray(pixels[..., 1])
    made = {
        "RGB": lambda: pixels,
        "L": lambda: grey,
        "LA": lambda: pixels[..., :2],
        "RGBA": lambda: np.dstack([pixels, pixels[..., 0]]),
        "CMYK": lambda: np.dstack([pixels, pixels[..., 1] // 3]),
        "P": lambda: grey // 16,
        "1": lambda: grey > 110,
        "I;16": lambda: grey.astype(np.uint16) * 200,
    }[mode]()
    if mode == "P":
        indexed = Image.fromarray(made)
        indexed.putpalette([(37 * i) % 256 for i in range(48)])
        return indexed
    if mode == "CMYK":
        return Image.frombytes("CMYK", image.size, np.ascontiguousarray(made).tobytes())
    return Image.fromarray(np.ascontiguousarray(made))


def digest(folder: Path) -> str:
    """One digest of all the images' pixels, to know that two machines compare the same."""
    total = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        with Image.open(file) as image:
            total.update(f"{file.name} {image.mode} {image.size}".encode() + image.tobytes())
    return total.hexdigest()
