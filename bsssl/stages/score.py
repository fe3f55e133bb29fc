"""The score stage: the teacher over every shard of the pool."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from bsssl import data, distributed, fileio, selection
from bsssl.engine.predict import predict
from bsssl.engine.score import EXCLUDED, save_shard, score_shard
from bsssl.log import logger, progress
from bsssl.recipe import Run, Stage
from bsssl.registry import UserError
from bsssl.stages import inputs


def score_stage(run: Run, stage: Stage) -> dict[str, Any]:
    """Score every shard that has no score file of this teacher and pool yet; processes share the shards."""
    settings, folder = run.config.data, run.folder(stage.name)
    pool = data.read_pool(str(run.folder("data") / inputs.POOL))
    teacher = next(need for need in stage.needs if need != "data")
    compute, classes = inputs.make_compute(run.config.system), inputs.class_list(run)
    model = compute.place_model(inputs.trained_model(run, teacher))
    if run.config.system.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    held = frozenset[bytes]()
    if settings.pool_overlap != "allow":
        held = frozenset(
            data.content_hashes(
                data.concat_records([inputs.split_records(run, "labeled"), inputs.split_records(run, "test")])
            )
        )
    if distributed.is_main():
        _remove_surplus(run, stage, pool)
    mine = list(enumerate(pool.shards))[distributed.rank() :: distributed.world_size()]
    missing = [(number, shard) for number, shard in mine if not _is_scored(run, stage, pool, number)]
    unreadable = 0
    for number, shard in progress(missing, unit="shard", title=f"seed {run.seed}: {stage.name}"):
        records = shard.records()
        dataset = data.ImageDataset(
            records,
            transform=inputs.test_transform(settings.transforms),
            hash_content=bool(held),
            max_pixels=settings.max_pixels,
        )
        loader = inputs.loader(run, dataset, data.EvalBatches(len(dataset), batch_size=run.config.score.batch_size))
        predictions = predict(model, loader, normalize=inputs.normalize(run, compute), compute=compute)
        found = score_shard(predictions, top_p=run.config.score.top_p, held_hashes=held)
        if found.held and settings.pool_overlap == "refuse":
            _refuse_held(records, found.held)
        unreadable += len(found.failures)
        _check_unreadable(unreadable, pool.num_records, settings.max_failure_rate, list(found.failures.values()))
        header = selection.ScoreHeader(
            teacher=run.fingerprint(teacher),
            pool=pool.fingerprint,
            class_names=tuple(classes),
            top_p=run.config.score.top_p,
            preprocessing=fileio.as_json(stage.settings),
            num_shards=len(pool.shards),
            shard=shard.name,
            number=number,
            base=shard.base,
            num_records=shard.num_records,
        )
        save_shard(selection.score_path(str(folder), number), found, header=header, records=records)
    distributed.barrier()
    return _scored(run, stage, pool)


def _remove_surplus(run: Run, stage: Stage, pool: data.Pool) -> None:
    """Remove the score files of shards that only an earlier, larger pool had."""
    folder = run.folder(stage.name)
    wanted = {Path(selection.score_path(str(folder), number)) for number in range(len(pool.shards))}
    for path in set(folder.glob(f"*{min(wanted).suffix}")) - wanted:
        Path(selection.ledger_path(str(path))).unlink(missing_ok=True)
        path.unlink()


def _is_scored(run: Run, stage: Stage, pool: data.Pool, number: int) -> bool:
    """Whether the shard's score file is there, of this teacher and pool; a stale or damaged one is to be replaced."""
    path = selection.score_path(str(run.folder(stage.name)), number)
    if not fileio.exists(path):
        return False
    teacher = next(need for need in stage.needs if need != "data")
    try:
        header = selection.read_header(path)
    except UserError:
        return False
    wanted = (run.fingerprint(teacher), pool.fingerprint, fileio.as_json(stage.settings))
    return (header.teacher, header.pool, header.preprocessing) == wanted


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


def _scored(run: Run, stage: Stage, pool: data.Pool) -> dict[str, Any]:
    """Totals over all shards, from their ledgers; too many unreadable items in all is an error here at the latest."""
    if not distributed.is_main():
        return {}
    ledgers = [selection.read_ledger(path) for path in selection.score_files(str(run.folder(stage.name)))]
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
