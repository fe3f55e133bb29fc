"""The report as one file of HTML: figures and thumbnails inside, nothing fetched, everything from data escaped."""

import base64
import datetime
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from typing import Any

from bsssl import storage
from bsssl.recipes.names import CONTENTS
from bsssl.reports.page import near, open_set, picks, tested, verdict, work
from bsssl.reports.page.album import Album
from bsssl.reports.page.opening import Opened
from bsssl.reports.page.picks import Picked
from bsssl.reports.page.tested import Tested
from bsssl.runtime.console import printable
from bsssl.stages.copied import same_items

LIMIT_MB = 30.0
"""the largest size of a page, megabytes"""
THUMBNAILS_MB, SECONDS = 20.0, 75.0
"""the room for thumbnails, and the time for making them, where none is named"""
_OF_TEST, _OF_SHARED, _OF_NEAR = 0.2, 0.05, 0.05  # shares of room and time
_CHUNK = 64  # thumbnails in a block of the page: what is decoded at once
_MB = 10**6
_BLOCKS, _SIZE = "<!--blocks-->", b"<!--size-->"  # places in the template that nothing from data can look like
_ESCAPED = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&"}


@dataclass(frozen=True)
class Written:
    """What came of writing a report."""

    path: str
    bytes: int
    thumbnails: int
    lacks: str
    """what the page lacks, in a line, or nothing"""


def write_page(run: Opened, path: str, *, thumbnails_mb: float = THUMBNAILS_MB, seconds: float = SECONDS) -> Written:
    """Write the report of a run, complete or not at all.

    Args:
        run: The run, as far as it came.
        path: The file to write.
        thumbnails_mb: The room for thumbnails in the page, megabytes; the page is never above ``LIMIT_MB`` by them.
        seconds: After which no further thumbnail is begun.

    Raises:
        UserError: The selection is damaged, or the page cannot be written.
    """
    from bsssl.data import Thumbnailer  # imports torch

    clips = run.config.data.clips
    album = Album(Thumbnailer(clips=None if clips is None else (clips.reader, clips.reader_options)))
    picked = picks.read_picks(run)
    names = _class_names(run, picked)
    test = tested.read_tested(run, names) if names else None
    data = _figures(run, picked, test, names)
    room = int(min(thumbnails_mb, LIMIT_MB - 1 - len(_json(data)) / _MB) * _MB)
    if picked is not None:
        data["sharing"] = _with_pictures(data["sharing"], picked, album, room=room, seconds=seconds)
    pairs = near.read_pairs(run)
    foreign = open_set.read_facts(run)
    if foreign is not None:
        data["open_set"] = open_set.curves(foreign)
    if pairs is not None:
        data["near"] = _near_pairs(pairs, album, room=room, seconds=seconds)
    if test is not None:
        data["tested"]["items"] = _test_items(test, album, room=room, seconds=seconds)
    if picked is not None:
        data["picks"] = _shown(picked, album, room=room - int(album.characters), seconds=seconds)
    head, tail = (part.encode() for part in _rendered(run, data, album, picked, pairs, foreign).split(_BLOCKS))
    size = len(head) + sum(map(len, _blocks(data, album))) + len(tail)
    with storage.atomic_write(path) as file:
        file.write(head.replace(_SIZE, f"{size / _MB:.1f} MB".encode()))
        file.writelines(_blocks(data, album))
        file.write(tail)
    return Written(path, size, len(album.pictures), _lacking(run, album))


def _blocks(data: dict[str, Any], album: Album) -> Iterator[bytes]:
    """Yield the figures and the thumbnails as blocks of JSON; all together they are most of the page."""
    yield _block("data", data)
    for number, start in enumerate(range(0, len(album.pictures), _CHUNK)):
        chunk = album.pictures[start : start + _CHUNK]
        yield _block(f"pictures-{number}", [base64.b64encode(picture).decode() for picture in chunk])


def _block(name: str, value: Any) -> bytes:
    return f'<script type="application/json" id="{name}">{_json(value)}</script>\n'.encode()


def _figures(run: Opened, picked: Picked | None, test: Tested | None, names: list[str]) -> dict[str, Any]:
    """Return the figures of the page, without pictures."""
    figures: dict[str, Any] = {
        "id": storage.fingerprint([str(run.folder), run.shown.seed, names[:100]]),
        "classes": names,
        "curves": work.curves(run),
        "calibration": tested.calibration(run),
        "picks": None,
        "tested": None,
        "near": None,
        "open_set": None,
        "chunk": _CHUNK,
    }
    if test is not None:
        figures["tested"] = {"cells": test.cells, "top1": test.top1, "left_out": test.left_out}
    if picked is not None:
        figures |= {
            "wanted": picked.wanted,
            "per_class": picks.per_class(picked),
            "by_rank": picks.by_rank(picked),
            "sharing": picks.sharing(picked),
        }
    return figures


def _shown(picked: Picked, album: Album, *, room: int, seconds: float) -> list[dict[str, list[Any]]]:
    """Return of every class the picks that are shown, by rank, with their thumbnails."""
    rows = picks.rows_to_show(picked)

    def wanted() -> Iterator[tuple[int, Any]]:
        while batch := [*islice(rows, 1024)]:
            yield from zip(batch, picked.record_rows(batch), strict=True)

    numbers = dict(album.add(wanted(), room=room, seconds=seconds * (1 - _OF_TEST - _OF_SHARED - _OF_NEAR)))
    order = sorted(numbers)
    keys = [record.key for record in picked.record_rows(order)]
    after = picked.after.table
    columns = ("rank", "score", "thumb", "right", "key")
    shown: list[dict[str, list[Any]]] = [{name: [] for name in columns} for _ in picked.names]
    for row, key in zip(order, keys, strict=True):
        behind = row - len(picked.chosen)
        if behind < 0:
            index = int(picked.classes[row])
            rank, score = row - int(picked.starts[index]), float(picked.scores[row])
            right = None if picked.right is None else bool(picked.right[row])
        else:
            index, rank, score = (after[name][behind].as_py() for name in ("class", "rank", "score"))
            right = None
        for name, value in zip(columns, (rank + 1, round(score, 4), numbers[row], right, key), strict=True):
            shown[index][name].append(value)
    return shown


def _with_pictures(
    sharing: dict[str, Any], picked: Picked, album: Album, *, room: int, seconds: float
) -> dict[str, Any]:
    """Return what classes share with the thumbnails and keys of some of it."""
    rows = [row for pair in sharing["pairs"] for row in pair["rows"]]
    records = [*picked.record_rows(rows)]
    keys = {row: record.key for row, record in zip(rows, records, strict=True)}
    wanted = zip(rows, records, strict=True)
    numbers = dict(album.add(wanted, room=int(room * _OF_SHARED), seconds=seconds * _OF_SHARED))
    pairs = [
        {**pair, "rows": [[keys[row], numbers[row]] for row in pair["rows"] if row in numbers]}
        for pair in sharing["pairs"]
    ]
    return {**sharing, "pairs": pairs}


def _near_pairs(pairs: near.Pairs, album: Album, *, room: int, seconds: float) -> list[dict[str, Any]]:
    """Return the pairs of near copies that are shown: set, distance as it is and as it is told, both items."""
    table, by_features = pairs.shown(), pairs.counts.get("method") == "features"
    wanted = near.with_records(table)
    numbers = dict(album.add(wanted, room=int(room * _OF_NEAR), seconds=seconds * _OF_NEAR))
    return [
        {
            "set": row["set"],
            "distance": row["distance"],
            "measured": f"{1 - row['distance']:.3f}" if by_features else f"{row['distance']:.0f}",
            "items": [[row[f"{prefix}key"], numbers[number, prefix]] for prefix in ("", "near_")],
        }
        for number, row in enumerate(table.to_pylist())
        if (number, "") in numbers and (number, "near_") in numbers
    ]


def _test_items(test: Tested, album: Album, *, room: int, seconds: float) -> dict[int, list[Any]]:
    """Return the test items that are shown: key, confidence and thumbnail, by row."""
    wanted = (((row, record.key), record) for row, record in tested.rows_to_show(test))
    numbers = album.add(wanted, room=int(room * _OF_TEST), seconds=seconds * _OF_TEST)
    return {row: [key, test.confidence[row], number] for (row, key), number in numbers}


def _rendered(
    run: Opened,
    data: dict[str, Any],
    album: Album,
    picked: Picked | None,
    pairs: near.Pairs | None,
    foreign: dict[str, Any] | None,
) -> str:
    """Return the page with a place for the blocks, and one for its size."""
    networks, (failed, all_failures) = verdict.networks(run), work.failures(run)
    contents = run.result(CONTENTS)
    counts = [] if picked is None else picked.counts.tolist()
    shown = sum(rank <= most for of, most in zip(data["picks"] or (), counts, strict=True) for rank in of["rank"])
    return render(
        "report.html.jinja",
        name=run.folder.name or str(run.folder),
        missing=run.missing,
        seed=run.shown.seed,
        seeds=[one.seed for one in run.runs],
        gain=verdict.gain(run),
        facts=verdict.facts(run),
        warnings=verdict.warnings(networks),
        networks=networks,
        picked=picked,
        near=None if pairs is None else pairs.counts,
        foreign=foreign,
        contents=contents,
        copies=[] if contents is None else same_items(contents),
        short=_short(picked),
        left_out=[*_ranges(picked)],
        data=data,
        shown=shown,
        stages=work.stages(run),
        failures=failed,
        all_failures=all_failures,
        lines=work.LINES,
        gone=album.reasons.most_common(10),
        num_gone=album.reasons.total(),
        is_late=album.is_late,
        num_pictures=len(album.pictures),
        animated=run.config.data.clips is not None,
    )


def render(template: str, **values: Any) -> str:
    """Return a page that a template makes of ``values``, which are escaped, in the style of the report."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("bsssl.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, finalize=_seen,
    )  # fmt: skip
    templates = resources.files("bsssl.reports") / "templates"
    style, script = ((templates / name).read_text() for name in ("report.css", "report.js"))
    text: str = environment.get_template(template).render(
        written=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        style=style,
        script=script,
        hashes={name: _digest(part) for name, part in (("style", style), ("script", script))},
        **values,
    )
    return text


def _seen(value: Any) -> Any:
    """Return what stands in a page for ``value``: for text, lines of what can be seen."""
    is_text = isinstance(value, str) and not hasattr(value, "__html__")
    return "\n".join(map(printable, value.split("\n"))) if is_text else value


def _short(picked: Picked | None) -> list[tuple[str, int]]:
    """Return the classes with fewer picks than K, those with fewest first."""
    if picked is None:
        return []
    counted = zip(picked.names, picked.counts.tolist(), strict=True)
    return sorted(((name, count) for name, count in counted if count < picked.wanted), key=lambda one: one[1])


def _ranges(picked: Picked | None) -> Iterable[tuple[str, int, int]]:
    """Yield the ranges of scores, with the pairs that were selected and left out in each."""
    if picked is None or picked.histogram is None:
        return
    highest = 1.0
    for edge, mine, others in zip(picks.HISTOGRAM, *picked.histogram, strict=True):
        yield f"{edge:.4g} to {highest:.4g}", mine, others
        highest = edge


def _class_names(run: Opened, picked: Picked | None) -> list[str]:
    if picked is not None:
        return picked.names
    path = run.shown.folder("data") / "classes.json"
    names: list[str] = storage.read_json(str(path)) if path.exists() else []
    return names


def _lacking(run: Opened, album: Album) -> str:
    """Return what the page lacks, in a line."""
    gone = album.reasons.total()
    first = next(iter(album.reasons), "")
    parts = [f"{len(run.missing)} stages are not done" if run.missing else ""]
    parts.append(f"{gone} pictures cannot be read any more ({first})" if gone else "")
    return "; ".join(filter(None, parts))


def _json(value: Any) -> str:
    """Return ``value`` as JSON for a block of the page: no letter of it can end the block, or begin another."""
    return json.dumps(_finite(value), separators=(",", ":")).translate(_ESCAPED)


def _finite(value: Any) -> Any:
    """Return ``value`` with None for numbers that JSON has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list) else value


def _digest(text: str) -> str:
    """Return by what the page lets a browser know its own style and script; nothing else runs."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
