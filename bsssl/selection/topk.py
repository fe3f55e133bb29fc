"""Selection: the samples of every class that a rule chooses out of the score files of a whole pool."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bsssl.errors import UserError
from bsssl.registry import SELECTION_RULES
from bsssl.runtime.console import logger
from bsssl.selection.exclusions import Exclusions, without, without_copies
from bsssl.selection.near import NearCopies, Thinned, thin
from bsssl.selection.open_set import OpenSet, without_foreign
from bsssl.selection.picks import Foreign, Progress, Selection, silent
from bsssl.selection.pool import Picks, PoolScores
from bsssl.selection.rows import Int64
from bsssl.selection.scores import ScoreFile, open_scores

MAX_TOP_K = 2**32
"""no pool has more samples"""


def select_samples(
    paths: Sequence[str | ScoreFile],
    *,
    top_k: int,
    variant: str = "balanced",
    options: Mapping[str, Any] | None = None,
    min_score: float = 0.0,
    seed: int = 0,
    exclude: Exclusions | None = None,
    copies: str | None = None,
    near: NearCopies | None = None,
    one_per_class: bool = True,
    open_set: OpenSet | None = None,
    progress: Progress | None = None,
) -> Selection:
    """Choose samples for the student (arXiv 1905.00546, section 3).

    Args:
        paths: The score files of all shards of one pool, in any order, local, remote or open already.
        top_k: K.
        variant: The name of a rule of ``SELECTION_RULES``; for those of the project see ``bsssl.selection.rules``.
        options: Further arguments of the rule.
        min_score: Rows with a score below this, in float32, do not count: as if their samples had not kept the class.
        seed: For rules that draw at random.
        exclude: What people have left out by hand: as if the samples had not kept the classes.
        copies: A list of copies (``COPIES_SCHEMA``), of which those it says are left out too.
        near: Near copies in the pool; those of labeled and test items are left out.
        one_per_class: Whether each class has of those that are near to each other the best one alone.
        open_set: Which items are of no class; they are left out. What that takes from each class is counted, for which
            the rule is asked a second time.
        progress: ``bsssl.runtime.console.progress`` or the like, called with items, total, unit and title.

    Returns:
        The selection. Classes with fewer than K samples have what there is: ``Selection.summary()`` lists them.

    Raises:
        UserError: Impossible arguments, or files that are damaged, incomplete or do not belong together.
    """
    SELECTION_RULES.check(variant, options or {})
    if not 1 <= top_k <= MAX_TOP_K:
        raise UserError(f"top_k must be from 1 to {MAX_TOP_K}, not {top_k}; set the number of samples per class")
    if not 0 <= min_score <= 1:
        raise UserError(f"min_score must be from 0 to 1, not {min_score}; it is compared with softmax scores")
    files = open_scores(paths)
    if not any(file.num_rows for file in files):
        raise UserError(f"nothing to select: no sample of the pool was scored ({files[0].path}); see the ledgers")
    read, unknown = (files, frozenset()) if exclude is None else without(files, exclude)
    if copies is not None:
        read = without_copies(read, copies)
    if exclude is not None and unknown:
        logger.warning(
            "%s: %d of %d keys are no scored item of the pool (first: %s)",
            *(exclude.path, len(unknown), len(exclude.keys), min(unknown)),
        )

    def choose(files: list[ScoreFile]) -> tuple[Thinned, PoolScores, Picks]:
        thinned = Thinned(files, 0, 0) if near is None else thin(files, near, one_per_class=one_per_class)
        pool = PoolScores(thinned.files, min_score=min_score, progress=progress or silent)
        return thinned, pool, SELECTION_RULES.build(variant, options or {}, pool=pool, top_k=top_k, seed=seed)

    thinned, pool, picks = choose(read if open_set is None else without_foreign(read, open_set))
    if not len(picks.samples):
        left_out = [
            *([] if exclude is None else [f"what {exclude.path} names"]),
            *([f"{thinned.held} items near to a labeled or test item"] if thinned.held else []),
            *([] if open_set is None else [f"{open_set.foreign} of no class, by select.open_set"]),
        ]
        raise UserError(
            f"nothing to select: no score of the pool reaches min_score={min_score:g}; lower it"
            if picks.without_minimum
            else f"nothing to select: the selection rule '{variant}' picked no sample"
            + (f"; left out are {' and '.join(left_out)}" if left_out else "")
        )
    foreign = None
    if open_set is not None:
        _, whole_pool, all_picks = choose(read)
        foreign = Foreign(
            items=open_set.foreign,
            candidates=_candidates(whole_pool) - _candidates(pool),
            picks=all_picks.per_class - picks.per_class,
        )
    return Selection(
        files=files,
        variant=variant,
        options=dict(options or {}),
        top_k=top_k,
        min_score=min_score,
        seed=seed,
        exclude=exclude,
        per_class=picks.per_class,
        sample=picks.samples,
        score=picks.scores,
        near_held=thinned.held,
        near_copies=thinned.copies,
        foreign=foreign,
        dropped=picks.without_minimum - len(picks.samples),
        wanted=picks.wanted,
    )


def _candidates(pool: PoolScores) -> Int64:
    """Return how many samples of a pool have kept each class, int64 (L,)."""
    return np.asarray(pool.total_counts()[-1], np.int64)
