"""The records that GenEval exchanges, as plain JSON objects, and their validation.

The types double as validators: `read_case` names what is wrong with a line of a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NotRequired

from pydantic import (
    AfterValidator,
    ConfigDict,
    FiniteFloat,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")

Relation = Literal["left of", "right of", "above", "below"]
Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]


class Detection(TypedDict):
    """One detected object: its class, box (x1, y1, x2, y2) in pixels, score and colour name."""

    label: str
    box: Box
    score: FiniteFloat
    color: NotRequired[str | None]


# `class` is a keyword, so these two need the functional form.
Include = TypedDict(
    "Include",
    {
        "class": str,
        "count": NonNegativeInt,
        "color": NotRequired[str],
        "position": NotRequired[tuple[Relation, NonNegativeInt]],
    },
)
Exclude = TypedDict("Exclude", {"class": str, "count": NonNegativeInt})


def _refers_back(clauses: list[Include]) -> list[Include]:
    for index, clause in enumerate(clauses):
        target = clause["position"][1] if "position" in clause else -1
        if target >= index:
            raise PydanticCustomError(
                "forward_reference",
                "include[{index}] refers to include[{target}]; a position names an earlier clause",
                {"index": index, "target": target},
            )
    return clauses


class Metadata(TypedDict):
    """One line of GenEval's metadata: the task's tag and what the image must and must not show."""

    tag: str
    include: NotRequired[Annotated[list[Include], AfterValidator(_refers_back)]]
    exclude: NotRequired[list[Exclude]]
    prompt: NotRequired[str]


@dataclass(frozen=True, slots=True)
class Options:
    """The official script's options and their defaults.

    Attributes:
        threshold: Detections must score strictly more, compared in float32.
        counting_threshold: The same for prompts with the tag "counting".
        max_objects: At most this many detections of a class, the highest scores.
        max_overlap: Drop a detection whose IoU with a better one reaches this; 1 turns it off.
        position_threshold: The part of the objects' sizes taken off a distance between centres.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    threshold: FiniteFloat = 0.3
    counting_threshold: FiniteFloat = 0.9
    max_objects: NonNegativeInt = 16
    max_overlap: FiniteFloat = 1.0
    position_threshold: FiniteFloat = 0.1


class Case(TypedDict):
    """One image to judge: what was asked for, what was detected, and any options."""

    metadata: Metadata
    detections: list[Detection]
    options: NotRequired[Options | None]


class Result(TypedDict):
    """The part of an official result record that the summary reads; metadata is JSON text."""

    tag: str
    correct: bool
    metadata: str | dict[str, Any]


class CaseError(ValueError):
    """A line that is no case or result; `kind` names the fault, the message says where."""

    def __init__(self, kind: str, message: str) -> None:
        """Keep the kind beside the message."""
        super().__init__(message)
        self.kind = kind


_CASE, _METADATA, _RESULT = TypeAdapter(Case), TypeAdapter(Metadata), TypeAdapter(Result)


def read_case(line: bytes | str) -> Case:
    """Parse and check one JSON line; raises `CaseError`."""
    try:
        return _CASE.validate_json(line, strict=True)
    except ValidationError as error:
        raise _fault(error) from None


def read_result(line: bytes | str) -> Result:
    """Parse and check one line of official results; raises `CaseError`."""
    try:
        return _RESULT.validate_json(line, strict=True)
    except ValidationError as error:
        raise _fault(error) from None


def check_metadata(metadata: Mapping[str, Any]) -> Metadata:
    """Check the metadata of a prompt; raises `CaseError`."""
    try:
        return _METADATA.validate_python(metadata)
    except ValidationError as error:
        raise _fault(error) from None


def _fault(error: ValidationError) -> CaseError:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return CaseError(first["type"], f"{where}: {first['msg']}" if where else first["msg"])
