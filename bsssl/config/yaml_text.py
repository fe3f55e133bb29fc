"""YAML that people write: what is wrong with it is one clear line, and what its aliases stand for is written out."""

import itertools
from collections.abc import Iterator
from typing import Any

import yaml

from bsssl.errors import UserError

_DEEPEST = 100  # lists and mappings in each other
_MOST = 1_000_000  # values, aliases written out
_TEXT, *_PLAIN = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null"))


class _Strict:
    """What readers of YAML do not mind: a key twice, of which the last would count, and values that have no end.

    Keys are the text that is written, also where they look like numbers: the resolved config has no others.
    """

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self._depth == _DEEPEST:
            raise yaml.YAMLError(f"values lie more than {_DEEPEST} deep in each other")
        self._depth += 1
        node = super().compose_node(parent, index)  # type: ignore[misc]
        self._depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)  # type: ignore[misc]
        node.value = [(_as_text(key), value) for key, value in node.value]
        keys: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in keys:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"the key {key.value!r} is there twice, again in line {line}; leave one")
                keys.add((key.tag, key.value))
        return node


def _as_text(key: Any) -> Any:
    is_plain = isinstance(key, yaml.ScalarNode) and key.tag in _PLAIN
    return yaml.ScalarNode(_TEXT, key.value, key.start_mark, key.end_mark) if is_plain else key


class _Typed(_Strict, yaml.SafeLoader):  # type: ignore[misc]
    # Dates are the text that they are.
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _AllText(_Strict, yaml.BaseLoader):  # type: ignore[misc]
    pass


def parse_yaml(text: str | bytes, *, origin: str, all_text: bool = False, remedy: str = "mend it") -> Any:
    """Return the value of a YAML text; every alias in it is a value of its own, and every key is text.

    Args:
        text: The text.
        origin: What messages call it, such as its file.
        all_text: Whether everything is text: ``no`` is then no False, and ``7`` no number.
        remedy: What the message ends with.

    Raises:
        UserError: It is no YAML, holds what is no plain value, or has a key twice.
    """
    try:
        return _written_out(yaml.load(text, Loader=_AllText if all_text else _Typed), itertools.count(), ())
    # Of a value that its tag does not fit, such as `!!int x`, PyYAML raises whatever Python does.
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{origin} is not valid YAML: {' '.join(str(error).split())}; {remedy}") from None


def _written_out(value: Any, numbers: Iterator[int], around: tuple[int, ...]) -> Any:
    """Return a copy of ``value`` in which nothing is shared; the ``numbers`` count, ``around`` is what it lies in."""
    if value is None or isinstance(value, str | int | float):
        return value
    if not isinstance(value, dict | list):
        raise yaml.YAMLError(f"{type(value).__name__} is no kind of value here")
    if id(value) in around:
        raise yaml.YAMLError("an alias stands for what it lies in")
    if next(numbers) >= _MOST:
        raise yaml.YAMLError(f"its aliases stand for more than {_MOST:,} values")
    around = (*around, id(value))
    if isinstance(value, dict):
        if others := [key for key in value if not isinstance(key, str)]:
            raise yaml.YAMLError(f"a key must be text, not {others[0]!r}")
        return {key: _written_out(one, numbers, around) for key, one in value.items()}
    return [_written_out(one, numbers, around) for one in value]
