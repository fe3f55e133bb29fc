"""Ways to damage a config, a YAML text."""

import re

from tests.fuzz.mutators import TEXTS, Generator, damaged, other_value, pick

_CONSTRUCTED = (
    *("2026-02-30", "2026-11-27", "!!int x", "!!float y", "!!timestamp 1", "!!binary '='", "!!binary AAAA", "!!bool 7"),
    *("!!set {a, b}", "!!omap [a: 1]", "!!pairs [a: 1]", "!!python/object/apply:os.getcwd []", "!x y", "!!null a"),
    *(
        "&a [*a]",
        "*nowhere",
        "<<",
        "{<<: 1}",
        "{? [a] : b}",
        "{? {a: b} : c}",
        "1:30:00",
        "0o17",
        "0b2",
        ".inf",
        "-.INF",
    ),
    *(".nan", "1e999", "9" * 400, "9" * 5000, "[" * 40 + "]" * 40, "{a: " * 40 + "}" * 40, "- x", "|", ">-", "'", '"'),
    *(
        "@x",
        "%x",
        "`x`",
        "#",
        "? a",
        "a: b: c",
        "\t",
        "\ufeff",
        "...",
        "---",
        "[1, 2",
        "yes",
        "012",
        "1_000",
        "=",
        "3.x",
    ),
)


def line_by_line(content: bytes, generator: Generator) -> bytes:
    """One to three lines left out, twice, misspelt, moved, indented otherwise or with another value."""
    lines = content.decode().splitlines()
    for _ in range(int(generator.integers(1, 4))):
        places = [place for place, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")]
        if not places:
            break
        place = pick(generator, places)
        lines[place : place + 1] = _changed(lines[place], generator)
    return "\n".join([*lines, ""]).encode(errors="surrogatepass")


def _changed(line: str, generator: Generator) -> list[str]:
    how = pick(generator, ("drop", "double", "misspell", "value", "value", "value", "indent", "inside"))
    indent, key, value = re.fullmatch(r"(\s*(?:- )?)([\w.]*:?)(.*)", line, re.DOTALL).groups()  # type: ignore[union-attr]
    if how == "drop":
        return []
    if how == "double":
        return [line, line]
    if how == "misspell":
        place = int(generator.integers(len(key) + 1))
        return [indent + key[:place] + pick(generator, ("x", "é", " ", ".", ":")) + key[place:] + value]
    if how == "indent":
        return [pick(generator, (" ", "  ", "\t")) + line]
    other = _text(generator)
    if how == "inside" and (match := re.search(r"(: *)([^:{}\[\],]+)(?=[,}\]])", value)):
        return [indent + key + value[: match.start(2)] + other + value[match.end() :]]
    return [f"{indent}{key} {other}"]


def _text(generator: Generator) -> str:
    if generator.random() < 0.5:
        return str(pick(generator, _CONSTRUCTED))
    return f"{other_value(generator)}" if generator.random() < 0.5 else str(pick(generator, TEXTS))


def yaml_text(content: bytes, generator: Generator) -> bytes:
    """A config with other lines, or other bytes."""
    return damaged(content, generator) if generator.random() < 0.2 else line_by_line(content, generator)


def override(content: bytes, generator: Generator) -> bytes:
    """A key of a config and a value for it, as on the command line."""
    key, _, value = content.decode().partition("=")
    how = pick(generator, ("value", "value", "value", "inner", "key", "bytes"))
    if how == "bytes":
        return damaged(content, generator)
    if how == "inner":
        key = f"{key}.{pick(generator, ('0', 'x', '', 'size', '__class__'))}"
    elif how == "key":
        key = key[:-1]
    return f"{key}={value if how == 'key' else _text(generator)}".encode(errors="surrogatepass")
