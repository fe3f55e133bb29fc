"""From scores to a selection: score shards, exact per-class top-K, and the selection file. NumPy and Arrow only."""

from bsssl.selection.exchange import read_parquet, write_parquet
from bsssl.selection.exclusions import Exclusions, read_exclusions
from bsssl.selection.following import following
from bsssl.selection.near import NEAR_SCHEMA, POOL_SET, NearCopies, read_near
from bsssl.selection.open_set import OpenSet, read_open_set, write_values
from bsssl.selection.picks import (
    SELECTION_SCHEMA,
    Selected,
    Selection,
    read_selection,
    summary_path,
    write_selection,
)
from bsssl.selection.pool import Picks, PoolScores, ShardRows
from bsssl.selection.scores import (
    SAMPLES_SCHEMA,
    ScoreHeader,
    has_scores,
    ledger_path,
    read_header,
    read_sample_scores,
    rebase_scores,
    score_files,
    score_path,
    write_scores,
)
from bsssl.selection.topk import select_samples

__all__ = [
    "NEAR_SCHEMA",
    "POOL_SET",
    "SAMPLES_SCHEMA",
    "SELECTION_SCHEMA",
    "Exclusions",
    "NearCopies",
    "OpenSet",
    "Picks",
    "PoolScores",
    "ScoreHeader",
    "Selected",
    "Selection",
    "ShardRows",
    "following",
    "has_scores",
    "ledger_path",
    "read_exclusions",
    "read_header",
    "read_near",
    "read_open_set",
    "read_parquet",
    "read_sample_scores",
    "read_selection",
    "rebase_scores",
    "score_files",
    "score_path",
    "select_samples",
    "summary_path",
    "write_parquet",
    "write_scores",
    "write_selection",
    "write_values",
]
