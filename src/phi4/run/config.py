"""One configuration: frozen typed dataclasses, changed by `--set path=value`, with provenance.

A path walks fields, positions and names: `pretrain.lr`, `betas.0`, `stages.0.lr`, and, for a tuple of
dataclasses that have a `name`, `stages.pretrain.lr` or just `pretrain.lr` when one item bears that name.
The annotation of the field decides how the value is read; an unknown key is an error with a suggestion.
"""

import dataclasses
import difflib
import math
import types
import typing
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

from phi4.errors import ConfigError
from phi4.run.values import is_none, parse

T = TypeVar("T")


def apply_overrides(recipe: T, overrides: list[str]) -> tuple[T, dict[str, str]]:
    """Apply `path=value` strings in order. Returns the new recipe and where each value came from.

    The provenance maps every path of `flatten` to "recipe NAME" or "--set". Raises ConfigError for an
    unknown key, a value that does not fit the annotation, or one the dataclass itself refuses.
    """
    touched: set[str] = set()
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ConfigError(
                f"--set {override}: not of the form key=value", "for example --set pretrain.lr=3e-3"
            )
        path = _locate(recipe, key.split("."), key)
        recipe = _replaced(recipe, type(recipe), path, text.strip(), key)
        touched.add(_join(recipe, path))
    origin = f"recipe {getattr(recipe, 'name', type(recipe).__name__)}"
    provenance = {
        path: "--set" if any(_overlap(path, changed) for changed in touched) else origin
        for path in flatten(recipe)
    }
    return recipe, provenance


def flatten(config: Any) -> dict[str, Any]:
    """Every leaf of a configuration by its path. Tuples of plain values are leaves themselves."""
    leaves: dict[str, Any] = {}
    _flatten(config, "", leaves)
    return leaves


def to_json(value: Any) -> Any:
    """Dataclasses, tuples, paths and enums as plain JSON values; ConfigError for anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return to_json(value.value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{value} has no place in a configuration: it cannot be written as JSON")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(f"a {type(value).__name__} has no place in a configuration")


# A located path is a tuple of steps: a field name, a dict key, or a position in a tuple.
Step = str | int


def _locate(config: Any, segments: list[str], key: str) -> tuple[Step, ...]:
    """The steps that lead to `key`, through named items; the first segment may be the name of any item."""
    first = segments[0]
    start: tuple[Step, ...] = ()
    if _child(config, first) is None:
        named = [path for path in _named_items(config, ()) if _at(config, path).name == first]
        if len(named) == 1:
            start, segments = named[0], segments[1:]
        elif len(named) > 1:
            choices = ", ".join(_join(config, path) for path in named)
            raise ConfigError(f"{key} is ambiguous", f"say which: {choices}")
    path, here = start, _at(config, start)
    for segment in segments:
        step = _child(here, segment)
        if step is None:
            raise _unknown(config, key, path)
        path, here = (*path, step), _at(here, (step,))
    return path


def _child(node: Any, segment: str) -> Step | None:
    """The step from `node` that `segment` names, or None."""
    if _is_config(node):
        return segment if segment in {f.name for f in dataclasses.fields(node)} else None
    if isinstance(node, dict):
        return segment if segment in node else None
    if isinstance(node, tuple):
        if segment.isdecimal():
            return int(segment) if int(segment) < len(node) else None
        found = [i for i, item in enumerate(node) if getattr(item, "name", None) == segment]
        return found[0] if len(found) == 1 else None
    return None


def _named_items(node: Any, path: tuple[Step, ...]) -> list[tuple[Step, ...]]:
    found: list[tuple[Step, ...]] = []
    if _is_config(node):
        for f in dataclasses.fields(node):
            found += _named_items(getattr(node, f.name), (*path, f.name))
    elif isinstance(node, tuple):
        for i, item in enumerate(node):
            if _is_config(item) and hasattr(item, "name"):
                found.append((*path, i))
            found += _named_items(item, (*path, i))
    return found


def _replaced(node: Any, annotation: Any, path: tuple[Step, ...], text: str, key: str) -> Any:
    """A copy of `node` with the value at `path` read from `text` by the annotation found on the way."""
    if not path:
        clears = type(None) in get_args(annotation) and is_none(text)
        if not clears and _is_group(node):
            fields = ", ".join(f"{key}.{path}" for path in list(flatten(node))[:4])
            raise ConfigError(
                f"{key} is a group of settings, not one value", f"set one of its parts: {fields}, ..."
            )
        return parse(annotation, text, key)
    step, rest = path[0], path[1:]
    if _is_config(node) and isinstance(step, str):
        hint = typing.get_type_hints(type(node))[step]
        value = _replaced(getattr(node, step), hint, rest, text, key)
        try:
            return dataclasses.replace(node, **{step: value})
        except ConfigError:
            raise
        except (ValueError, TypeError, AssertionError) as error:
            raise ConfigError(f"{key}={text}: {error}") from error
    inner = _element(annotation, step)
    if isinstance(node, dict):
        return {**node, step: _replaced(node[step], inner, rest, text, key)}
    assert isinstance(step, int)
    return (*node[:step], _replaced(node[step], inner, rest, text, key), *node[step + 1 :])


def _element(annotation: Any, step: Step) -> Any:
    """The annotation of one element of a tuple or dict annotation (through Optional)."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(m for m in get_args(annotation) if get_origin(m) in (tuple, dict))
    members = get_args(annotation)
    if get_origin(annotation) is tuple and isinstance(step, int):
        return members[0] if members[-1] is Ellipsis else members[step]
    return members[1]


def _flatten(node: Any, path: str, leaves: dict[str, Any]) -> None:
    dot = f"{path}." if path else ""
    if _is_config(node):
        for f in dataclasses.fields(node):
            _flatten(getattr(node, f.name), dot + f.name, leaves)
    elif isinstance(node, dict) and node:
        for key, item in node.items():
            _flatten(item, f"{dot}{key}", leaves)
    elif isinstance(node, tuple) and any(_is_group(item) for item in node):
        for i, item in enumerate(node):
            _flatten(item, f"{dot}{_label(node, i)}", leaves)
    else:
        leaves[path] = node


def _label(items: tuple[Any, ...], i: int) -> str:
    """How item `i` is written in a path: by its name when the name is unique, else by its position."""
    name = getattr(items[i], "name", None)
    unique = isinstance(name, str) and sum(getattr(item, "name", None) == name for item in items) == 1
    return str(name) if unique and "." not in str(name) and not str(name).isdecimal() else str(i)


def _join(config: Any, path: tuple[Step, ...]) -> str:
    words, here = [], config
    for step in path:
        words.append(_label(here, step) if isinstance(step, int) else step)
        here = _at(here, (step,))
    return ".".join(words)


def _at(node: Any, path: tuple[Step, ...]) -> Any:
    for step in path:
        node = getattr(node, str(step)) if _is_config(node) else node[step]
    return node


def _overlap(leaf: str, changed: str) -> bool:
    """Was this leaf changed: itself, as part of a tuple set whole, or in one element of it?"""
    return leaf == changed or leaf.startswith(changed + ".") or changed.startswith(leaf + ".")


def _is_config(node: Any) -> bool:
    return dataclasses.is_dataclass(node) and not isinstance(node, type)


def _is_group(node: Any) -> bool:
    return (
        _is_config(node) or isinstance(node, dict) or (isinstance(node, tuple) and any(map(_is_group, node)))
    )


def _unknown(config: Any, key: str, reached: tuple[Step, ...]) -> ConfigError:
    known = list(flatten(config))
    if reached and _at(config, reached) is None:
        return ConfigError(f"{key}: {_join(config, reached)} is switched off (none) in this recipe")
    inside = _join(config, reached)
    last = key.rsplit(".", 1)[-1]
    near = [path for path in known if path.rsplit(".", 1)[-1] == last and path.startswith(inside)]
    near = near or difflib.get_close_matches(key, known, n=3, cutoff=0.6)
    if not near:
        tails = {path.rsplit(".", 1)[-1]: path for path in known}
        near = [tails[tail] for tail in difflib.get_close_matches(last, tails, n=3, cutoff=0.6)]
    hint = f"did you mean {' or '.join(near[:3])}?" if near else "--dry-run prints every key there is"
    return ConfigError(f"unknown key {key}", hint)
