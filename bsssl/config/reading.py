"""Reading a config: files that build on each other, overrides, and one line for each thing that is wrong."""

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import reduce
from operator import or_
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from fvcore.common.config import BASE_KEY, CfgNode
from pydantic import BaseModel, ValidationError

from bsssl.config.bundled import bundled_configs, located
from bsssl.config.plugins import load_plugins
from bsssl.config.recipe import Config
from bsssl.config.section import S, Section
from bsssl.config.yaml_text import parse_yaml
from bsssl.errors import Problems, UserError, shortened
from bsssl.registry import as_yaml

_KINDS = {
    "models": "the recipe (`bsssl run`, `train`, `score`, ...)",
    "checkpoints": "a transfer (`bsssl transfer`)",
    "recipe": "a reproduction (`bsssl reproduce`)",
}
"""By a key that no other kind has."""


def load_config(path: str, overrides: list[str], schema: type[S] = Config) -> S:  # type: ignore[assignment]
    """Read ``path`` and the files it builds on, apply ``key.sub=value`` overrides, and check everything.

    Raises UserError with one line per problem.
    """
    values = read_yaml(path)
    check_kind(path, values, schema)
    for override in overrides:
        _apply_override(values, override, schema)
    return checked(values, schema, origin=path)


def checked(values: dict[str, Any], schema: type[S], *, origin: str) -> S:
    """Return the content of a config, whose plugins are imported, as a config of ``schema``.

    Args:
        values: The content, overrides applied.
        schema: The kind of config.
        origin: What messages call the config, such as its file.

    Raises:
        UserError: Something is wrong; the message has one line per problem.
    """
    named = values.get("plugins") or []
    if _are_names(named):
        load_plugins(named)  # what they register can be named by the rest of the config
    return validated(schema, values, what=origin)


def validated(schema: type[S], values: Mapping[str, Any], *, what: str) -> S:
    """Return ``values`` as an object of ``schema``.

    Args:
        schema: The class of the object.
        values: The values of its fields.
        what: Where the values are from, for the error.

    Raises:
        UserError: Something is wrong with the values; each problem is a line that begins with ``what``.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = [line for problem in error.errors() for line in _describe(problem, schema)]
        raise Problems(f"{what}: " + f"\n{what}: ".join(problems)) from None


def plugins_of(path: str) -> list[str]:
    """Return the modules that the config ``path`` lists under ``plugins``, whatever else it holds."""
    named = read_yaml(path).get("plugins") or []
    return named if _are_names(named) else []


def lay_over(values: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Change ``values``, the content of a config, to what ``overrides`` say.

    A name with dots sets that key, as ``key.sub=value`` does on the command line. A mapping under a name without dots
    sets the keys that are in it and leaves the others as they are.
    """
    for name, value in overrides.items():
        if "." not in name and isinstance(value, Mapping):
            lay_over(_section_of(values, name), value)
        else:
            _set(values, name.split("."), value)


def options(schema: type[Section] = Config) -> Iterator[tuple[str, str, str, str]]:
    """Every key of the config: (path, type, default, what it means)."""
    yield from _options(schema, "")


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def parse_overrides(overrides: list[str]) -> dict[str, Any]:
    """Return what ``key.sub=value`` overrides say by themselves; UserError for one that is none."""
    values: dict[str, Any] = {}
    for override in overrides:
        _apply_override(values, override, Section)
    return values


def read_yaml(path: str) -> dict[str, Any]:
    """Return the content of a config file on top of the files it builds on.

    Args:
        path: The file, or the name of a config of the projects: see ``located``.

    Raises:
        UserError: The file or one that it builds on is missing or no config.
    """
    file = located(path)
    if not os.path.isfile(file):
        near = get_close_matches(path.removeprefix("projects/").removesuffix(".yaml"), bundled_configs(), n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"no such config: {path}; {hint}`bsssl init --list` names those that come with the package")
    try:
        values: dict[str, Any] = _ConfigFile.load_yaml_with_base(file)
    except RecursionError:
        raise UserError(f"{path}: its _BASE_ leads back to itself; remove one of the two") from None
    except FileNotFoundError as error:
        raise UserError(f"{path}: _BASE_ names a file that does not exist: {error.filename}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot read {error.filename}: {error.strerror}; check _BASE_") from None
    except AssertionError as error:  # a section in one file is none in the other
        raise UserError(f"{path} is not a valid config: {error}") from None
    return values


class _ConfigFile(CfgNode):  # type: ignore[misc]
    """fvcore's reader, given every alias written out: what is set in one of two places must not change the other."""

    @classmethod
    def _open_cfg(cls, filename: str) -> io.StringIO:
        if os.path.exists(filename) and not os.path.isfile(filename):  # one would wait for the writer of a pipe
            raise UserError(f"{filename} is not a file; _BASE_ must name one")
        with open(filename, "rb") as file:
            values = parse_yaml(file.read(), origin=filename)
        if not isinstance(values, dict):
            raise UserError(f"{filename} is not a config: it must hold 'key: value' lines")
        if BASE_KEY in values:
            values[BASE_KEY] = [_base(filename, base) for base in _as_list(values[BASE_KEY])]
        return io.StringIO(yaml.safe_dump(values, sort_keys=False))


def _base(filename: str, base: Any) -> str:
    """Return the file that ``filename`` builds on: one beside it, or a config of the projects of that name.

    Raises:
        UserError: What is given cannot be the name of a file.
    """
    if not isinstance(base, str) or "\0" in base:
        raise UserError(f"{filename}: _BASE_ must name a file, or list some, not {base!r}")
    return base if os.path.isfile(_beside(filename, base)) else located(base)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _beside(filename: str, other: str) -> str:
    """Return where ``other`` lies for a file that names it."""
    return os.path.join(os.path.dirname(filename), os.path.expanduser(other))


def check_kind(path: str, values: dict[str, Any], schema: type[Section]) -> None:
    """Refuse the content of a config for another command in one line, not in one for each key.

    Args:
        path: What the message calls the config.
        values: The content.
        schema: The kind of config that is needed.
    """
    ours = [key for key in _KINDS if key in schema.model_fields]
    theirs = [key for key in _KINDS if key in values and key not in ours]
    if theirs and ours and ours[0] not in values:
        raise UserError(f"{path} is a config of {_KINDS[theirs[0]]}; what is needed here is one of {_KINDS[ours[0]]}")


def _apply_override(values: dict[str, Any], override: str, schema: type[Section]) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"'{override}' is not an override; write key=value, for example finetune.base_lr=0.001")
    key = key.strip()
    outer = schema.dotted and re.match(rf"({schema.dotted})\.", key)
    names = key.split(".") if not outer else [*outer[1].split("."), key[outer.end() :]]
    _set(values, names, parse_yaml(text, origin=f"'{shortened(override)}': the value", remedy="quote it"))


def _set(values: dict[str, Any], names: Sequence[str], value: Any) -> None:
    """Set the key that the ``names`` of its sections and its own lead to."""
    *parents, last = names
    for parent in parents:
        values = _section_of(values, parent)
    values[last] = value


def _section_of(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the section called ``name``, made if it is not there."""
    if not isinstance(values.get(name), dict):
        values[name] = {}
    section: dict[str, Any] = values[name]
    return section


def _describe(problem: Any, schema: type[Section]) -> list[str]:
    """Return a line for each thing that is wrong."""
    location = tuple(part for part in problem["loc"] if not str(part).startswith("<"))  # a tag of two forms of a key
    path = ".".join(map(str, location))
    given = problem["input"]
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    if problem["type"] == "extra_forbidden":
        valid = sorted(_section_at(location[:-1], schema).model_fields)
        near = get_close_matches(str(location[-1]), valid, n=1)
        if schema.dotted and problem["loc"][0] in Config.model_fields:
            near = [f"set.{path}"]  # a key of the recipe
        hint = f"did you mean '{near[0]}'? " if near else ""
        return [f"unknown key '{path}': {hint}valid: {', '.join(valid)}"]
    if problem["type"] == "missing":
        return [f"'{path}' is missing; it must be given"]
    if problem["type"] == "list_type":
        of_sections = _section_at(location, schema) is not _section_at(location[:-1], schema)
        entry = "{dataset: folder, path: ...}" if of_sections or not shown else given
        return [f"{path} must be a list: write {path}='[{entry}]'{shown}"]
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        first = next(iter(_section_at(location, schema).model_fields))
        return [f"{path} has keys of its own: write for example {path}.{first}=... ; see `bsssl options`{shown}"]
    messages = problem["msg"].removeprefix("Value error, ").splitlines()
    return [f"{path}: {message}{shown}" if path else message for message in messages]


def _section_at(location: tuple[Any, ...], section: type[BaseModel]) -> type[BaseModel]:
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return section


def _section_in(annotation: Any) -> type[Section] | None:
    inner = get_args(annotation)  # first of all: Python 3.10 takes list[...] for a class
    if inner:
        return next(filter(None, map(_section_in, inner)), None)
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _bare(annotation: Any) -> Any:
    """Return a type without the validators that are noted in it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bare(parts[0])
    if not parts or origin is Literal:
        return annotation
    inner = tuple(map(_bare, parts))
    return reduce(or_, inner) if origin in (Union, UnionType) else origin[inner]


def _kind(bare: Any) -> str:
    """Return what to call a type that is no union."""
    if bare is NoneType:
        return "null"
    name = str(bare) if get_args(bare) else getattr(bare, "__name__", "")
    return re.sub(r"typing\.|bsssl\.config\.\w+\.|Literal|Optional", "", name)


def _options(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, field in section.model_fields.items():
        inner = _section_in(field.annotation)
        if inner is not None and not get_args(field.annotation):
            yield from _options(inner, f"{prefix}{name}.")
            continue
        bare = _bare(field.annotation)
        kind = " | ".join(map(_kind, get_args(bare) if get_origin(bare) in (Union, UnionType) else [bare]))
        default = "(required)" if field.is_required() else as_yaml(field.default)
        if isinstance(field.default, Section):
            default = "(as below)"
        # A stage that only changes a default inherits what the key means.
        bases = [base for base in section.__mro__ if issubclass(base, BaseModel) and name in base.model_fields]
        meaning = next(filter(None, (base.model_fields[name].description for base in bases)), "")
        yield prefix + name, kind, default, " ".join(meaning.split())
        if inner is not None:  # a list of sections, or one that may be left out
            entry = {"list": "[]", "dict": ".NAME"}.get(kind.partition("[")[0], "")
            yield from _options(inner, f"{prefix}{name}{entry}.")
