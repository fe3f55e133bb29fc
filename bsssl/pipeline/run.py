"""One run: a finished list of stages in one folder, what of them is done, and why something runs again.

Each stage has a folder; its ``done.json`` appears last, with everything that decided its result: the kind and version
of the stage, its settings, and digests of what it read. A stage runs again only if one of these is no longer what it
was. How an input was made does not matter: one that was made again and came out the same makes no reader run.
"""

import contextlib
import os
import shlex
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bsssl import storage
from bsssl.errors import UserError
from bsssl.pipeline.progress import CONFIG, STAGES
from bsssl.pipeline.record import DONE, Record, Work, differences, read_record, read_work, unreadable
from bsssl.pipeline.stage import Stage, identifying


class Run:
    """The stages of one seed, in ``<output_dir>/seed-<seed>``.

    Args:
        stages: All of them, each after those it needs.
        seed: The seed of everything random.
        output_dir: The common folder of all seeds.
        config_path: The file the config came from and its overrides, as in the commands that errors name.
        config: The resolved config as YAML, which is left in the folder.
    """

    def __init__(
        self, stages: Sequence[Stage[Any]], *, seed: int, output_dir: str, config_path: str, config: str
    ) -> None:
        self.stages = {stage.name: stage for stage in stages}
        self.seed = seed
        self.output_dir = output_dir
        self.path = Path(output_dir) / f"seed-{seed}"
        self.config_path = config_path
        self.config = config
        self._fingerprints: dict[tuple[str, tuple[str, ...] | None], str] = {}
        # As the run found it: files that change while it works are noticed by the next one.
        self._outside: dict[str, dict[str, Any]] = {}

    def introduce(self) -> None:
        """Leave the resolved config and the names of all stages in the folder, for those who look at it alone."""
        storage.write_text(str(self.path / CONFIG), self.config)
        storage.write_json(str(self.path / STAGES), [*self.stages])

    def folder(self, name: str) -> Path:
        """Return where stage ``name`` leaves its results."""
        return self.path / name

    def input(self, stage: Stage[Any], role: str) -> Path:
        """Return the folder of the stage that has ``role`` for ``stage``."""
        return self.folder(stage.needs[role])

    def stage(self, name: str) -> Stage[Any]:
        """Return the stage called ``name``."""
        return self.stages[name]

    def fingerprint(self, name: str, outputs: tuple[str, ...] | None = None) -> str:
        """Return the fingerprint of the settings of stage ``name`` and of all it needs, whatever is done of them.

        ``outputs``: only as far as they decide these outputs of the stage.
        """
        key = (name, outputs)
        if key not in self._fingerprints:
            stage = self.stages[name]
            own = identifying(stage.settings) if outputs is None else stage.settings_of(outputs)
            needs = {
                role: self.fingerprint(need, stage.reads(role))
                for role, need in sorted(stage.needs.items())
                if not self.stages[need].joined_later or self.stages[need].settings_of(stage.reads(role))
            }
            self._fingerprints[key] = storage.fingerprint([name, stage.kind, stage.version, own, needs])
        return self._fingerprints[key]

    def work(self, name: str) -> Work:
        """Return what identifies the work of stage ``name`` with the results that its inputs have by now."""
        stage = self.stages[name]
        parts = stage.num_parts(self)
        return Work(
            stage=name,
            kind=stage.kind,
            version=stage.version,
            settings=stage.settings.model_dump(mode="json"),
            identifying=identifying(stage.settings),
            read=self._read(stage),
            outside=self._outside_of(stage),
            parts=parts,
        )

    def identity(self, name: str) -> str:
        """Return the fingerprint of ``work(name)``."""
        return self.work(name).identity

    def digest(self, name: str) -> str:
        """Return the digest of all that the finished stage ``name`` left."""
        return storage.fingerprint(dict(self._finished(name).digests))

    def record(self, name: str, folder: Path | None = None) -> Record | None:
        """Return what stage ``name`` wrote when it was done last, whatever the settings then; None if it never was.

        ``folder``: that of the stage's results, where it is another than ``folder(name)``.
        """
        folder = folder or self.folder(name)
        content = read_record(folder)
        return self._upgraded(self.stages[name], content, folder) if isinstance(content, dict) else content

    def result(self, name: str) -> dict[str, Any]:
        """Return the figures that the finished stage ``name`` left."""
        return self._finished(name).result

    def pending(self, name: str, folder: Path | None = None) -> str | None:
        """Return why stage ``name`` has to run; None when its result, with these settings and inputs, is there."""
        stage, place = self.stages[name], folder or self.folder(name)
        record = self.record(name, place)
        work = self.work(name)
        if record is None:
            return None if self.is_earlier_than(name) else self._begun(place, work)
        # What is gone of the inputs cannot have changed: one as a whole, or a part of one.
        read = {role: record.read.get(role, {}) for role in stage.needs}
        for role, digests in work.read.items():
            read[role] = {output: digest or read[role].get(output, "") for output, digest in digests.items()}
        work = replace(work, read=read)
        if work.identity == record.identity or self._is_unaffected(stage, record, work):
            # Of work in parts the wrong part alone is done again, as one that is missing.
            missing = self._missing(stage, record, place) or self._resized(stage, record, place)
            return missing or self.edited(name, place)
        return _summary(explain(record, work, stage))

    def is_earlier_than(self, name: str) -> bool:
        """Return whether stage ``name`` is not of this run: it joined later, and what needs it was done without it."""
        if not self.stages[name].joined_later or self.record(name) is not None:
            return False
        readers = [(one, role) for one in self.stages.values() for role, need in one.needs.items() if need == name]
        records = [(self.record(one.name), role) for one, role in readers]
        return any(record is not None and role not in record.read for record, role in records)

    def earlier_than(self, name: str) -> list[str]:
        """Return the stages of the run that are done before stage ``name`` begins although it reads nothing of them."""
        return [one for one in self.stages[name].after if one in self.stages]

    def awaits(self, name: str) -> str | None:
        """Return the first stage that has to run before it is known whether the finished stage ``name`` has to."""
        for need in self.stages[name].needs.values():
            first = self.awaits(need) or (need if self.pending(need) is not None else None)
            if first is not None:
                return first
        return None

    def require_inputs(self, name: str, *, besides: Container[str] = ()) -> None:
        """Refuse to go on while something that stage ``name`` depends on is not there.

        ``besides``: stages that are on their way.

        Raises:
            UserError: A stage has to run first; the message names its command.
        """
        needs = [*self.stages[name].needs.values(), *self.earlier_than(name)]
        for need in reversed(needs):  # the data last: what needs the rest has seen to it
            if need in besides:
                continue
            lacking = need if self.pending(need) is not None else self.awaits(need)
            if lacking is not None and lacking not in besides:
                raise UserError(
                    f"{name} needs the result of '{lacking}' in {self.folder(lacking)} ({self.pending(lacking)})"
                    f"{self._before(lacking)}; run first: {self.command(lacking)}"
                )

    def _before(self, name: str) -> str:
        """Return what else is to be done before stage ``name``, and what that would stop at, as a part of an error."""
        needed = {name}
        for one in reversed(self.stages.values()):  # each comes after those it needs
            if one.name in needed:
                needed |= {*one.needs.values()}
        lacking = [one for one in self.stages.values() if one.name in needed and self.pending(one.name) is not None]
        problems = []
        for one in lacking:
            try:
                one.require_outside()
            except UserError as error:
                problems += str(error).splitlines()
        earlier = [one.name for one in lacking if one.name != name and not one.prepares]
        chain = f", and before it {', '.join(earlier)}, which bsssl run does one after the other"
        missing = (
            f"; of their data some is not there ({'; '.join(problems)}): the first lines of the config say what it "
            "needs, and bsssl init writes one for data of your own"
        )
        return (chain if earlier else "") + (missing if problems else "")

    def command(self, name: str) -> str:
        """Return the command line that runs stage ``name``."""
        verb, *arguments = self.stages[name].command
        return " ".join(["bsssl", verb, "--config", self.config_path, *map(shlex.quote, arguments)])

    def _finished(self, name: str) -> Record:
        record = self.record(name)
        if record is None:
            raise UserError(f"stage '{name}' of {self.path} is not done; run first: {self.command(name)}")
        return record

    def _read(self, stage: Stage[Any]) -> dict[str, dict[str, str]]:
        """Return the digests of what ``stage`` reads of those of its inputs that are done."""
        records = {role: self.record(need) for role, need in stage.needs.items()}
        return {
            role: {output: record.digests.get(output, "") for output in stage.reads(role)}
            for role, record in records.items()
            if record is not None
        }

    def _outside_of(self, stage: Stage[Any]) -> dict[str, Any]:
        if stage.name not in self._outside:
            self._outside[stage.name] = storage.as_json(stage.outside())
        return self._outside[stage.name]

    def _begun(self, folder: Path, work: Work) -> str:
        begun = read_work(folder)
        if begun is None:
            return "not done yet"
        if begun.identity == work.identity:
            return "not finished yet"
        return f"not done yet; what was begun differs: {_summary(explain(begun, work, self.stages[work.stage]))}"

    def _is_unaffected(self, stage: Stage[Any], record: Record, work: Work) -> bool:
        """Return whether ``record`` differs from ``work`` in nothing but inputs that the stage knows to be the same."""
        if replace(record, read=work.read).identity != work.identity:
            return False
        changed = [
            (role, output)
            for role, digests in work.read.items()
            for output in digests
            if record.read.get(role, {}).get(output) != digests[output]
        ]
        return all(stage.is_unaffected(self, role, output) for role, output in changed)

    def measured(self, name: str, record: Record) -> Record:
        """Return ``record`` with the sizes and times that the files which stage ``name`` has left have now."""
        stage, folder = self.stages[name], self.folder(name)
        stamps = {file: _stamp(folder / file) for files in stage.leaves().values() for file in files}
        others = _without_digest(stage, stage.files(self, record.result))
        return replace(record, files=stamps, sizes=tuple((folder / file).stat().st_size for file in others))

    def edited(self, name: str, folder: Path) -> str | None:
        """Return which files of the finished stage ``name`` in ``folder`` somebody has changed since, or None."""
        stage, record = self.stages[name], self.record(name, folder)
        assert record is not None
        for output, names in stage.leaves().items():
            if any((folder / file).is_dir() for file in names):
                return f"{' or '.join(names)} is not what the stage has left"
            there = [file for file in names if (folder / file).exists()]
            if any(_stamp(folder / file) != record.files.get(file) for file in there) and (
                storage.digest(str(folder / file) for file in there) != record.digests.get(output)
            ):
                return f"{' or '.join(names)} is not what the stage has left"
        return None if stage.in_parts else self._resized(stage, record, folder)

    def _missing(self, stage: Stage[Any], record: Record, folder: Path) -> str | None:
        """Return which files of a finished stage are gone, or None."""
        wanted = sorted(set(stage.files(self, record.result)))
        there = _entries(folder, wanted)
        lost = [name for name in wanted if name not in there]
        return f"{lost[0]} is missing" + (f", and {len(lost) - 1} more" if lost[1:] else "") if lost else None

    def _resized(self, stage: Stage[Any], record: Record, folder: Path) -> str | None:
        """Return which file without a digest has another size than the finished stage has left it with, or None."""
        names = _without_digest(stage, stage.files(self, record.result)) if record.sizes else []
        there = _entries(folder, names)
        for name, size in zip(names, record.sizes, strict=False):
            if name in there and there[name].stat().st_size != size:
                return f"{name} is not what the stage has left"
        return None

    def _upgraded(self, stage: Stage[Any], old: dict[str, Any], folder: Path) -> Record:
        """Return a record of format 1 as one of today's, its digests measured anew where its outputs were others."""
        try:
            own, outside = stage.earlier(dict(old["settings"]))
            settings = type(stage.settings).model_validate(own)
        except (ValidationError, KeyError, TypeError, AttributeError, StopIteration):  # edited by hand
            raise unreadable(folder / DONE) from None
        read = {}
        for role, need in stage.needs.items():
            if need in old["read"]:
                digests = _regrouped(self.stages[need], old["read"][need], self.folder(need))
                read[role] = {output: digests.get(output, "") for output in stage.reads(role)}
        return Record(
            **{key: old[key] for key in ("stage", "result")},
            **{key: old[key] for key in ("seconds", "finished", "processes", "versions", "git") if key in old},
            kind=stage.kind,
            version=1,
            settings=settings.model_dump(mode="json"),
            identifying=identifying(settings),
            read=read,
            outside=outside,
            digests=_regrouped(stage, old["digests"], folder),
        )


def _regrouped(stage: Stage[Any], digests: Mapping[str, str], folder: Path) -> Mapping[str, str]:
    """Return digests by today's outputs for those of format 1; nothing for files that have changed since."""
    if not stage.earlier_outputs:
        return digests
    same = {
        name
        for output, names in stage.earlier_outputs.items()
        if output in digests and all((folder / name).exists() for name in names)
        and storage.digest(str(folder / name) for name in names) == digests[output]
        for name in names
    }  # fmt: skip
    return {
        output: storage.digest(str(folder / name) for name in names)
        for output, names in stage.leaves().items()
        if same.issuperset(names)
    }


def explain(old: Work, new: Work, stage: Stage[Any]) -> list[str]:
    """Return what keeps ``old`` work from being ``new``, a line for each thing."""
    if old.kind != new.kind:
        return [f"it was '{old.kind}' and is '{new.kind}' now"]
    if old.version != new.version:
        return [f"'{new.kind}' works differently since it was done (version {old.version} -> {new.version})"]
    lines = differences(storage.as_json(old.settings), storage.as_json(new.settings))
    lines = [stage.key_of(line) for line in lines]
    lines += [
        f"{stage.needs.get(role, role)} was made again and came out differently"
        for role in new.read
        if dict(old.read.get(role, {})) != dict(new.read[role])
    ]
    for key in new.outside:
        # Where a line says that another place is named, it is no news that what lies there is another.
        is_told = any(line.startswith(tuple(key.split(" or "))) for line in lines)
        if old.outside.get(key) != new.outside[key] and not is_told:
            lines.append(f"{key} has changed")
    return lines or ["its record was edited"]


def _summary(changes: Sequence[str]) -> str:
    return "; ".join(changes[:3]) + (f"; and {len(changes) - 3} more" if len(changes) > 3 else "")


def _stamp(path: Path) -> list[int]:
    """Return what no file has any more that was written to, whatever time it was given then, nor a copy of it."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _entries(folder: Path, names: Iterable[str]) -> dict[str, os.DirEntry[str]]:
    """Return what there is in ``folder`` and in the folders below it that ``names`` mention: they may be very many."""
    there: dict[str, os.DirEntry[str]] = {}
    for place in {os.path.dirname(name) for name in names}:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder / place) as entries:
            there.update((os.path.join(place, entry.name), entry) for entry in entries)
    return there


def _without_digest(stage: Stage[Any], names: Iterable[str]) -> list[str]:
    """Return those of the files called ``names`` that no digest of ``stage`` is of, in order."""
    return sorted(set(names).difference(*stage.leaves().values()))


def is_done(folder: Path) -> bool:
    """Return whether a stage has left its record in ``folder``."""
    return (folder / DONE).exists()
