"""Values from the command line: a word is read by the annotation of the field it is meant for."""

import dataclasses
import math
import types
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from phi4.errors import ConfigError

_TRUE = {"true", "yes", "on", "1"}
_FALSE = {"false", "no", "off", "0"}
_NONE = {"none", "null", ""}


def is_none(text: str) -> bool:
    """Does this word mean "no value"?"""
    return text.lower() in _NONE


def parse(annotation: Any, text: str, key: str) -> Any:
    """Read `text` as a value of type `annotation`; ConfigError naming `key` when it is not one."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _parse_union(annotation, text, key)
    if origin is Literal:
        for choice in get_args(annotation):
            if str(choice) == text:
                return choice
        raise _wrong(key, text, "one of " + ", ".join(str(choice) for choice in get_args(annotation)))
    if origin is tuple:
        return _parse_tuple(annotation, text, key)
    if annotation is bool:
        if text.lower() in _TRUE | _FALSE:
            return text.lower() in _TRUE
        raise _wrong(key, text, "true or false")
    if annotation is int:
        return _parse_int(text, key)
    if annotation is float:
        return _parse_float(text, key)
    if annotation is str:
        return text
    if annotation is Path:
        return Path(text).expanduser()
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        for member in annotation:
            if text in (member.name, str(member.value)):
                return member
        raise _wrong(key, text, "one of " + ", ".join(str(member.value) for member in annotation))
    raise ConfigError(f"{key} cannot be set from the command line ({annotation})")


def _parse_union(annotation: Any, text: str, key: str) -> Any:
    members = get_args(annotation)
    if type(None) in members and is_none(text):
        return None
    failure: ConfigError | None = None
    for member in members:
        if member is type(None) or dataclasses.is_dataclass(member):
            continue
        try:
            return parse(member, text, key)
        except ConfigError as error:
            failure = failure or error
    raise failure or _wrong(key, text, "none (or set its fields one by one)")


def _parse_tuple(annotation: Any, text: str, key: str) -> tuple[Any, ...]:
    members = get_args(annotation)
    inside = text.strip().strip("()[]")
    parts = [part.strip().strip("'\"") for part in inside.split(",") if part.strip()]
    if len(members) == 2 and members[1] is Ellipsis:
        return tuple(parse(members[0], part, f"{key}.{i}") for i, part in enumerate(parts))
    if len(parts) != len(members):
        raise _wrong(key, text, f"{len(members)} values with commas between them")
    return tuple(parse(m, part, f"{key}.{i}") for i, (m, part) in enumerate(zip(members, parts, strict=True)))


def _parse_int(text: str, key: str) -> int:
    try:
        return int(text)
    except ValueError:
        pass
    try:  # 2e6 is how people write token counts
        value = float(text)
    except ValueError:
        raise _wrong(key, text, "a whole number") from None
    if not math.isfinite(value) or value != int(value):
        raise _wrong(key, text, "a whole number")
    return int(value)


def _parse_float(text: str, key: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _wrong(key, text, "a number") from None
    if not math.isfinite(value):
        raise _wrong(key, text, "a finite number")
    return value


def _wrong(key: str, text: str, expected: str) -> ConfigError:
    return ConfigError(f"{key}={text}: expected {expected}")
