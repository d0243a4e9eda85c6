"""Reading settings: YAML or JSON into frozen dataclasses, with errors that name file, key and fix.

A dataclass is the only definition of its keys; `parse` checks the keys and pydantic the values.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from leapalign.errors import UserError, raised_at

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which refuses a key given twice instead of keeping the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for (key_node, _), key in zip(node.value, keys, strict=True):
            if keys.count(key) > 1:
                line = key_node.start_mark.line + 1
                raise UserError(f"{self.name}, line {line}: `{key}` is given twice; keep one")
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: the file is missing, not UTF-8, not YAML, not a mapping, or repeats a key.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            data = yaml.load(file, _Loader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file{nearest_file(Path(path))}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}, line {line}: not valid YAML: {error.problem}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected `key: value` lines, found a {type(data).__name__}")
    return data


def is_yaml(name: str) -> bool:
    """Whether a name is that of a YAML file."""
    return Path(name).suffix in (".yaml", ".yml")


def parse(cls: type[T], data: object, source: str, key: str = "") -> T:
    """`data` as a frozen `cls`, unknown keys and wrong values refused at every level.

    Args:
        cls: a dataclass; its fields are the keys.
        data: what the file holds at `key`.
        source: the file, for messages.
        key: the dotted key under which `data` stands, for messages.

    Raises:
        UserError: naming the file, the dotted key and the nearest valid key or expected value.
    """
    _known_keys(cls, data, source, key)
    try:
        return _adapter(cls).validate_python(data)
    except ValidationError as invalid:
        first = invalid.errors()[0]
        at = ".".join([key, *map(str, first["loc"])] if key else map(str, first["loc"]))
        where = f"{source}: `{at}`" if at else source
        problem = first["msg"].removeprefix("Value error, ")
        value = first["input"]
        given = "" if isinstance(value, dict) else f" (given: {value!r})"
        raise UserError(f"{where}: {problem[:1].lower()}{problem[1:]}{given}") from None


def parse_file(cls: type[T], path: Path, remedy: str) -> T:
    """The `cls` whose `dump` a JSON file holds.

    Args:
        cls: a dataclass.
        path: the file.
        remedy: what makes the file, for messages.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        return parse(cls, json.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {remedy}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not valid JSON ({error}); {remedy}") from None


def dump(value: object) -> Any:  # noqa: ANN401 - JSON is any
    """A settings dataclass as plain JSON values; `parse` is its inverse."""
    return _adapter(type(value)).dump_python(value, mode="json")


def nearest(name: str, valid: Iterable[str]) -> str:
    """The end of an error message: `; did you mean x?` or the valid names."""
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else f"; valid: {', '.join(names)}"


def nearest_file(path: Path) -> str:
    """The end of an error message about a missing file: the nearest name beside it."""
    if not path.parent.is_dir():
        return f"; the folder {path.parent} does not exist either"
    return nearest(path.name, (entry.name for entry in path.parent.iterdir()))


def resolve(reference: str, source: str) -> Any:  # noqa: ANN401 - whatever is referred to
    """The object that `package.module:name` or `file.py:name` refers to.

    Raises:
        UserError: the module or the name in it does not exist, or the module fails when imported.
    """
    module_name, _, name = reference.rpartition(":")
    if not module_name:
        raise UserError(
            f"{source}: `{reference}` must read `package.module:Name` or `file.py:Name`"
        )
    module = _import(module_name, f"{source}: `{reference}`")
    if not hasattr(module, name):
        public = [entry for entry in vars(module) if not entry.startswith("_")]
        raise UserError(f"{source}: {module_name} has no `{name}`{nearest(name, public)}")
    return getattr(module, name)


def _import(name: str, where: str) -> ModuleType:
    """A module by its name, or by its file, which is imported once."""
    path = Path(name).expanduser()
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise UserError(f"{where}: no such file{nearest_file(path)}")
    try:
        return _import_file(path.resolve()) if is_file else importlib.import_module(name)
    except ModuleNotFoundError as error:
        hint = "; is its folder in PYTHONPATH?" if name.startswith(str(error.name)) else ""
        raise UserError(f"{where}: no module {error.name}{hint}") from error
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"{where}: cannot be imported: {problem} ({raised_at(error)})") from error


def _import_file(path: Path) -> ModuleType:
    """The module in a file; its name is the path, so that two files of one name are two modules."""
    name = str(path)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their annotations up there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _make_adapter(cls: Any) -> TypeAdapter[Any]:  # noqa: ANN401 - any class
    return TypeAdapter(cls) if dataclasses.is_dataclass(cls) else TypeAdapter(cls, config=_PLAIN)


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(_make_adapter)

_PLAIN = ConfigDict(extra="forbid")


def _known_keys(hint: Any, data: object, source: str, key: str) -> None:  # noqa: ANN401
    """Refuse keys that the dataclasses within `hint` do not have."""
    if not isinstance(data, Mapping):
        return
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        hints = get_type_hints(hint)
        fields = [field.name for field in dataclasses.fields(hint) if field.init]
        for name, value in data.items():
            at = f"{key}.{name}" if key else str(name)
            if name not in fields:
                raise UserError(f"{source}: unknown key `{at}`{nearest(str(name), fields)}")
            _known_keys(hints[name], value, source, at)
    elif isinstance(get_origin(hint), type) and issubclass(get_origin(hint), Mapping):
        for name, value in data.items():
            at = f"{key}.{name}" if key else str(name)
            _known_keys(get_args(hint)[1], value, source, at)
    else:
        for option in get_args(hint):
            _known_keys(option, data, source, key)
