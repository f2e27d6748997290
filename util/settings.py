"""Settings as frozen dataclasses: to plain values for files, and back with a check of every type."""

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from util.errors import InputError

Settings = TypeVar("Settings")
DeviceName = Literal["auto", "cuda", "mps", "cpu"]  # auto: CUDA, else Apple's MPS, else the CPU

NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}


def to_plain(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON values: paths become strings, tuples lists, nested dataclasses dicts."""
    return json.loads(json.dumps(dataclasses.asdict(settings), default=str))


def from_plain(cls: type[Settings], values: object, where: Path | str) -> Settings:
    """Rebuild a dataclass from what `to_plain` made of it; fields that ``values`` lacks take their defaults.

    Annotations may use bool, int, float, str, `Path`, `Literal`, ``X | None`` and ``tuple[X, ...]``.
    Raises `InputError` that starts with ``where`` for anything but a dict, for unknown fields and wrong types.
    """
    if not isinstance(values, dict):
        raise InputError(f"{where}: expected settings by name, found {type(values).__name__}")
    hints = typing.get_type_hints(cls)
    if unknown := sorted(str(name) for name in values if name not in hints):
        raise InputError(f"{where}: settings unknown to this version: {', '.join(unknown)}")
    restored = {}
    for name, value in values.items():
        if not _matches(value, hints[name]):
            raise InputError(f"{where}: setting {name}={value!r}: expected {_describe(hints[name])}")
        is_path = isinstance(value, str) and Path in (hints[name], *get_args(hints[name]))
        restored[name] = Path(value) if is_path else tuple(value) if isinstance(value, list) else value
    try:
        return cls(**restored)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _matches(value: object, hint: Any) -> bool:
    options = get_args(hint) or (hint,)
    if get_origin(hint) is Literal:
        return (type(value), value) in [(type(choice), choice) for choice in options]
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_matches(item, options[0]) for item in value)
    return (
        type(value) in options or isinstance(value, str) and Path in options or type(value) is int and float in options
    )


def _describe(hint: Any) -> str:
    options = get_args(hint) or (hint,)
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, options))}"
    if get_origin(hint) is tuple:
        return f"a list, each item {_describe(options[0])}"
    return " or ".join(NAMES.get(option, "nothing") for option in options)
