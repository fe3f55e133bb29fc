"""Selection by score files or by arrays of scores."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bsssl.api.model import AnyPath
from bsssl.errors import UserError

if TYPE_CHECKING:
    from bsssl.selection import Selection
    from bsssl.selection.scores import ScoreFile


def select(
    scores: AnyPath | Sequence[AnyPath] | npt.NDArray[Any],
    *,
    keys: Sequence[str] | None = None,
    classes: npt.NDArray[Any] | None = None,
    class_names: Sequence[str] | None = None,
    top_k: int,
    variant: str = "balanced",
    options: Mapping[str, Any] | None = None,
    min_score: float = 0.0,
    seed: int = 0,
) -> "Selection":
    """Choose samples by their scores; arrays give the picks that score files with the same content give.

    Args:
        scores: A folder of score files, the paths of all score files of a pool, or an array (N, P) of scores in [0, 1].
        keys: Only with an array: the names of the N samples, which become their paths too.
        classes: Only with an array: the P distinct classes that each sample keeps, as indices, integers (N, P).
        class_names: Only with an array: the names of the classes.
        top_k: K, the samples per class.
        variant: The name of a selection rule: ``balanced``, ``unbalanced``, ``random`` or one of your own.
        options: Further arguments of the rule.
        min_score: Scores below this do not count.
        seed: For rules that draw at random.

    Returns:
        The selection, with ``to_table()``, ``to_dataframe()``, ``summary()`` and ``write(path)``.

    Raises:
        UserError: Impossible arguments, or files that are damaged, incomplete or do not belong together.
    """
    from bsssl import selection
    from bsssl.runtime.console import progress

    files: list[str | ScoreFile]
    if isinstance(scores, np.ndarray):
        if keys is None or classes is None or class_names is None:
            raise UserError("scores in memory need keys, classes and class_names too; give all of them")
        files = [_in_memory(scores, keys=keys, classes=np.asarray(classes), class_names=class_names)]
    elif keys is not None or classes is not None or class_names is not None:
        raise UserError("keys, classes and class_names go with an array of scores; score files have their own")
    elif isinstance(scores, str | os.PathLike):
        files = [*selection.score_files(os.fspath(scores))]
    else:
        files = [os.fspath(path) for path in scores]
    return selection.select_samples(
        files,
        top_k=top_k,
        variant=variant,
        options=options,
        min_score=min_score,
        seed=seed,
        progress=progress,
    )


def _in_memory(
    scores: npt.NDArray[Any], *, keys: Sequence[str], classes: npt.NDArray[Any], class_names: Sequence[str]
) -> "ScoreFile":
    """Return arrays of scores, see ``select``, as the score file of a pool with a single shard.

    Raises:
        UserError: The arrays do not fit together.
    """
    import pyarrow as pa

    from bsssl.selection import SAMPLES_SCHEMA, ScoreHeader
    from bsssl.selection.scores import ScoreFile, score_content

    if scores.ndim != 2 or classes.shape != scores.shape or len(keys) != len(scores):
        raise UserError(
            f"{len(keys)} keys, classes {classes.shape} and scores {scores.shape} do not fit together; give N keys, "
            "classes (N, P) and scores (N, P)"
        )
    header = ScoreHeader(
        teacher="",
        class_names=tuple(class_names),
        top_p=scores.shape[1],
        num_shards=1,
        shard="the scores in memory",
        number=0,
        base=0,
        num_records=len(keys),
    )
    names, rows = pa.array(keys, pa.string()), len(keys)
    columns = [np.arange(rows), names, names, np.zeros(rows, np.int64), np.full(rows, -1)]
    samples = pa.table([pa.array(column) for column in columns], schema=SAMPLES_SCHEMA)
    try:
        content = score_content(header=header, samples=samples, classes=classes, scores=scores)
    except ValueError as error:
        raise UserError(str(error)) from None
    return ScoreFile(header.shard, content)
