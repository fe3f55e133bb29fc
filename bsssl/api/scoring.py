"""Scoring of any pictures or videos by a trained network."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bsssl.api.loading import load
from bsssl.api.model import AnyPath, Model
from bsssl.errors import UserError

if TYPE_CHECKING:
    from bsssl.data import Pool
    from bsssl.stages.computing import Execution
    from bsssl.stages.score import ScoreSettings


def score(
    model: Model | AnyPath,
    source: AnyPath,
    *,
    to: AnyPath,
    dataset: str = "folder",
    options: Mapping[str, Any] | None = None,
    top_p: int | None = None,
    shard_size: int = 10_000,
    batch_size: int = 256,
    clips: int = 1,
    workers: int = 2,
    max_failure_rate: float = 0.01,
) -> list[Path]:
    """Run a network over pictures or videos and write score files, from which ``select`` chooses.

    Score files that are there already, of this network and these items, are left alone: what was interrupted goes on
    when it is called again.

    Args:
        model: The network, or the folder of the stage that trained it.
        source: A folder of files, a manifest (``dataset="manifest"``) or tars (``dataset="tars"``), local or remote.
        to: The local folder for the score files; the items are listed in its sub-folder ``pool``.
        dataset: What the source is: the name of a registered dataset.
        options: Further arguments of the dataset.
        top_p: Classes kept per item; by default 10, or all where there are fewer.
        shard_size: Items per score file of folders and manifests; a tar always has one of its own.
        batch_size: Inputs that the network sees at a time.
        clips: Clips per video, whose probabilities are averaged.
        workers: Processes that read and decode.
        max_failure_rate: The share of unreadable items that is tolerated; they are listed beside the score files.

    Returns:
        The score files, one per shard.

    Raises:
        UserError: The source cannot be read, too many of its items cannot, or ``top_p`` is impossible.
    """
    from bsssl import data, selection

    network, folder = model if isinstance(model, Model) else load(model), os.fspath(to)
    settings = _settings(network, top_p=top_p, clips=clips)
    execution = network._execution(batch_size, workers, max_failure_rate=max_failure_rate)
    videos = network.preprocessing.clips is not None
    opened = data.open_source(dataset, path=os.fspath(source), options=options or {}, videos=videos)
    pool = data.write_pool([opened], folder=os.path.join(folder, "pool"), shard_size=shard_size)
    _score(network, pool, folder, settings=settings, execution=execution)
    return [Path(path) for path in selection.score_files(folder)]


def _settings(network: Model, *, top_p: int | None, clips: int) -> "ScoreSettings":
    """Return what decides the scores.

    Raises:
        UserError: ``top_p`` is impossible.
    """
    from bsssl.stages.score import ScoreSettings

    if top_p is not None and not 1 <= top_p <= len(network.classes):
        raise UserError(f"top_p must be from 1 to the network's {len(network.classes)} classes, not {top_p}")
    seen = network._seen
    if seen.clips is not None:
        seen = seen.model_copy(update={"clips": seen.clips.model_copy(update={"count": clips})})
    return ScoreSettings(
        top_p=top_p or min(10, len(network.classes)),
        pool_overlap="allow",
        model=network._section,
        precision=network.precision,
        seen=seen,
    )


def _score(network: Model, pool: "Pool", folder: str, *, settings: "ScoreSettings", execution: "Execution") -> None:
    """Write the score files of ``pool`` that are not in ``folder`` yet; too many unreadable items are an error."""
    from bsssl import storage
    from bsssl.models import weights_file
    from bsssl.pipeline.stage import Task
    from bsssl.runtime.device import torch_as_it_was
    from bsssl.stages.score import common_header, remove_surplus, score_pool, totals

    remove_surplus(folder, pool)
    file = None if network.folder is None else weights_file(str(network.folder))
    teacher = storage.fingerprint({"weights": storage.digest([file]) if file else network.origin})
    with torch_as_it_was(execution.system.device):
        score_pool(
            pool,
            folder,
            load_networks=lambda: [network.network],
            settings=settings,
            execution=execution,
            common=common_header(pool, teacher=teacher, classes=network.classes, settings=settings),
            held=frozenset(),
            title="scoring",
            task=Task(0, 1),
        )
    totals(folder, pool, max_failure_rate=execution.max_failure_rate)
