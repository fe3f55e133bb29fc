"""The keys of a config and the options of registered parts, as text: ``bsssl options``."""

import re
from difflib import get_close_matches
from itertools import accumulate

from bsssl.config import Config, Reproduction, Section, Transfer, options
from bsssl.errors import UserError, choices
from bsssl.registry import REGISTRIES

Line = tuple[str, str, str]
"""type, default and meaning of a key"""
_TITLES: dict[type[Section], str] = {
    Transfer: "of a transfer alone (`bsssl transfer`):\n\n",
    Reproduction: "of a reproduction (`bsssl reproduce`), whose recipe has keys as above:\n\n",
}


def describe_keys() -> str:
    """Return every key of a config with its type, default and meaning, and the names of all registered parts."""
    names = [f"    {sort}: {', '.join(registry.names())}" for sort, registry in REGISTRIES.items()]
    parts = "the parts that these keys can name, and their options: bsssl options SORT [NAME]"
    return "\n\n".join([_written(_keys_by_title()), "\n".join([parts, *names])])


def describe_part(name: str) -> str:
    """Return the same of the keys in a section, such as teacher or data.transforms, or of a single key.

    Raises:
        UserError: There is no such section or key; the message has the nearest names.
    """
    is_inside = re.compile(rf"{re.escape(name)}($|[.\[])").match
    keys = _keys_by_title()
    inside = {title: {path: line for path, line in part.items() if is_inside(path)} for title, part in keys.items()}
    if any(inside.values()):
        return _written(inside)
    known = {part: None for keys in keys.values() for path in keys for part in _parts_of(path)}
    near = [part for part in known if part.endswith(f".{name}")] or get_close_matches(name, [*known, *REGISTRIES], n=1)
    hint = f"did you mean {' or '.join(near[:3])}? " if near else ""
    raise UserError(f"a config has no part '{name}'; {hint}`bsssl options` shows them all")


def describe_sort(sort: str, name: str | None) -> str:
    """Return the names of the registered parts of a sort, or the options of the one called ``name``.

    Raises:
        UserError: There is no such sort or part; the message has the valid names.
    """
    if sort not in REGISTRIES:
        raise UserError(f"'{sort}' is no sort of parts: {choices(sort, REGISTRIES)}")
    registry = REGISTRIES[sort]
    if name is None:
        return "\n".join(registry.names()) or f"there are no {sort} but those of plugins: give --plugins MODULE"
    summary = registry.summary(name)
    of_part = [_entry(f"    {one.name}", (one.type, one.default, one.meaning)) for one in registry.options(name)]
    return "\n".join([name, f"    {summary}\n" if summary else "", *of_part])


def _keys_by_title() -> dict[str, dict[str, Line]]:
    """Return the keys of each kind of config, but for those that a recipe has alike."""
    of_recipe = _keys_of(Config)
    others = {
        title: {path: line for path, line in _keys_of(schema).items() if of_recipe.get(path) != line}
        for schema, title in _TITLES.items()
    }
    return {"": of_recipe, **others}


def _keys_of(schema: type[Section]) -> dict[str, Line]:
    return {path: (kind, default, meaning) for path, kind, default, meaning in options(schema)}


def _parts_of(path: str) -> list[str]:
    """Return the sections that a key is in, outermost first, and the key itself."""
    return [*accumulate(path.replace("[]", "").split("."), "{}.{}".format)]


def _written(keys: dict[str, dict[str, Line]]) -> str:
    texts = [
        title + "\n".join(_entry(path, line) for path, line in part.items()) for title, part in keys.items() if part
    ]
    return "\n\n".join(texts)


def _entry(key: str, line: Line) -> str:
    kind, default, meaning = line
    indent = " " * (len(key) - len(key.lstrip()) + 4)
    return f"{key}: {kind} = {default}" + (f"\n{indent}{meaning}" if meaning else "")
