"""Settings as frozen dataclasses: to plain values for files, and back with a check of every type."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from util.errors import InputError

Settings = TypeVar("Settings")


def to_plain(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON values: paths become strings, tuples lists, nested dataclasses dicts."""
    return {name: _plain(value) for name, value in dataclasses.asdict(settings).items()}


def from_plain(cls: type[Settings], values: object, where: Path | str) -> Settings:
    """Rebuild a dataclass from what `to_plain` made of it; fields that ``values`` lacks take their defaults.

    Raises `InputError` that starts with ``where`` for anything but a dict, for unknown fields and wrong types.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where}: expected settings by name, found {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    if unknown := sorted(str(name) for name in values if name not in hints):
        raise InputError(f"{where}: settings unknown to this version: {', '.join(unknown)}")
    try:
        settings = cls(**{name: _restored(value, hints[name]) for name, value in values.items()})
        check_types(settings)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return settings


def check_types(settings: Any) -> None:
    """Raises `InputError` for a field of a dataclass whose value does not have its annotated type.

    Annotations may use bool, int, float (finite or not), str, `Path`, `Literal`, ``X | None`` and ``tuple[X, ...]``.
    """
    for name, hint in typing.get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if not dataclasses.is_dataclass(value) and not _matches(value, hint):
            raise InputError(f"setting {name}={value!r}: expected {_describe(hint)}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _restored(value: Any, hint: Any) -> Any:
    if isinstance(value, str) and Path in (hint, *get_args(hint)):
        return Path(value)
    return tuple(value) if isinstance(value, list) else value


def _matches(value: object, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(hint))
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, option) for option in get_args(hint))
    if origin is tuple:
        return isinstance(value, tuple) and all(_matches(item, get_args(hint)[0]) for item in value)
    if hint is Path:
        return isinstance(value, Path)
    if hint is float:
        return type(value) in (int, float)
    return value is None if hint is type(None) else type(value) is hint


def _describe(hint: Any) -> str:
    origin = get_origin(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in get_args(hint))
    if origin is tuple:
        return f"a list of {getattr(get_args(hint)[0], '__name__', get_args(hint)[0])}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "nothing"}
    return names.get(hint, "a path")
