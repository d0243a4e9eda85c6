"""The prompts that the paper trains and evaluates on, as files of JSON lines.

    python -m eval.prompts [NAME...] [--out prompts] [--sources prompts/sources]

GenEval's are generated; HPDv2's (Wu et al., 2023) and MJHQ-30k's (Li et al., 2024) are taken from
their own files, which `python -m leapalign.fetch hpdv2 mjhq` brings. The paper trains on 50,000
prompts of HPDv2 and holds 500 of MJHQ-30k out, but says not which: here a seed fixes them. Beside
the files, record.json says what each was made from.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval.geneval import prompts as geneval
from leapalign.errors import UserError, main_guard
from leapalign.fetch import read_lock
from leapalign.files import write_json, write_text
from leapalign.parsing import nearest
from leapalign.registry import how_to_get, load_registry
from leapalign.weights import digest

SEED = 0
HPDV2_TEST, HPDV2_TRAIN, MJHQ_TEST = 400, 50_000, 500
FOLDER = Path("prompts")


@dataclass(frozen=True, slots=True)
class Source:
    """A file of an entry of the registry, and the prompts in it."""

    entry: str
    file: str
    texts: Callable[[Any], Iterable[str]]

    def read(self, folder: Path) -> list[str]:
        """Its prompts without repeats, in its order.

        Raises:
            UserError: The file is missing or has another form.
        """
        path = folder / self.entry / self.file
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            texts = [text.strip() for text in self.texts(content)]
        except FileNotFoundError:
            hint = how_to_get(load_registry()[self.entry].folder)
            raise UserError(f"{path}: missing; {hint}") from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: not the file that was published ({error!r})") from None
        return [text for text in dict.fromkeys(texts) if text]


HPDV2_TESTED = Source("hpdv2", "test.json", lambda rows: (row["prompt"] for row in rows))
HPDV2_TRAINED = Source("hpdv2", "train.json", lambda rows: (row["prompt"] for row in rows))
MJHQ = Source(
    "mjhq", "meta_data.json", lambda images: (image["prompt"] for image in images.values())
)


@dataclass(frozen=True, slots=True)
class Set:
    """A file of prompts: the sources it is made from, and how."""

    make: Callable[..., Iterable[Mapping[str, Any]]]
    sources: tuple[Source, ...] = ()


def hpdv2_test(tested: Sequence[str]) -> list[dict[str, str]]:
    """The 400 prompts of HPDv2's test split."""
    if len(tested) != HPDV2_TEST:
        raise UserError(f"{HPDV2_TESTED.file}: has {len(tested)} prompts, not {HPDV2_TEST}")
    return _lines(tested)


def hpdv2_train(trained: Sequence[str], tested: Sequence[str]) -> list[dict[str, str]]:
    """50,000 of HPDv2's training prompts, none of them in its test split."""
    held_out = set(tested)
    allowed = [text for text in trained if text not in held_out]
    return _lines(_sample(allowed, HPDV2_TRAIN, HPDV2_TRAINED.file))


def mjhq_test(texts: Sequence[str]) -> list[dict[str, str]]:
    """The 500 prompts of MJHQ-30k that are held out."""
    return _lines(_sample(texts, MJHQ_TEST, MJHQ.file))


def mjhq_train(texts: Sequence[str]) -> list[dict[str, str]]:
    """MJHQ-30k without them."""
    held_out = {line["prompt"] for line in mjhq_test(texts)}
    return _lines(text for text in texts if text not in held_out)


SETS = {
    "geneval": Set(geneval.benchmark),
    "geneval_train": Set(geneval.training),
    "hpdv2_test": Set(hpdv2_test, (HPDV2_TESTED,)),
    "hpdv2_train": Set(hpdv2_train, (HPDV2_TRAINED, HPDV2_TESTED)),
    "mjhq_test": Set(mjhq_test, (MJHQ,)),
    "mjhq_train": Set(mjhq_train, (MJHQ,)),
}


def write(name: str, out: Path, sources: Path) -> dict[str, Any]:
    """Write a set's file; returns what it was made from.

    Raises:
        UserError: A source is missing, or not what was published.
    """
    made = SETS[name]
    prompts = list(made.make(*(source.read(sources) for source in made.sources)))
    text = geneval.lines(prompts)
    write_text(out / f"{name}.jsonl", text)
    locked = read_lock()
    fetched = [locked[source.entry] for source in made.sources if source.entry in locked]
    return {
        "prompts": len(prompts),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        # None of what came from a mirror: only its digests are known.
        "revisions": {repo: commit for one in fetched for repo, commit in one.revisions.items()},
        "sources": {s.file: digest(sources / s.entry / s.file) for s in made.sources},
    }


def _sample(texts: Sequence[str], size: int, file: str) -> list[str]:
    """`size` of the texts, fixed by the seed, in their order."""
    if len(texts) < size:
        raise UserError(f"{file}: has {len(texts)} different prompts, {size} are needed")
    chosen = np.random.default_rng(SEED).choice(len(texts), size, replace=False)
    return [texts[index] for index in sorted(chosen)]


def _lines(texts: Iterable[str]) -> list[dict[str, str]]:
    return [{"prompt": text} for text in texts]


@main_guard
def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m eval.prompts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all of {', '.join(SETS)}")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the files go")
    parser.add_argument("--sources", type=Path, default=FOLDER / "sources", help="what was fetched")
    arguments = parser.parse_args(argv)
    for name in arguments.names:
        if name not in SETS:
            raise UserError(f"no prompts `{name}`{nearest(name, SETS)}")
    path = arguments.out / "record.json"
    record = json.loads(path.read_text()) if path.is_file() else {}
    for name in arguments.names or SETS:
        record[name] = write(name, arguments.out, arguments.sources)
        write_json(path, record)


if __name__ == "__main__":
    main()
