"""Selection beside the definition, on pools of every shape that hypothesis thinks of."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bsssl.errors import UserError
from bsssl.selection import Exclusions, Selection, read_sample_scores, read_selection, select_samples, write_selection
from tests.selection.pools import Pick, Pool, oracle, pairs, write_pool

quick = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
SCORES = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 2.0**-21, 1 - 2.0**-21, float(np.nextafter(np.float32(0.5), np.float32(1)))]),
    st.floats(0, 1, width=32),
)


@st.composite
def pools(draw: Callable[..., Any]) -> Pool:
    """Few records or hundreds, one class or many, one of which nearly all may keep; scores with and without ties."""
    num_classes = draw(st.sampled_from([1, 2, 3, 7, 40]))
    top_p = draw(st.integers(1, min(num_classes, 4)))
    records = draw(st.one_of(st.integers(1, 6), st.integers(1, 300)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    index = np.flatnonzero(random.random(records) < draw(st.sampled_from([0.3, 0.9, 1.0])))
    order = random.random((len(index), num_classes))
    if draw(st.booleans()):
        order[:, -1] -= 0.9  # a class that nearly all samples keep
    classes = np.argsort(order, axis=1)[:, :top_p].astype(np.int64)
    levels = draw(st.lists(SCORES, min_size=1, max_size=5))
    ties = draw(st.booleans())
    scores = random.choice(levels, classes.shape) if ties else random.random(classes.shape)
    return Pool(index, classes, scores.astype(np.float32), records, num_classes)


def cuts(pool: Pool) -> st.SearchStrategy[list[int]]:
    """Borders of shards, some of them empty."""
    return st.lists(st.integers(0, pool.num_records), max_size=8).map(sorted)


def without(pool: Pool, out: Callable[[int, int], bool]) -> list[tuple[int, float, int]]:
    return [pair for pair in pairs(pool) if not out(pair[2], pair[0])]


def picks_of(selection: Selection) -> list[Pick]:
    columns = (selection.class_index, selection.rank, selection.sample, selection.score)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@quick
@given(data=st.data(), pool=pools(), variant=st.sampled_from(["balanced", "unbalanced", "random"]))
def test_every_rule_is_its_definition(data: st.DataObject, pool: Pool, variant: str) -> None:
    top_k = data.draw(st.sampled_from([1, 2, 5, 50, 10**6]), "K")
    min_score = data.draw(st.one_of(st.just(0.0), SCORES), "min_score")
    seed = data.draw(st.integers(0, 2**40), "seed")
    options: dict[str, Any] = {"top_k": top_k, "variant": variant, "min_score": min_score, "seed": seed}
    good = [pair for pair in pairs(pool) if pair[1] >= np.float32(min_score)]
    found = []
    for _ in range(2):  # however the pool is cut, and in whatever order its files and their rows are
        with tempfile.TemporaryDirectory() as folder:
            shuffle = data.draw(st.integers(0, 99), "shuffle")
            paths = write_pool(Path(folder), pool, cuts=data.draw(cuts(pool), "cuts"), shuffle=shuffle)
            np.random.default_rng(shuffle).shuffle(paths)
            if not good:
                with pytest.raises(UserError, match="nothing to select: "):
                    select_samples(paths, **options)
                return
            found.append(picks_of(select_samples(paths, **options)))
    assert found[0] == found[1]
    if variant != "random":
        assert found[0] == oracle(pool, top_k=top_k, variant=variant, min_score=min_score)
        return
    drawn = {(label, sample): score for label, _, sample, score in found[0]}
    available = np.bincount([label for label, _, _ in good], minlength=pool.num_classes)
    assert len(drawn) == len(found[0]) == np.minimum(available, top_k).sum()
    assert drawn.items() <= {(label, sample): score for label, score, sample in good}.items()


@quick
@given(data=st.data(), pool=pools(), variant=st.sampled_from(["balanced", "unbalanced", "random"]))
def test_what_is_excluded_is_as_if_it_had_not_been_kept(data: st.DataObject, pool: Pool, variant: str) -> None:
    samples, labels = st.sampled_from(range(pool.num_records)), st.sampled_from(range(pool.num_classes))
    items = data.draw(st.sets(samples, max_size=5), "items")
    classes = data.draw(st.sets(labels, max_size=2), "classes")
    few = data.draw(st.sets(st.tuples(samples, labels), max_size=9), "pairs")
    top_k = data.draw(st.sampled_from([1, 3, 50]), "K")
    left = without(pool, lambda sample, label: sample in items or label in classes or (sample, label) in few)
    excluded = Exclusions(
        "out.csv",
        everywhere=frozenset(f"key-{sample}" for sample in items),
        pairs=frozenset((f"key-{sample}", f"c{label}") for sample, label in few),
        classes=frozenset(f"c{label}" for label in classes),
    )
    known = {f"key-{sample}" for sample in pool.index}
    with tempfile.TemporaryDirectory() as folder:
        paths = write_pool(Path(folder), pool, cuts=data.draw(cuts(pool), "cuts"))
        if not left or (excluded.keys and not excluded.keys & known):
            with pytest.raises(UserError, match=r"nothing to select: |none of its \d+ keys is an item of the pool"):
                select_samples(paths, top_k=top_k, variant=variant, exclude=excluded)
            return
        found = picks_of(select_samples(paths, top_k=top_k, variant=variant, exclude=excluded))
    alone = np.array([(sample, label) for label, _, sample in left], np.int64)
    scores = np.array([[score] for _, score, _ in left], np.float32)
    rest = Pool(alone[:, 0], alone[:, 1:], scores, pool.num_records, pool.num_classes)
    if variant != "random":
        assert found == oracle(rest, top_k=top_k, variant=variant)
    available = np.bincount(alone[:, 1], minlength=pool.num_classes)
    if variant != "unbalanced":
        assert np.bincount([pick[0] for pick in found], minlength=pool.num_classes).tolist() == (
            np.minimum(available, top_k).tolist()
        )
    assert {(pick[2], pick[0]) for pick in found} <= set(map(tuple, alone.tolist()))


@quick
@given(data=st.data(), pool=pools())
def test_files_give_back_what_was_written(data: st.DataObject, pool: Pool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        borders = data.draw(cuts(pool), "cuts")
        paths = write_pool(Path(folder), pool, cuts=borders, shuffle=1)
        stored = [read_sample_scores(path) for path in paths]
        bases = np.repeat([0, *borders], [len(positions) for positions, _, _ in stored])
        samples, classes, scores = (np.concatenate(part) for part in zip(*stored, strict=True))
        assert (samples + bases).tolist() == pool.index.tolist()
        order = np.lexsort((pool.classes, -pool.scores), axis=1)
        assert classes.tolist() == np.take_along_axis(pool.classes, order, 1).tolist()
        assert scores.tolist() == np.take_along_axis(pool.scores, order, 1).tolist()
        if len(pool.index):
            chosen = select_samples(paths, top_k=3)
            write_selection(f"{folder}/selection.parquet", chosen)
            table = read_selection(f"{folder}/selection.parquet").table
            assert table["key"].to_pylist() == [f"key-{sample}" for sample in chosen.sample]
            assert table["position"].to_pylist() == chosen.position.tolist()
            assert table["score"].to_pylist() == chosen.score.tolist()
