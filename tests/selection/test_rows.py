import numpy as np
import pytest

from bsssl.selection.rows import (
    EDGES,
    SECTIONS,
    edge_counts,
    group,
    join_sections,
    pack_scores,
    positions_of,
    ranges,
    scores_of,
    section_sizes,
    split_sections,
    ungroup,
)
from tests.selection.pools import make_pool, pairs

TRICKY = np.array(
    [0.0, 1e-45, 1e-38, 2**-21, 0.1, 0.25, 0.5, 1 - 2**-21, np.nextafter(np.float32(1), 0), 1], np.float32
)


def test_packed_scores_sort_best_first_and_come_back_exactly() -> None:
    packed = pack_scores(TRICKY)
    assert np.all(np.diff(packed.astype(np.int64)) < 0)
    assert np.array_equal(scores_of(packed.astype(np.uint64) << np.uint64(32)), TRICKY)


def test_minus_zero_is_zero() -> None:
    assert pack_scores(np.array([-0.0], np.float32)) == pack_scores(np.array([0.0], np.float32))


def test_edges_are_fixed() -> None:
    """Part of the format: changing them needs a new FORMAT_VERSION."""
    assert len(EDGES) == 83 and EDGES[0] == 1 and EDGES[-1] == 0
    assert np.all(np.diff(EDGES) < 0)
    assert EDGES.tobytes().hex()[:32] == "0000803ff8ff7f3ff4ff7f3ff0ff7f3f"


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("wide", [False, True], ids=["one word", "too wide for one word"])
def test_group_against_sorting_tuples(seed: int, wide: bool) -> None:
    pool = make_pool(seed, records=60, top_p=1 + seed % 7, levels=seed % 4)
    scale = 2**24 if wide else 1
    positions = pool.index * scale
    num_classes = pool.num_classes * (4096 if wide else 1)
    classes = pool.classes * (4096 if wide else 1)
    offsets, rows = group(classes=classes, scores=pool.scores, positions=positions, num_classes=num_classes)
    owners = np.repeat(np.arange(num_classes), np.diff(offsets))
    found = list(zip(owners.tolist(), scores_of(rows).tolist(), positions_of(rows).tolist(), strict=True))
    step = 4096 if wide else 1
    expected = sorted(((label * step, -score, index * scale) for label, score, index in pairs(pool)))
    assert found == [(label, -score, index) for label, score, index in expected]

    back, classes_back, scores_back = ungroup(offsets=offsets, rows=rows, top_p=classes.shape[1])
    order = np.lexsort((classes, -pool.scores), axis=1)
    assert np.array_equal(back, positions)
    assert np.array_equal(classes_back, np.take_along_axis(classes, order, 1))
    assert np.array_equal(scores_back, np.take_along_axis(pool.scores, order, 1))


def test_group_of_nothing() -> None:
    offsets, rows = group(
        classes=np.empty((0, 3), np.int64), scores=np.empty((0, 3), np.float32), positions=np.empty(0), num_classes=4
    )
    assert offsets.tolist() == [0] * 5 and len(rows) == 0
    assert not edge_counts(offsets=offsets, rows=rows).any()


@pytest.mark.parametrize("seed", range(4))
def test_edge_counts_against_counting(seed: int) -> None:
    pool = make_pool(seed, records=100, levels=seed * 3)
    pool.scores[: len(TRICKY), 0] = TRICKY
    offsets, rows = group(classes=pool.classes, scores=pool.scores, positions=pool.index, num_classes=pool.num_classes)
    counts = edge_counts(offsets=offsets, rows=rows)
    for label in range(pool.num_classes):
        own = np.array([score for owner, score, _ in pairs(pool) if owner == label])
        assert counts[:, label].tolist() == [int((own >= edge).sum()) for edge in EDGES]


@pytest.mark.parametrize("records", [0, 1, 5, 1000])
def test_sections_hold_the_best_first_and_join_again(records: int) -> None:
    pool = make_pool(records, records=records)
    offsets, rows = group(classes=pool.classes, scores=pool.scores, positions=pool.index, num_classes=pool.num_classes)
    sections = split_sections(offsets=offsets, rows=rows)
    assert np.array_equal(join_sections(offsets=offsets, sections=sections), rows)
    sizes = np.diff(offsets)
    assert len(sections[0]) == sum(-(-size // SECTIONS[0]) for size in sizes.tolist())
    assert sections[0][:1].tolist() == rows[:1].tolist()
    assert sum(section_sizes(offsets)).tolist() == sizes.tolist()  # type: ignore[union-attr]


def test_ranges() -> None:
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ranges(np.array([], np.int64), np.array([], np.int64)).tolist() == []
