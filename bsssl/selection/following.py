"""What a selection has just missed: the samples that its rule would have chosen next."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bsssl.selection.exclusions import Exclusions
from bsssl.selection.near import NearCopies
from bsssl.selection.picks import Selected
from bsssl.selection.rows import Array, Int64, ranges
from bsssl.selection.scores import ScoreFile
from bsssl.selection.topk import select_samples


def following(
    paths: Sequence[str | ScoreFile],
    chosen: Selected,
    *,
    most: int,
    exclude: Exclusions | None = None,
    copies: str | None = None,
    near: NearCopies | None = None,
) -> Selected:
    """Return up to ``most`` samples of every class that would have come after those ``chosen``, ranks going on.

    The rule is asked again for ``most`` more samples of each class, without the minimum score: its cost is that of the
    selection itself. Where a rule with a larger K does not begin with what it chose before, there is nothing to return
    for the class.

    Args:
        paths: The score files of the pool, without what is of no class.
        chosen: The selection.
        most: Samples of each class.
        exclude: What was left out by hand.
        copies: The list of copies, of which some were left out.
        near: The near copies that were left out.

    Raises:
        UserError: The score files are damaged, incomplete, or those of another selection.
    """
    facts = chosen.facts
    more = select_samples(
        paths,
        top_k=facts["top_k"] + most,
        variant=facts["variant"],
        options=facts.get("variant_options", {}),
        seed=facts["seed"],
        exclude=exclude,
        copies=copies,
        near=near,
        one_per_class=facts.get("near_copies", 0) > 0,
    )
    classes = len(facts["class_names"])
    before = np.bincount(chosen.class_index.to_numpy(), minlength=classes).astype(np.int64)
    before = np.where(_begins_with(more.per_class, more.score, before, chosen.score.to_numpy()), before, more.per_class)
    lengths = np.clip(more.per_class - before, 0, most)
    rows = ranges(np.cumsum(more.per_class) - more.per_class + before, lengths)
    if not len(rows):
        return Selected(chosen.table[:0])
    table = replace(more, per_class=lengths, sample=more.sample[rows], score=more.score[rows]).to_table()
    ranks = ranges(before, lengths).astype(np.int32)
    return Selected(table.set_column(table.schema.get_field_index("rank"), table.schema.field("rank"), [ranks]))


def _begins_with(lengths: Int64, scores: Array, before: Int64, chosen: Array) -> Array:
    """Return of which classes the first ``before`` of the ``scores`` are those that were ``chosen``: bool (L,)."""
    is_longer = lengths >= before
    places = ranges(np.cumsum(lengths) - lengths, np.where(is_longer, before, 0))
    same = np.ones(len(before), bool)
    owners = np.repeat(np.arange(len(before)), before)
    there = is_longer[owners]
    np.logical_and.at(same, owners[there], scores[places] == chosen[there])
    return is_longer & same
