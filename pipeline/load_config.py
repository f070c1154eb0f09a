"""YAML to ``Config``: ``extends``, ``--set``, and errors that name the file, the line and the nearest key."""

from __future__ import annotations

import difflib
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from optim.errors import ConfigError, UserError
from pipeline.config import FACTORY_PREFIX, PATH_KEYS, Config

Key = tuple[str | int, ...]

# Pydantic names Python's types; a config is YAML.
_IN_YAML_WORDS = {
    "tuple_type": "should be a list",
    "list_type": "should be a list",
    "dict_type": "should be a map of keys",
    "model_type": "should be a map of keys",
}


@dataclass(frozen=True)
class Place:
    """Where a value was written; ``line`` is 1-based, None for the command line."""

    file: Path | None
    line: int | None

    def error(self, what: str, *, expected: str = "", hint: str = "") -> ConfigError:
        """A ConfigError at this place."""
        if self.file is None:
            what = f"--set {what}"
        return ConfigError(what, file=self.file, line=self.line, expected=expected, hint=hint)


@dataclass(frozen=True)
class _Layer:
    """One file's (or the command line's) values and where each stands."""

    values: dict[str, Any]
    places: dict[Key, Place]


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read, merge and check a config file.

    Args:
        path: the YAML file.
        overrides: ``key.sub=value`` strings; values are YAML, lists and maps included.

    Raises:
        ConfigError: anything wrong in a file, with file and line.
        UserError: the file or something it names is missing, or an override is malformed.
    """
    layer = _merge([*_with_bases(path.absolute(), ()), _override_layer(overrides)])
    layer.values["base"] = path.absolute().parent
    try:
        config = Config.model_validate(layer.values)
    except ValidationError as error:
        raise _explain(error, layer, path) from None
    _check_files(config, layer, path)
    _check_names(config, layer, path)
    return config


def _with_bases(path: Path, seen: tuple[Path, ...]) -> list[_Layer]:
    """The layers of ``path``, bases first."""
    values, places = _read(path)
    extends = values.pop("extends", [])
    place = places.get(("extends",), Place(path, 1))
    bases = [extends] if isinstance(extends, str) else extends
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise place.error("extends must be a file name or a list of file names")
    layers: list[_Layer] = []
    for base in bases:
        target = (path.parent / base).resolve()
        if target in (*seen, path.resolve()):
            raise place.error(f"extends goes in a circle through {target.name}")
        if not target.is_file():
            raise place.error(f"extends names {base}, which does not exist", hint=_nearest_file(target))
        layers += [
            _rebased(layer, target.parent, path.parent) for layer in _with_bases(target, (*seen, path))
        ]
    return [*layers, _Layer(values, places)]


def _read(path: Path) -> tuple[dict[str, Any], dict[Key, Place]]:
    if path.is_dir():
        raise UserError("a folder, not a config file", where=str(path), expected="a YAML file")
    if not path.is_file():
        raise UserError("config file does not exist", where=str(path), hint=_nearest_file(path))
    try:
        text = path.read_text(encoding="utf-8")
        values = _safe_yaml(text)
        marked = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else None
        raise ConfigError(f"not valid YAML: {error.problem}", file=path, line=line) from None
    except UnicodeDecodeError:
        raise ConfigError(
            "not a text file", file=path, expected="a YAML config; a model goes in it as `model: {path: …}`"
        ) from None
    except YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", file=path) from None
    if not isinstance(values, dict):
        raise ConfigError(
            "a config is a map of keys", file=path, line=1, expected="`name:` and `model:` at least"
        )
    places = {(): Place(path, 1)} | {key: Place(path, line) for key, line in _lines(marked, ())}
    return {str(name): value for name, value in values.items()}, places


def _safe_yaml(text: str) -> Any:
    """YAML 1.2 with plain values only: a tag that names Python code is an error."""
    return YAML(typ="safe", pure=True).load(text)


def _lines(node: Any, key: Key) -> Iterator[tuple[Key, int]]:
    """(key path, 1-based line) of every key and list item below ``node``, as far as they are marked."""
    children = (
        node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    )
    marks = getattr(getattr(node, "lc", None), "data", None) or {}
    for name, value in children:
        if name in marks:  # not so for keys that came through a YAML merge
            yield (*key, name), marks[name][0] + 1
        yield from _lines(value, (*key, name))


def _rebased(layer: _Layer, source: Path, target: Path) -> _Layer:
    """Paths written relative to ``source``, rewritten relative to ``target``."""
    values = {**layer.values}
    for section, name in PATH_KEYS:
        inner = values.get(section)
        given = inner.get(name) if isinstance(inner, dict) else None
        if isinstance(given, str) and not given.startswith(FACTORY_PREFIX) and not Path(given).is_absolute():
            values[section] = {**values[section], name: os.path.relpath(source / given, target)}
    return _Layer(values, layer.places)


def _override_layer(overrides: Sequence[str]) -> _Layer:
    values: dict[str, Any] = {}
    places: dict[Key, Place] = {}
    for override in overrides:
        name, separator, text = override.partition("=")
        parts = tuple(part for part in name.strip().split(".") if part)
        if not separator or not parts:
            raise UserError(
                f"--set {override!r} is not of the form key.sub=value", hint="--set parity.seeds=[0,1]"
            )
        try:
            value = _safe_yaml(text)
        except YAMLError:
            raise UserError(
                f"--set {name}: {text!r} is not a YAML value", hint="quote strings that hold : or #"
            ) from None
        inner = values
        for part in parts[:-1]:
            step = inner.setdefault(part, {})
            if not isinstance(step, dict):
                raise UserError(f"--set {name}: {part} was already set to a plain value")
            inner = step
        inner[parts[-1]] = value
        places |= {parts[:count]: Place(None, None) for count in range(1, len(parts) + 1)}
    return _Layer(values, places)


def _merge(layers: Sequence[_Layer]) -> _Layer:
    """Maps merge key by key; everything else is replaced by the later layer."""
    values: dict[str, Any] = {}
    places: dict[Key, Place] = {}
    for layer in layers:
        values = _merged(values, layer.values)
        places |= layer.places
    return _Layer(values, places)


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    result = dict(old)
    for key, value in new.items():
        before = result.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            result[key] = _merged(before, value)
        else:
            result[key] = value
    return result


# --- errors --------------------------------------------------------------------------------------


def _explain(error: ValidationError, layer: _Layer, path: Path) -> ConfigError:
    """The first finding of a validation, in the file's own terms."""
    findings = error.errors(include_url=False)
    # An unknown key is the likeliest cause of a missing one: name it first.
    finding = min(findings, key=lambda one: one["type"] != "extra_forbidden")
    key = _in_document(finding["loc"], layer.values)
    name = ".".join(map(str, key))
    place = _place(key, layer, path)
    if finding["type"] == "extra_forbidden":
        known = _fields_at(key[:-1])
        near = difflib.get_close_matches(str(key[-1]), known, n=1, cutoff=0.5)
        hint = f"{near[0]} (the nearest key)" if near else ""
        return place.error(f"unknown key {name}", expected=f"one of {', '.join(known)}", hint=hint)
    if finding["type"] == "missing":
        return place.error(f"{name} is missing", hint=f"add `{finding['loc'][-1]}:`")
    message = _IN_YAML_WORDS.get(finding["type"], finding["msg"]).removeprefix("Value error, ")
    shown = "" if finding["type"] == "value_error" and not key else f" (got {finding['input']!r})"
    return place.error(f"{name}: {message}{shown}" if name else message)


def _in_document(loc: Sequence[str | int], values: Any) -> Key:
    """Pydantic's location without the union branches it adds."""
    key: list[str | int] = []
    node = values
    for part in loc:
        if isinstance(node, dict):
            key.append(part)
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int):
            key.append(part)
            node = node[part] if part < len(node) else None
    return tuple(key)


def _place(key: Key, layer: _Layer, path: Path) -> Place:
    """The innermost enclosing place that was written down."""
    for count in range(len(key), 0, -1):
        if key[:count] in layer.places:
            return layer.places[key[:count]]
    return layer.places.get((), Place(path, 1))


def _fields_at(key: Key) -> list[str]:
    """Names of the keys that a config may hold at ``key``."""
    model: Any = Config
    for part in key:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = next(_models_in(field.annotation), None) if field is not None else None
        if inner is None:
            return []
        model = inner
    return [name for name in model.model_fields if name != "base"] + (["extends"] if model is Config else [])


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) is not None or isinstance(annotation, types.UnionType):
        for argument in typing.get_args(annotation):
            yield from _models_in(argument)


def _check_files(config: Config, layer: _Layer, path: Path) -> None:
    given = {
        ("model", "path"): config.model.path,
        ("data", "path"): config.data.path,
        ("data", "label_names"): config.data.label_names,
    }
    for key, value in given.items():
        if value is None or value.startswith(FACTORY_PREFIX):
            continue
        target = config.resolve(value)
        checkpoint = key == ("model", "path") and any(
            target.with_name(target.name + suffix).exists() for suffix in (".meta", ".index")
        )
        if not target.exists() and not checkpoint:
            place = _place(key, layer, path)
            raise place.error(f"{'.'.join(key)}: {value} does not exist", hint=_nearest_file(target))


def _check_names(config: Config, layer: _Layer, path: Path) -> None:
    """Recipes, passes and targets are looked up now: not found after an hour's work would be too late."""
    from optim.recipes import recipe_named, recipe_of  # costs half a second, so not before a config is right
    from targets.catalog import target_named

    wanted: list[tuple[Key, Callable[[], object]]] = [
        (("targets", index, "name"), partial(target_named, target.name))
        for index, target in enumerate(config.targets)
    ]
    if config.optimize.passes is None:
        wanted.append((("optimize", "recipe"), partial(recipe_named, config.optimize.recipe)))
    else:
        wanted.append((("optimize", "passes"), partial(recipe_of, config.optimize.passes)))
    if config.benchmark is not None and config.benchmark.tune is not None:
        wanted += [
            (("benchmark", "tune", "recipes", index), partial(recipe_named, name))
            for index, name in enumerate(config.benchmark.tune.recipes)
        ]
    for key, look_up in wanted:
        try:
            look_up()
        except UserError as error:
            name = ".".join(map(str, key))
            place = _place(key, layer, path)
            raise place.error(f"{name}: {error.what}", expected=error.expected, hint=error.hint) from None


def _nearest_file(target: Path) -> str:
    """A hint naming the sibling whose name is nearest, or the folder that is missing."""
    if not target.parent.is_dir():
        return f"the folder {target.parent} does not exist either"
    near = difflib.get_close_matches(target.name, sorted(one.name for one in target.parent.iterdir()), n=1)
    return f"{near[0]} lies in the same folder" if near else ""
