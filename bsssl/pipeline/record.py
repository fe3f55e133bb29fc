"""The records of work: what a finished stage was made of and left, and what an unfinished one was begun with."""

import datetime
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bsssl import storage
from bsssl.errors import UserError
from bsssl.runtime import distributed
from bsssl.runtime.secrets import hidden

FORMAT = 2
DONE, BEGUN = "done.json", "begun.json"
_PACKAGES = ("bsssl", "torch", "torchvision", "timm", "numpy", "pyarrow")
Digests = Mapping[str, Mapping[str, str]]
"""digests of what was read, by role and output"""


@dataclass(frozen=True)
class Parts:
    """The independent parts of a stage as they can be seen in its folder, each a file ``<number><suffix>``."""

    count: int
    suffix: str
    unit: str
    """what a part is, in the plural"""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What identifies the work of a stage, and explains why another is not the same."""

    stage: str
    kind: str
    version: int
    settings: Mapping[str, Any]
    """all of them, as JSON, for people and for explanations"""
    identifying: Any
    """those that differ from their defaults"""
    read: Digests
    outside: Mapping[str, Any]
    """what was noted of the files outside the run"""
    parts: Parts | None = None
    """the parts of work that has some, for those who look at the folder alone"""

    def __post_init__(self) -> None:
        # Secrets of URLs are not kept; that another one was given can be told.
        for name in ("settings", "identifying", "outside"):
            object.__setattr__(self, name, hidden(getattr(self, name)))

    @property
    def identity(self) -> str:
        """The fingerprint of everything that decides the result: equal ones compute the same."""
        return storage.fingerprint(
            [self.stage, self.kind, self.version, self.identifying, _plain(self.read), self.outside]
        )


@dataclass(frozen=True, kw_only=True)
class Record(Work):
    """What a finished stage wrote last of all."""

    result: dict[str, Any]
    digests: Mapping[str, str]
    """of what was left, by output"""
    files: Mapping[str, list[int]] = field(default_factory=dict)
    """size and times of each file that has a digest, as they were then; none in records of format 1"""
    sizes: tuple[int, ...] = ()
    """of the files without a digest, which may be very many, in the order of their names; none in earlier records"""
    seconds: float = 0.0
    finished: str = ""
    processes: int = 1
    versions: Mapping[str, str] = field(default_factory=dict)
    git: str | None = None


_NAMES = {kind: {one.name for one in fields(kind)} for kind in (Work, Record)}


def read_work(folder: Path) -> Work | None:
    """Return what an unfinished stage in ``folder`` was begun with; None when that is not known."""
    content = _content(folder / BEGUN)
    return None if content is None else _made(Work, content, folder / BEGUN)


def read_record(folder: Path) -> Record | dict[str, Any] | None:
    """Return what the finished stage in ``folder`` wrote, a record of format 1 as it is; None when it is not done.

    Raises:
        UserError: The record is damaged, was edited beyond reading, or was written by a newer version of the program.
    """
    path = folder / DONE
    content = _content(path)
    if content is None:
        return None
    if content.get("format", 1) == 1:
        known = {"stage": str, "settings": dict, "digests": dict, "read": dict, "result": dict}
        if not all(isinstance(content.get(key), kind) for key, kind in known.items()):
            raise unreadable(path)
        return content
    record: Record = _made(Record, content, path)
    return record


def write_begun(folder: Path, work: Work) -> None:
    """Note what the stage in ``folder`` is begun with."""
    storage.write_json(str(folder / BEGUN), {"format": FORMAT, **_as_json(work)})


def write_record(folder: Path, record: Record) -> None:
    """Write the record of a stage that is done; from then on it counts as finished."""
    storage.write_json(str(folder / DONE), {"format": FORMAT, "identity": record.identity, **_as_json(record)})
    (folder / BEGUN).unlink(missing_ok=True)


def finished_now(work: Work, *, result: dict[str, Any], digests: Mapping[str, str], seconds: float) -> Record:
    """Return the record of work that has just been done."""
    return Record(
        **_as_dict(work),
        result=result,
        digests=digests,
        seconds=round(seconds, 1),
        finished=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        processes=distributed.world_size(),
        versions={package: metadata.version(package) for package in _PACKAGES},
        git=_revision(),
    )


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Return the values that differ between two nested settings, as ``path: old -> new`` where that is short."""
    if isinstance(old, dict) and isinstance(new, dict) and _are_alike(old, new):
        keys = sorted(old.keys() | new.keys())
        lines = [differences(old.get(key), new.get(key), f"{path}.{key}" if path else key) for key in keys]
        return [line for below in lines for line in below]
    if old == new:
        return []
    if old is None and isinstance(new, dict):
        return [f"{path} is new"]
    if new is None and isinstance(old, dict):
        return [f"{path} is gone"]
    return [f"{path}: {old} -> {new}" if len(f"{old}{new}") < 80 else f"{path} has changed"]


def _are_alike(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Return whether it says something to compare two sections key by key: not, say, a source with several by name."""
    hold_sections = all(isinstance(value, dict) for value in [*old.values(), *new.values()])
    return bool(old.keys() & new.keys()) or not (old and new) or hold_sections


def _content(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    if path.is_dir():
        raise unreadable(path)
    content = storage.read_json(str(path))
    if not isinstance(content, dict):
        raise unreadable(path)
    written = content.get("format", 1)
    if not isinstance(written, int) or written < 1:
        raise unreadable(path)
    if written > FORMAT:
        raise UserError(
            f"{path} has record format {written}, this program reads up to {FORMAT}: it was written by a newer bsssl; "
            "upgrade, or choose another output_dir"
        )
    return content


def _made(kind: Any, content: dict[str, Any], path: Path) -> Any:
    try:
        return TypeAdapter(kind).validate_python({key: content[key] for key in content if key in _NAMES[kind]})
    except ValidationError:
        raise unreadable(path) from None


def unreadable(path: Path) -> UserError:
    """Return the error about a record that somebody has damaged."""
    return UserError(f"{path} is not a record of a stage; delete it, and the stage runs again")


def _as_dict(work: Work) -> dict[str, Any]:
    return {one.name: getattr(work, one.name) for one in fields(work)}


def _as_json(work: Work) -> dict[str, Any]:
    return {**_as_dict(work), "parts": None if work.parts is None else asdict(work.parts)}


def _plain(read: Digests) -> dict[str, dict[str, str]]:
    return {role: dict(digests) for role, digests in read.items()}


def _revision() -> str | None:
    """Return the git revision of the installed project, with a + when files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        return subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        return None  # git is not installed
