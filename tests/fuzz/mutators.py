"""Ways to damage a file, each a function of its content and a generator of random numbers."""

import copy
import io
import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Generator = np.random.Generator
Mutator = Callable[[bytes, Generator], bytes]

NUMBERS = (0, 1, -1, 2**31 - 1, 2**31, 2**32, 2**60, 2**63 - 1, 2**63, 2**64 - 1, 10**30)
TEXTS = (
    *(
        "",
        " ",
        "~",
        "null",
        "nan",
        "inf",
        "-1",
        "1e400",
        "0x10",
        "2026-02-30",
        "%j",
        "a" * 10_000,
        "\x00",
        "../..",
        "/",
    ),
    *("line\nbreak", "\x1b[31mred\x1b[0m", "=cmd|' /C calc'!A0", "été", "e\u0301te\u0301", "日本", "\u202e", "\ud800"),
    *(
        "s3://",
        "https://user:word@host/x",
        "x://y",
        "#t=1,0",
        "{000..999}",
        "[a-",
        "cpu",
        "true",
        "1 epochs",
        "1e30 epochs",
    ),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0.5, -0.5, float("nan"), float("inf"), 1e400, [], {}, [[]], {"": None}, {"a": {"b": []}}),
    *([None], [{}], ["a", "a"], {"1": 1}),
)


def pick(generator: Generator, choices: Any) -> Any:
    return choices[int(generator.integers(len(choices)))]


def flip(content: bytes, generator: Generator) -> bytes:
    changed = bytearray(content)
    for place in generator.integers(0, max(len(content), 1), int(generator.integers(1, 9))):
        if content:
            changed[place] ^= 1 << int(generator.integers(8))
    return bytes(changed)


def cut(content: bytes, generator: Generator) -> bytes:
    """The beginning, also nothing, all but the last byte, or whole blocks of it."""
    end = int(generator.integers(0, len(content) + 1))
    return content[: pick(generator, (end, end, end, end // 512 * 512, 0, -1))]


def insert(content: bytes, generator: Generator) -> bytes:
    """Some bytes more, or brackets that nest deeper than any reader follows."""
    place = int(generator.integers(0, len(content) + 1))
    more = generator.bytes(int(generator.integers(1, 33)))
    more = pick(generator, (more, more, more, more, b"[" * 50_000, b'{"a":' * 50_000, b"[" * 300 + b"]" * 300))
    return content[:place] + more + content[place:]


def delete(content: bytes, generator: Generator) -> bytes:
    start, end = sorted(generator.integers(0, len(content) + 1, 2).tolist())
    return content[:start] + content[min(end, start + 64) :]


def swap(content: bytes, generator: Generator) -> bytes:
    a, b, c = sorted(generator.integers(0, len(content) + 1, 3).tolist())
    return content[:a] + content[b:c] + content[a:b] + content[c:]


def grow(content: bytes, generator: Generator) -> bytes:
    return content + pick(generator, (content, bytes(1024), generator.bytes(64), b"\n", b"\xff" * 9))


def blank(content: bytes, generator: Generator) -> bytes:
    start, end = sorted(generator.integers(0, len(content) + 1, 2).tolist())
    end = min(end, start + 600)
    return content[:start] + pick(generator, (b"\0", b"\xff")) * (end - start) + content[end:]


def number(content: bytes, generator: Generator) -> bytes:
    """A number that means something to programs, near the start, near the end or anywhere."""
    size = pick(generator, (1, 2, 4, 8))
    places = pick(generator, (range(64), range(len(content) - 64, len(content)), range(len(content) + 1)))
    place = min(max(0, pick(generator, places)), max(len(content) - size, 0))
    value = (pick(generator, NUMBERS) % 2 ** (8 * size)).to_bytes(size, pick(generator, ("little", "big")))
    return content[:place] + value + content[place + size :]


BYTES: tuple[Mutator, ...] = (flip, flip, cut, insert, delete, swap, grow, blank, number, number)


def damaged(content: bytes, generator: Generator) -> bytes:
    """One to three of ``BYTES``."""
    for _ in range(int(generator.integers(1, 4))):
        content = pick(generator, BYTES)(content, generator)
    return content


def other_value(generator: Generator) -> Any:
    return pick(generator, pick(generator, (NUMBERS, TEXTS, VALUES)))


def other_json(value: Any, generator: Generator) -> Any:
    """The same value with something else in one place: another value, no key, one more or a misspelt one."""
    value = copy.deepcopy(value)
    places = [(holder, key) for holder in _holders(value) for key in _keys(holder)]
    if not places:
        return other_value(generator)
    holder, key = pick(generator, places)
    how = pick(generator, ("value", "value", "value", "drop", "add", "misspell"))
    if how == "value":
        holder[key] = other_value(generator)
    elif how == "drop":
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, other_value(generator))
    elif how == "add":
        holder[pick(generator, TEXTS)] = other_value(generator)
    else:
        holder[f"{key}x"] = holder.pop(key)
    return value


def _holders(value: Any) -> list[Any]:
    if not isinstance(value, dict | list):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(holder for one in inner for holder in _holders(one))]


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def json_text(content: bytes, generator: Generator) -> bytes:
    """JSON with other values."""
    return json.dumps(other_json(json.loads(content), generator)).encode()


def json_line(content: bytes, generator: Generator) -> bytes:
    """JSON lines, one of them with other values."""
    lines = content.splitlines()
    row = int(generator.integers(len(lines)))
    lines[row] = json_text(lines[row], generator)
    return b"\n".join(lines) + b"\n"


def safetensors_header(content: bytes, generator: Generator) -> bytes:
    """A container of safetensors whose header says something else."""
    length = int.from_bytes(content[:8], "little")
    header = other_json(json.loads(content[8 : 8 + length]), generator)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def safetensors_facts(content: bytes, generator: Generator) -> bytes:
    """A container of safetensors with other values in the JSON texts of its metadata."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    facts = header.get("__metadata__", {})
    if facts:
        key = pick(generator, list(facts))
        lines = facts[key].split("\n")
        row = int(generator.integers(len(lines)))
        lines[row] = json.dumps(other_json(json.loads(lines[row]), generator))
        facts[key] = "\n".join(lines)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def safetensors_kind(content: bytes, generator: Generator) -> bytes:
    """A container of safetensors that is whole, with numbers of another kind in one of its arrays."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    array = header[pick(generator, [name for name in header if name != "__metadata__"])]
    kind, size = pick(generator, (("F32", 4), ("I32", 4), ("U32", 4), ("I64", 8), ("F64", 8), ("F16", 2), ("BF16", 2),
                                  ("U8", 1), ("BOOL", 1), ("F8_E4M3", 1), ("C64", 8)))  # fmt: skip
    start, end = array["data_offsets"]
    array.update(dtype=kind, shape=[(end - start) // size])
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def parquet_facts(content: bytes, generator: Generator) -> bytes:
    """A Parquet file with other values in the JSON texts of its metadata."""
    table = pq.read_table(pa.BufferReader(content))
    facts = dict(table.schema.metadata)
    key = pick(generator, list(facts))
    facts[key] = pick(generator, (json_text, json_text, json_text, insert, cut))(facts[key], generator)
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(facts), sink)
    return sink.getvalue()


def png_header(content: bytes, generator: Generator) -> bytes:
    """A PNG whose header, which has a right checksum, claims another width, height or kind of pixels."""
    head = bytearray(content[12:29])
    start, size = pick(generator, ((4, 4), (8, 4), (12, 1), (13, 1), (14, 1), (15, 1), (16, 1)))
    value = pick(generator, (0, 1, 2, 16, 255, 2**16, 2**31 - 1, 2**32 - 1)) % 2 ** (8 * size)
    head[start : start + size] = value.to_bytes(size, "big")
    return content[:12] + head + zlib.crc32(head).to_bytes(4, "big") + content[33:]


def parquet_table(content: bytes, generator: Generator) -> bytes:
    """A Parquet file that is whole, with a column that is another."""
    table = pq.read_table(pa.BufferReader(content))
    place = int(generator.integers(table.num_columns))
    name, column = table.column_names[place], table.column(place)
    rows = len(table)
    nothing = generator.random(rows) < 0.3
    others: tuple[Callable[[], Any], ...] = (
        lambda: pa.array([None if none else value for none, value in zip(nothing, column.to_pylist(), strict=True)]),
        lambda: pa.nulls(rows),
        lambda: pa.nulls(rows, column.type),
        lambda: pa.array([pick(generator, NUMBERS[:8]) for _ in range(rows)], pa.int64()),
        lambda: pa.array([2**64 - 1] * rows, pa.uint64()),
        lambda: pa.array(generator.random(rows)),
        lambda: pa.array([float("nan")] * rows),
        lambda: pa.array(generator.choice([np.nan, np.inf, -np.inf, -1.0, 0.0, 0.5, 2.0, 1e300], rows)),
        lambda: pa.array([pick(generator, TEXTS[:-1]).replace("\ud800", "") for _ in range(rows)]),
        lambda: pa.array([f"{value}" for value in column.to_pylist()]).dictionary_encode(),
        lambda: pa.array([f"{value}" for value in column.to_pylist()], pa.large_string()),
        lambda: pa.array([b"\xff\xfe"] * rows, pa.binary()),
        lambda: pa.array([[value] for value in column.to_pylist()]),
        lambda: pa.array([{"bytes": b"", "path": "a"}] * rows),
        lambda: pa.array([True] * rows),
        lambda: pa.array([0] * rows, pa.timestamp("us")),
        lambda: pa.array([1] * rows, pa.decimal128(20, 3)),
    )
    how = pick(generator, ("column", "column", "column", "drop", "name", "rows", "order", "double", "again", "twice"))
    if how == "column":
        table = table.set_column(place, name, pick(generator, others)())
    elif how == "drop":
        table = table.drop_columns([name])
    elif how == "name":
        table = table.rename_columns([pick(generator, (name.upper(), f" {name}", "")) if one == name else one
                                      for one in table.column_names])  # fmt: skip
    elif how == "rows":
        table = table[: int(generator.integers(0, rows))]
    elif how == "order":
        table = table.take(pa.array(generator.permutation(rows)))
    elif how == "again":
        table = pa.concat_tables([table, table[: int(generator.integers(1, rows + 1))]])
    elif how == "double":
        table = pa.concat_tables([table, table])
    else:
        table = table.append_column(name, column)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression=pick(generator, ("snappy", "zstd", "gzip", "none")))
    return sink.getvalue()
