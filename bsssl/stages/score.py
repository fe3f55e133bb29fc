"""The score stage: the teacher over every shard of the pool."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from bsssl import data, selection, storage
from bsssl.config import Config
from bsssl.engine.predict import predict
from bsssl.engine.score import EXCLUDED, save_shard, score_shard
from bsssl.errors import UserError
from bsssl.pipeline.run import Run, Stage, Task
from bsssl.runtime import distributed
from bsssl.runtime.console import logger, progress
from bsssl.stages import inputs


def score_stage(run: Run[Config], stage: Stage) -> dict[str, Any]:
    """Score what no task has scored yet, processes sharing the shards, and add up the ledgers."""
    pool = data.read_pool(str(run.folder("data") / inputs.POOL))
    if distributed.is_main():
        _remove_surplus(run, stage, pool)
    score_task(run, stage, Task(distributed.rank(), distributed.world_size()))
    distributed.barrier()
    return _scored(run, stage, pool)


def score_task(run: Run[Config], stage: Stage, task: Task) -> None:
    """Score the task's shards that have no score file of this teacher and pool yet."""
    pool = data.read_pool(str(run.folder("data") / inputs.POOL))
    common = _common_header(run, stage, pool)
    mine = list(enumerate(pool.shards))[task.number :: task.count]
    missing = [(number, shard) for number, shard in mine if not _is_scored(run, stage, number, common)]
    if missing:
        _score_shards(run, stage, missing, pool=pool, common=common)


def _score_shards(
    run: Run[Config], stage: Stage, shards: list[tuple[int, data.Shard]], *, pool: data.Pool, common: dict[str, Any]
) -> None:
    settings = run.config.data
    compute = inputs.make_compute(run.config.system)
    model = compute.place_model(inputs.trained_model(run, _teacher(stage)))
    if run.config.system.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    held, views = _held_hashes(run), inputs.views(run, stage, "score")
    unreadable = 0
    for number, shard in progress(shards, unit="shard", title=f"seed {run.seed}: {stage.name}"):
        records = shard.records()
        dataset = data.ItemDataset(records, views=views, hash_content=bool(held))
        loader = inputs.loader(run, dataset, inputs.eval_batches(run, dataset, views), compute)
        predictions = predict(model, loader, normalize=inputs.normalize(run, compute), compute=compute)
        found = score_shard(predictions, top_p=run.config.score.top_p, held_hashes=held, views=views.count)
        if found.held and settings.pool_overlap == "refuse":
            _refuse_held(records, found.held)
        unreadable += len(found.failures)
        _check_unreadable(unreadable, pool.num_records, settings.max_failure_rate, list(found.failures.values()))
        header = selection.ScoreHeader(
            **common, shard=shard.name, number=number, base=shard.base, num_records=shard.num_records
        )
        save_shard(selection.score_path(str(run.folder(stage.name)), number), found, header=header, records=records)


def _teacher(stage: Stage) -> str:
    return next(need for need in stage.needs if need != "data")


def _common_header(run: Run[Config], stage: Stage, pool: data.Pool) -> dict[str, Any]:
    """What the headers of all the stage's score files share."""
    classes, top_p = inputs.class_list(run), run.config.score.top_p
    if top_p > len(classes):
        raise UserError(f"score.top_p ({top_p}) is above the {len(classes)} classes of data.train; lower it")
    return {
        "teacher": run.digest(_teacher(stage)),
        "pool": pool.fingerprint,
        "class_names": tuple(classes),
        "top_p": top_p,
        "preprocessing": storage.as_json(stage.settings),
        "num_shards": len(pool.shards),
    }


def _held_hashes(run: Run[Config]) -> frozenset[bytes]:
    """Of the contents of the labeled and test items, which the pool must not hold; none where that is allowed."""
    with storage.open_read(str(run.folder("data") / inputs.HELD)) as file:
        content = file.read()
    return frozenset(content[start : start + data.HASH_BYTES] for start in range(0, len(content), data.HASH_BYTES))


def _remove_surplus(run: Run[Config], stage: Stage, pool: data.Pool) -> None:
    """Remove the score files of shards that only an earlier, larger pool had."""
    folder = run.folder(stage.name)
    wanted = {Path(selection.score_path(str(folder), number)) for number in range(len(pool.shards))}
    for path in set(folder.glob(f"*{min(wanted).suffix}")) - wanted:
        Path(selection.ledger_path(str(path))).unlink(missing_ok=True)
        path.unlink()


def _is_scored(run: Run[Config], stage: Stage, number: int, common: dict[str, Any]) -> bool:
    """Whether the shard's score file is there, of this teacher and pool; a stale or damaged one is to be replaced."""
    path = selection.score_path(str(run.folder(stage.name)), number)
    if not storage.exists(path):
        return False
    try:
        return selection.read_header(path).common() == common
    except UserError:
        return False


def _refuse_held(records: pa.Table, held: list[int]) -> None:
    keys = records["key"].take(pa.array(held[:5])).to_pylist()
    raise UserError(
        f"the pool holds {len(held)} copies of labeled or test items (such as {', '.join(keys)}); "
        f"{inputs.OVERLAP_REMEDY}"
    )


def _check_unreadable(unreadable: int, total: int, max_rate: float, reasons: list[str]) -> None:
    if unreadable > max_rate * total:
        raise UserError(
            f"{unreadable} of the pool's {total} items cannot be read, more than the tolerated {max_rate:.1%} "
            f"(for example: {'; '.join(reasons[:3])}); mend the pool or raise data.max_failure_rate"
        )


def _scored(run: Run[Config], stage: Stage, pool: data.Pool) -> dict[str, Any]:
    """Totals over all shards, from their ledgers; too many unreadable items in all is an error here at the latest."""
    if not distributed.is_main():
        return {}
    paths = selection.score_files(str(run.folder(stage.name)))
    ledgers = [storage.read_ledger(selection.ledger_path(path)) for path in paths]
    reasons = [reason for ledger in ledgers for _, reason in ledger if reason != EXCLUDED]
    excluded = sum(len(ledger) for ledger in ledgers) - len(reasons)
    _check_unreadable(len(reasons), pool.num_records, run.config.data.max_failure_rate, reasons)
    if reasons or excluded:
        logger.info("pool: %d unreadable, %d excluded (listed in the ledgers)", len(reasons), excluded)
    return {
        "records": pool.num_records,
        "scored": pool.num_records - len(reasons) - excluded,
        "unreadable": len(reasons),
        "excluded": excluded,
    }
