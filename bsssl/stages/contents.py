"""The contents stage: the bytes of every item, read once before anything is trained, for what is damaged or a copy."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from bsssl import data, storage
from bsssl.config import Section
from bsssl.errors import Problems
from bsssl.pipeline.record import Parts, Work
from bsssl.pipeline.stage import Context, PlanRow, Stage, Task, identifying
from bsssl.registry import STAGES
from bsssl.runtime import distributed
from bsssl.runtime.console import logger, printable, progress
from bsssl.stages.computing import Execution, split_records
from bsssl.stages.copied import IN_POOL, LABELED, key_of, pair_of, same_items, told
from bsssl.stages.data import POOL
from bsssl.stages.sources import OVERLAP_REMEDY

COPIES, UNREADABLE = "copies.parquet", "unreadable.jsonl"
_ITEMS = 10_000  # of labels and tests in a part
_EXAMPLES = 3


class Reading(Section):
    """How videos are read."""

    backend: str = "av"
    options: dict[str, Any] = {}


class ContentsSettings(Section):
    """What is looked for, and what is done about it."""

    verify: str = "headers"
    duplicates: str = "remove"
    pool_overlap: str = "refuse"
    max_pixels: int = 178_956_970
    videos: Reading | None = None
    """None for pictures"""

    @property
    def is_off(self) -> bool:
        """Whether nothing is looked for, and no item need be read."""
        return (self.verify, self.duplicates, self.pool_overlap) == ("off", "allow", "allow")

    def leaves_out(self, other: str) -> bool:
        """Return whether selection leaves out items of the pool that are copies of items of the set ``other``."""
        return self.duplicates == "remove" if other == IN_POOL else self.pool_overlap == "exclude"


@STAGES.register("contents")
@dataclass(frozen=True, kw_only=True, eq=False)
class ContentsStage(Stage[ContentsSettings]):
    """What cannot be read, and what is there more than once, of labels, tests and pool."""

    kind = "contents"
    outputs = {"copies": (COPIES,)}
    in_parts = True
    shared = True
    joined_later = True

    tests: tuple[str, ...]
    """the outputs of the data stage that are test sets"""
    execution: Execution
    max_missing_rate: float
    """share of unreadable test items that is tolerated"""

    @override
    def reads(self, role: str) -> tuple[str, ...]:
        return (LABELED, *self.tests, "pool")

    @override
    def work(self, run: Context) -> dict[str, Any]:
        # What no task has read yet, processes sharing the parts; then what they say is put together.
        self.work_part(run, Task(distributed.rank(), distributed.world_size()))
        distributed.barrier()
        return self._totals(run) if distributed.is_main() else {}

    @override
    def work_part(self, run: Context, task: Task) -> None:
        """Read the items of the parts of the task that have no file yet."""
        settings = self.settings
        videos = None if settings.videos is None else settings.videos.model_dump()
        if videos is not None and self.execution.deadline is not None:
            videos["deadline"] = self.execution.deadline
        check = data.make_check(settings.verify, max_pixels=settings.max_pixels, reading=videos)
        mine = self._parts(run)[task.number :: task.count]
        missing = [part for part in mine if not data.has_contents(self._path(run, part), about=self._about(part))]
        total = sum(part.count for part in missing)
        with progress(iter(()), total=total, unit="item", title=f"seed {run.seed}: {self.name}") as bar:
            for part in missing:
                tables = [data.CONTENTS_SCHEMA.empty_table()]
                for table in data.read_contents(part.records(), check=check):
                    tables.append(table)
                    bar.update(len(table))
                data.write_contents(self._path(run, part), pa.concat_tables(tables), about=self._about(part))

    def _totals(self, run: Context) -> dict[str, Any]:
        """Leave the lists of what cannot be used and of copies; return the figures, if they let the run go on."""
        folder, parts = run.folder(self.name), sorted(self._parts(run), key=lambda part: part.first)
        paths = [self._path(run, part) for part in parts]
        for surplus in {*folder.glob(f"*{data.CONTENTS_SUFFIX}")}.difference(map(Path, paths)):
            surplus.unlink()  # of an earlier, larger pool
        unreadable = _Unreadable()
        storage.write_ledger(str(folder / UNREADABLE), unreadable.entries(zip(parts, paths, strict=True)))
        counts: Counter[str] = Counter()
        for part in parts:
            counts[part.items] += part.count
        pairs = data.find_copies(
            (data.numbered_hashes(part, path) for part, path in zip(parts, paths, strict=True)),
            total=counts.total(),
            firsts=[0, *np.cumsum([counts[name] for name in self._sets[:-1]]).tolist()],
            folder=str(folder),
        )
        copies = data.write_copies(str(folder / COPIES), pairs, parts=parts, leaves_out=self.settings.leaves_out)
        problems = [
            *unreadable.problems(counts, self._tolerated, listed_in=folder / UNREADABLE),
            *self._overlap(copies, folder / COPIES),
        ]
        if problems:
            for path in unreadable.paths:
                Path(path).unlink()  # so that the same command sees what was mended meanwhile
            raise Problems("\n".join(map(printable, problems)))
        figures = {
            "parts": len(parts),
            "records": counts.total(),
            "unreadable": dict(unreadable.counts),
            "copies": {pair_of(*pair): count for pair, count in sorted(copies.counts.items())},
            "examples": {pair_of(*pair): some for pair, some in sorted(copies.examples.items())},
            "left_out": copies.left_out,
            "torn": _torn(run.input(self, "data"), folder / COPIES),
        }
        say = logger.warning if any(same.learned for same in same_items(figures)) else logger.info
        for line in told(figures):
            say("%s", line)
        return figures

    def _tolerated(self, items: str) -> tuple[float, str]:
        """Return the share of a set that may be unreadable, and the key that says so."""
        if items in self.tests:
            return self.max_missing_rate, "data.max_missing_rate"
        return self.execution.max_failure_rate, "data.max_failure_rate"

    def _overlap(self, copies: data.Copies, listed_in: Path) -> Iterator[str]:
        """Yield what is wrong with a pool that holds labeled or test items."""
        if copies.in_others and self.settings.pool_overlap == "refuse":
            examples = [one for others in self._sets[:-1] for one in copies.examples.get((IN_POOL, others), [])]
            yield (
                f"the pool holds {copies.in_others} copies of labeled or test items (such as "
                f"{', '.join(examples[:_EXAMPLES])}; all are in {listed_in}); {OVERLAP_REMEDY}"
            )

    def _parts(self, run: Context) -> list[data.Part]:
        """Return the parts of the work: the shards of the pool, then labels and tests; none where nothing is asked."""
        folder, parts, first = run.input(self, "data"), list[data.Part](), 0
        if self.settings.is_off:
            return []
        shards = data.read_pool(str(folder / POOL)).shards
        for items in self._sets[:-1]:
            records = split_records(folder, items)
            for start in range(0, len(records), _ITEMS):
                some = records[start : start + _ITEMS]
                parts.append(
                    data.Part(
                        number=len(shards) + len(parts),
                        items=items,
                        start=start,
                        first=first + start,
                        count=len(some),
                        digest=data.records_digest(some).hex(),
                        records=partial(_itself, some),
                    )
                )
            first += len(records)
        of_pool = (
            data.Part(
                number=shard.number,
                items=IN_POOL,
                start=0,
                first=first + shard.base,
                count=shard.num_records,
                digest=shard.digest,
                records=shard.records,
            )
            for shard in shards
        )
        return [*of_pool, *parts]

    def _path(self, run: Context, part: data.Part) -> str:
        return str(run.folder(self.name) / _file(part.number))

    def _about(self, part: data.Part) -> dict[str, Any]:
        """Return what the file of a part is about: the items, and how they were looked at."""
        how = self.settings.model_dump(mode="json", include={"verify", "max_pixels", "videos"})
        return {**how, "hash": data.CONTENTS_HASH, "records": part.digest}

    @property
    def _sets(self) -> tuple[str, ...]:
        """The names of the sets: an item is a copy of one in its own or in an earlier set."""
        return (LABELED, *self.tests, IN_POOL)

    @override
    def files(self, run: Context, result: Mapping[str, Any]) -> Iterable[str]:
        return [COPIES, UNREADABLE, *map(_file, range(result["parts"]))]

    @override
    def settings_of(self, outputs: Iterable[str]) -> Any:
        # What cannot be used is selected in no case; of the overlap the data stage's settings say the same.
        return {key: value for key, value in identifying(self.settings).items() if key == "duplicates"}

    @override
    def key_of(self, setting: str) -> str:
        return f"data.{setting}"

    @override
    def continues(self, run: Context, there: Work) -> bool:
        # The file of each part says what it is about.
        return True

    @override
    def num_parts(self, run: Context) -> Parts | None:
        record = run.record(self.needs["data"])
        if record is None or self.settings.is_off or not record.result.keys() >= {*self._sets}:
            return None
        counts = [int(record.result[items]) for items in self._sets[:-1]]
        count = int(record.result["pool_shards"]) + sum(-(-one // _ITEMS) for one in counts)
        return Parts(count, data.CONTENTS_SUFFIX, "parts")

    @override
    def sizes(self, run: Context) -> tuple[Mapping[str, int], str]:
        record = run.record(self.name)
        is_known = record is not None and run.pending(self.name) is None
        return {}, "\n".join(told(record.result)) if record is not None and is_known else ""

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        known = all(items in sizes for items in self._sets)
        return PlanRow(rows=f"{sum(sizes[items] for items in self._sets):,}" if known else "unknown")

    @override
    def summary(self, run: Context) -> str:
        left_out = run.result(self.name)["left_out"]
        return f"{left_out:,} copies of other items are left out of the pool" if left_out else ""


@dataclass
class _Unreadable:
    """What cannot be used, by set: how many items, and why the first of them."""

    counts: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    """the files of the parts with such items"""

    def entries(self, parts: Iterable[tuple[data.Part, str]]) -> Iterator[tuple[str, str]]:
        """Yield key and reason of what cannot be used of parts, each with its file, and count it."""
        for part, path in parts:
            if failures := data.failures(path):
                self.paths.append(path)
                self.counts[part.items] += len(failures)
                self.reasons.setdefault(part.items, [*failures.values()][:_EXAMPLES])
                keys = part.records().key.take(np.array([*failures])).to_pylist()
                yield from zip(keys, failures.values(), strict=True)

    def problems(
        self, counts: Mapping[str, int], tolerated: Callable[[str], tuple[float, str]], *, listed_in: Path
    ) -> Iterator[str]:
        """Yield a problem for each set with too many of them, of which there are ``counts`` items."""
        for items, count in self.counts.items():
            share, key = tolerated(items)
            if count > share * counts[items]:
                yield (
                    f"{key_of(items)}: {count} of {counts[items]} items cannot be read, more than the tolerated "
                    f"{share:.1%} (for example: {'; '.join(self.reasons[items])}; all are in {listed_in}); mend "
                    f"{'the pool' if items == IN_POOL else 'them'} or raise {key}"
                )


def _torn(splits: Path, copies: Path) -> list[str]:
    """Return the labeled and test items that are copies of such with another label, each with what it is a copy of."""
    rows = pq.read_table(copies, filters=[("set", "!=", IN_POOL)], use_threads=False).to_pylist()
    pairs = [((row["set"], row["key"]), (row["of_set"], row["of_key"])) for row in rows]
    wanted = {one for pair in pairs for one in pair}
    of_sets = {name: split_records(splits, name) for name, _ in wanted}
    items = ((name, one) for name, records in of_sets.items() for one in records)
    label = {(name, one.key): one.label for name, one in items if (name, one.key) in wanted}
    return [f"{one[1]} ({label[one]}) of {of[1]} ({label[of]})" for one, of in pairs if label[one] != label[of]]


def _file(number: int) -> str:
    return f"{number:06d}{data.CONTENTS_SUFFIX}"


def _itself(records: data.Records) -> data.Records:
    return records
