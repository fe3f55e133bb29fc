"""The score stage: the teacher over every shard of the pool."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from bsssl import data, selection, storage
from bsssl.config import Model, Section, by_role
from bsssl.engine.features import Tap
from bsssl.engine.predict import Prediction, average, predict
from bsssl.engine.score import (
    EXCLUDED,
    energy_path,
    excludes_the_same,
    features_path,
    hashes_path,
    looks_path,
    save_shard,
    score_shard,
)
from bsssl.errors import UserError
from bsssl.models import classifier
from bsssl.pipeline.record import Parts, Work
from bsssl.pipeline.stage import Context, PlanRow, Resources, Stage, Task
from bsssl.registry import STAGES
from bsssl.runtime import distributed
from bsssl.runtime.console import logger, progress
from bsssl.selection.scores import SUFFIX
from bsssl.stages.computing import Execution, class_list, normalize, trained_model
from bsssl.stages.data import HELD, POOL
from bsssl.stages.seen import TestView, earlier_view
from bsssl.stages.sources import OVERLAP_REMEDY
from bsssl.stages.train import UNTRAINED


class Eyes(Section):
    """A teacher and how it sees the pool."""

    model: Model
    seen: TestView


class ScoreSettings(Section):
    """What decides the scores, besides the teachers' weights and the pool."""

    top_p: int
    pool_overlap: str
    model: Model
    precision: str
    seen: TestView
    others: tuple[Eyes, ...] = ()
    """further teachers, with whose scores those of the first are averaged"""

    @property
    def teachers(self) -> dict[str, Eyes]:
        """All teachers by role: teacher, teacher-2, ..."""
        return by_role([Eyes(model=self.model, seen=self.seen), *self.others])


@STAGES.register("score")
@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreStage(Stage[ScoreSettings]):
    """The scores of the teacher for every item of the pool."""

    kind = "score"
    outputs = {"scores": ()}  # a file per shard of the pool, of which what is read depends on the reader
    in_parts = True
    shared = True
    resources = Resources(gpu=True)

    execution: Execution
    looks: bool = False
    """whether to leave perceptual hashes beside the scores, of the items that are scored from now on"""
    features: bool = False
    """whether to leave the features of the first teacher there too"""

    @override
    def reads(self, role: str) -> tuple[str, ...]:
        return ("classes", "pool", "held") if role == "data" else ("weights",)

    @override
    def work(self, run: Context) -> dict[str, Any]:
        # What no task has scored yet, processes sharing the shards; then the ledgers are added up.
        pool, folder = self._pool(run), str(run.folder(self.name))
        if distributed.is_main():
            remove_surplus(folder, pool)
        self.work_part(run, Task(distributed.rank(), distributed.world_size()))
        distributed.barrier()
        if not distributed.is_main():
            return {}
        return totals(folder, pool, max_failure_rate=self.execution.max_failure_rate)

    @override
    def work_part(self, run: Context, task: Task) -> None:
        """Score the shards of the task that have no score file of this teacher and pool yet."""
        pool, settings, folder = self._pool(run), self.settings, run.input(self, "data")
        names = [self.needs[role] for role in settings.teachers]
        if untrained := next((name for name in names if run.result(name).get(UNTRAINED)), None):
            raise UserError(
                f"the classifier of {untrained} was never trained, so that its scores would be random; set "
                f"{run.stage(untrained).section}.length, teacher.mode=probe, or weights whose classes are those of the "
                "data, in their order"
            )
        classes, digests = class_list(folder), [run.digest(name) for name in names]
        score_pool(
            pool,
            str(run.folder(self.name)),
            load_networks=lambda: load_teachers(run, self, settings, classes),
            settings=settings,
            execution=self.execution,
            common=common_header(
                pool,
                teacher=digests[0] if len(digests) == 1 else storage.fingerprint(digests),
                classes=classes,
                settings=settings,
            ),
            held=_held_hashes(folder),
            looks=self.looks,
            features=self.features,
            title=f"seed {run.seed}: {self.name}",
            task=task,
        )

    @override
    def files(self, run: Context, result: Mapping[str, Any]) -> Iterable[str]:
        count = result.get("shards") or _pool_shards(run, self)
        return [Path(selection.score_path("", number)).name for number in range(count)]

    @override
    def digest(self, run: Context, output: str) -> str:
        work = run.work(self.name)
        return storage.fingerprint([work.kind, work.version, work.identifying, work.read])

    @override
    def continues(self, run: Context, there: Work) -> bool:
        # Of a pool that has changed, what is still right is kept, shard by shard.
        wanted = run.work(self.name)
        same = all(there.read.get(role) == wanted.read.get(role) for role in self.settings.teachers)
        return same and there.identifying == wanted.identifying

    @override
    def is_unaffected(self, run: Context, role: str, output: str) -> bool:
        # Other labeled or test items change nothing as long as the same items are excluded.
        if output != "held":
            return False
        held, folder = _held_hashes(run.input(self, "data")), str(run.folder(self.name))
        shards = range(_pool_shards(run, self))
        return all(excludes_the_same(selection.score_path(folder, number), held) for number in shards)

    @override
    def num_parts(self, run: Context) -> Parts | None:
        count = _pool_shards(run, self)
        return Parts(count, SUFFIX, "shards") if count else None

    @override
    def summary(self, run: Context) -> str:
        return f"P = {self.settings.top_p}, the classes that each item of the pool keeps"

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        rows = f"{sizes['pool']:,}" if "pool" in sizes else "unknown"
        return PlanRow(rows=rows, batch=str(self.execution.batch), samples=rows)

    @classmethod
    @override
    def earlier(cls, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        seen = earlier_view(settings)
        return {**settings, "seen": seen}, {}

    def _pool(self, run: Context) -> data.Pool:
        return data.read_pool(str(run.input(self, "data") / POOL))


class Teachers:
    """Networks that score items together, on their device.

    Args:
        networks: The networks, on whatever device.
        settings: How they see items.
        execution: How to compute.
        features: Whether the features of the first network are asked for too.
    """

    def __init__(
        self, networks: list[nn.Module], *, settings: ScoreSettings, execution: Execution, features: bool = False
    ) -> None:
        self._compute, self._execution = execution.compute(settings.precision), execution
        self._eyes = [*settings.teachers.values()]
        self._networks = [self._compute.place_model(network) for network in networks]
        self._tap = Tap(classifier(self._networks[0])[1]) if features else None
        if self._compute.compile:
            self._networks = [torch.compile(network) for network in self._networks]  # type: ignore[misc]

    @property
    def views(self) -> int:
        """The views of each item, which follow each other."""
        return self._eyes[0].seen.views(deadline=None).count

    def say(self, records: data.Records, *, hash_content: bool = False, looks: bool = False) -> Iterator[Prediction]:
        """Yield what the networks say of items, on average, with content hashes and looks where they are asked for."""
        said: list[Iterator[Prediction]] = []
        for network, eyes in zip(self._networks, self._eyes, strict=True):
            views = eyes.seen.views(deadline=self._execution.deadline)
            # Of the first teacher's views: one hash of each item is enough.
            dataset = data.ItemDataset(records, views=views, hash_content=hash_content, looks=looks and not said)
            loader = self._execution.eval_loader(dataset, views, self._compute)
            to_floats = normalize(eyes.seen.transforms, self._compute)
            tap = self._tap if not said else None
            said.append(predict(network, loader, normalize=to_floats, compute=self._compute, tap=tap))
        return average(said)


def load_teachers(run: Context, stage: Stage[Any], settings: ScoreSettings, classes: list[str]) -> list[nn.Module]:
    """Return the networks that ``stage`` needs as teacher, teacher-2 and so on."""
    return [trained_model(run.input(stage, role), one.model, classes) for role, one in settings.teachers.items()]


def score_pool(
    pool: data.Pool,
    folder: str,
    *,
    load_networks: Callable[[], list[nn.Module]],
    settings: ScoreSettings,
    execution: Execution,
    common: Mapping[str, Any],
    held: frozenset[bytes],
    title: str,
    task: Task,
    looks: bool = False,
    features: bool = False,
) -> None:
    """Write the score files that are not in ``folder`` yet, of the shards of ``pool`` that are the share of ``task``.

    Args:
        pool: The pool.
        folder: Where the score files go; those of another teacher or pool are replaced.
        load_networks: Returns the networks, on whatever device; it is called if there is a shard to score.
        settings: What decides the scores, besides the network's weights and the pool.
        execution: How to compute.
        common: What the headers of all score files share, see ``common_header``.
        held: Content hashes of the labeled and test items, which the pool must not hold.
        title: What the progress bar calls the work.
        task: One of the tasks that share the work.
        looks: Whether to leave the perceptual hash of every sample too.
        features: Whether to leave the features of every sample, those of the first network.

    Raises:
        UserError: Too many items cannot be read, or the pool holds a labeled or test item and that is refused.
    """
    mine = list(enumerate(pool.shards))[task.number :: task.count]
    missing = [(number, shard) for number, shard in mine if not _is_scored(folder, pool, shard, common, held)]
    if not missing:
        return
    if looks:
        data.import_imagehash()
    teachers, unreadable = Teachers(load_networks(), settings=settings, execution=execution, features=features), 0
    total = sum(shard.num_records for _, shard in missing)
    with progress(iter(()), total=total, unit="item", title=title) as bar:
        for number, shard in missing:
            records = shard.records()
            predictions = _counted(teachers.say(records, hash_content=bool(held), looks=looks), bar.update)
            scores = score_shard(predictions, top_p=settings.top_p, held_hashes=held, views=teachers.views)
            if scores.held and settings.pool_overlap == "refuse":
                _refuse_held(records, scores.held)
            if scores.failures:  # also where they end the run
                records.write_ledger(selection.ledger_path(selection.score_path(folder, number)), scores.failures)
            unreadable += len(scores.failures)
            _check_unreadable(
                unreadable, pool.num_records, list(scores.failures.values()), tolerated=execution.max_failure_rate
            )
            save_shard(selection.score_path(folder, number), scores, header=_header(shard, common), records=records)


def _counted(predictions: Iterable[Prediction], advance: Callable[[int], Any]) -> Iterator[Prediction]:
    """Yield predictions, and tell ``advance`` how many items each is of, all views of which it has."""
    for prediction in predictions:
        yield prediction
        advance(len(np.unique(prediction.index)) + len(prediction.failures))


def common_header(pool: data.Pool, *, teacher: str, classes: list[str], settings: ScoreSettings) -> dict[str, Any]:
    """Return what the headers of all score files of a pool share; ``teacher`` is the digest of the weights.

    Raises:
        UserError: More classes are to be kept of each sample than there are.
    """
    if settings.top_p > len(classes):
        raise UserError(f"score.top_p ({settings.top_p}) is above the {len(classes)} classes of data.train; lower it")
    return {
        "teacher": teacher,
        "class_names": tuple(classes),
        "top_p": settings.top_p,
        "preprocessing": _preprocessing(settings),
        "num_shards": len(pool.shards),
    }


def remove_surplus(folder: str, pool: data.Pool) -> None:
    """Remove from ``folder`` the score files of shards that only an earlier, larger pool had."""
    wanted = {Path(selection.score_path(folder, number)) for number in range(len(pool.shards))}
    for path in set(Path(folder).glob(f"*{SUFFIX}")) - wanted:
        for beside in (selection.ledger_path, hashes_path, looks_path, energy_path, features_path):
            Path(beside(str(path))).unlink(missing_ok=True)
        path.unlink()


def totals(folder: str, pool: data.Pool, *, max_failure_rate: float) -> dict[str, Any]:
    """Return totals over all shards; too many unreadable items in all is an error here at the latest."""
    paths = selection.score_files(folder)
    ledgers = [storage.read_ledger(selection.ledger_path(path)) for path in paths]
    reasons = [reason for ledger in ledgers for _, reason in ledger if reason != EXCLUDED]
    excluded = sum(len(ledger) for ledger in ledgers) - len(reasons)
    _check_unreadable(len(reasons), pool.num_records, reasons, tolerated=max_failure_rate)
    if reasons or excluded:
        logger.info("pool: %d unreadable, %d excluded (listed in the ledgers)", len(reasons), excluded)
    return {
        "records": pool.num_records,
        "scored": pool.num_records - len(reasons) - excluded,
        "unreadable": len(reasons),
        "excluded": excluded,
        "shards": len(pool.shards),
    }


def _preprocessing(settings: ScoreSettings) -> dict[str, Any]:
    """Return how the teacher sees the samples, in the layout that score files have had from the first version."""
    content = settings.model_dump(mode="json")
    # Keys that are newer than score files are there when they are used.
    content["model"] = settings.model.model_dump(mode="json", include={"name", "options", "weights", "frames"})
    content["model"] |= settings.model.model_dump(mode="json", exclude_defaults=True)
    if not settings.others:
        del content["others"]
    seen = content.pop("seen")
    clips = seen.pop("clips")
    if clips is not None:  # as before there were such
        clips = {name: value for name, value in clips.items() if value or name not in ("fps", "reader_options")}
    if seen["transforms"]["interpolation"] == "bilinear":
        del seen["transforms"]["interpolation"]
    return {**content, **seen} | ({} if clips is None else {"clips": {**clips, "deadline": None}})


def _is_scored(
    folder: str, pool: data.Pool, shard: data.Shard, common: Mapping[str, Any], held: frozenset[bytes]
) -> bool:
    """Return whether this teacher's scores of the shard are there, without items that are held.

    The place of the shard in the pool may have changed.
    """
    path, header = selection.score_path(folder, shard.number), _header(shard, common)
    if not selection.has_scores(path, header=header, pool=pool.fingerprint):
        return False
    if held and not excludes_the_same(path, held):
        return False
    selection.rebase_scores(path, header=header)
    return True


def _check_unreadable(unreadable: int, total: int, reasons: list[str], *, tolerated: float) -> None:
    if unreadable > tolerated * total:
        raise UserError(
            f"{unreadable} of the pool's {total} items cannot be read, more than the tolerated {tolerated:.1%} "
            f"(for example: {'; '.join(reasons[:3])}); mend the pool or raise data.max_failure_rate"
        )


def _header(shard: data.Shard, common: Mapping[str, Any]) -> selection.ScoreHeader:
    return selection.ScoreHeader(
        **common,
        shard=shard.name,
        number=shard.number,
        base=shard.base,
        num_records=shard.num_records,
        records=shard.digest,
    )


def _pool_shards(run: Context, stage: ScoreStage) -> int:
    """Return the number of shards that the data stage has listed; 0 where it has not yet."""
    record = run.record(stage.needs["data"])
    return 0 if record is None else int(record.result["pool_shards"])


def _held_hashes(data_folder: Path) -> frozenset[bytes]:
    """Return hashes of the labeled and test items, which the pool must not hold; none where that is allowed."""
    with storage.open_read(str(data_folder / HELD)) as file:
        content = file.read()
    return frozenset(content[start : start + data.HASH_BYTES] for start in range(0, len(content), data.HASH_BYTES))


def _refuse_held(records: data.Records, held: list[int]) -> None:
    keys = records.take(held[:5]).key.to_pylist()
    raise UserError(
        f"the pool holds {len(held)} copies of labeled or test items (such as {', '.join(keys)}); {OVERLAP_REMEDY}"
    )
