from pathlib import Path

import numpy as np
import pytest

from bsssl.errors import UserError
from bsssl.registry import SELECTION_RULES
from bsssl.selection import Picks, PoolScores, Selection, ShardRows, select_samples
from bsssl.selection.best import Best
from tests.selection.pools import Pick, Pool, make_pool, oracle, pairs, write_pool

VARIANTS = ("balanced", "unbalanced", "random")


def picks_of(selection: Selection) -> list[Pick]:
    columns = (selection.class_index, selection.rank, selection.sample, selection.score)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def random_cuts(seed: int, records: int, shards: int) -> list[int]:
    """Borders of random shards; some are empty."""
    return sorted(np.random.default_rng(seed).integers(0, records + 1, shards - 1).tolist())


@pytest.mark.parametrize("variant", ["balanced", "unbalanced"])
@pytest.mark.parametrize("seed", range(30))
def test_against_brute_force(tmp_path: Path, seed: int, variant: str) -> None:
    random = np.random.default_rng(1000 + seed)
    num_classes = int(random.integers(1, 9))
    pool = make_pool(
        seed,
        records=int(random.integers(1, 400)),
        top_p=int(random.integers(1, num_classes + 1)),
        num_classes=num_classes,
        levels=int(random.choice([0, 1, 2, 5])),
        unreadable=float(random.choice([0, 0.3])),
    )
    top_k = int(random.choice([1, 2, 10, 50, 1000]))
    paths = write_pool(tmp_path, pool, cuts=random_cuts(seed, pool.num_records, int(random.integers(1, 9))))
    everything = oracle(pool, top_k=top_k, variant=variant)
    assert picks_of(select_samples(paths, top_k=top_k, variant=variant)) == everything
    # Thresholds between the scores, at one of them, and at edges that the files count at; the best score is reached.
    scores = np.sort(pool.scores.ravel())
    for min_score in {*np.float32([0.001, 0.5, 0.75]).tolist(), *random.choice(scores, 2).tolist(), float(scores[-1])}:
        if min_score <= scores[-1]:
            found = select_samples(paths, top_k=top_k, variant=variant, min_score=min_score)
            expected = oracle(pool, top_k=top_k, variant=variant, min_score=min_score)
            assert picks_of(found) == expected, min_score
            assert found.dropped == found.summary()["dropped"] == len(everything) - len(expected)


@pytest.mark.parametrize("top_k", [3, 40, 10_000])
@pytest.mark.parametrize("min_score", [0.01, 0.3])
def test_random_draws_from_what_reaches_the_minimum_score(tmp_path: Path, min_score: float, top_k: int) -> None:
    """As if the samples had not kept the classes for which they score less."""
    pool = make_pool(8, records=600)
    good = np.argwhere(pool.scores >= np.float32(min_score))
    index, column = good.T
    alone = Pool(pool.index[index], pool.classes[index, column, None], pool.scores[index, column, None], 600, 7)
    paths = write_pool(tmp_path, pool, cuts=[100, 350])
    found = select_samples(paths, top_k=top_k, variant="random", min_score=min_score, seed=1)
    available = np.bincount(alone.classes.ravel(), minlength=7)
    assert found.per_class.tolist() == np.minimum(available, top_k).tolist()
    assert {(label, index) for label, _, index, _ in picks_of(found)} <= {pair[::2] for pair in pairs(alone)}
    without = select_samples(paths, top_k=top_k, variant="random", seed=1)
    assert found.dropped == len(without.sample) - len(found.sample)
    if top_k == 10_000:
        both = ({pick[::2] for pick in picks_of(selection)} for selection in (found, without))
        assert set.issubset(*both)


@pytest.mark.parametrize("variant", ["balanced", "random"])
def test_a_minimum_score_leaves_classes_short(tmp_path: Path, variant: str) -> None:
    pool = make_pool(9, records=60, top_p=1, num_classes=2, unreadable=0)
    pool.classes[:, 0] = np.arange(60) % 2
    pool.scores[:, 0] = np.where(np.arange(60) % 2, 0.9, np.arange(60) / 100)
    paths = write_pool(tmp_path, pool, cuts=[30])
    selection = select_samples(paths, top_k=10, variant=variant, min_score=0.54)
    assert selection.per_class.tolist() == [3, 10] and selection.dropped == 7
    summary = selection.summary()
    assert summary["short_classes"] == {"c0": 3} and summary["min_score"] == 0.54 and summary["dropped"] == 7
    assert summary["classes"]["c0"]["lowest_score"] == pytest.approx(0.54)
    assert "min_score" not in select_samples(paths, top_k=10, variant=variant).facts()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_minimum_score_that_nothing_reaches(tmp_path: Path, variant: str) -> None:
    pool = make_pool(0)
    pool.scores *= np.float32(0.5)
    paths = write_pool(tmp_path, pool)
    with pytest.raises(UserError, match=r"nothing to select: no score of the pool reaches min_score=0\.6; lower it"):
        select_samples(paths, top_k=1, variant=variant, min_score=0.6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("levels", [0, 1, 3])
def test_same_picks_for_any_sharding_and_order(tmp_path: Path, variant: str, levels: int) -> None:
    pool = make_pool(5, records=500, levels=levels)
    expected = None
    for trial, shards in enumerate((1, 2, 7, 40)):
        folder = tmp_path / str(trial)
        paths = write_pool(folder, pool, cuts=random_cuts(trial, 500, shards), shuffle=trial)
        np.random.default_rng(trial).shuffle(paths)
        found = select_samples(paths, top_k=20, variant=variant, seed=3)
        columns = [column.tobytes() for column in (found.sample, found.class_index, found.score, found.rank)]
        assert expected is None or columns == expected
        expected = columns
        bases = np.array([file.base for file in found.files])
        assert np.array_equal(bases[found.shard] + found.position, found.sample)
        sizes = np.array([file.num_records for file in found.files])
        assert np.all(found.position < sizes[found.shard])


def test_stored_counts_and_counting_on_reading_agree(tmp_path: Path) -> None:
    """Large shards store their counts, small ones do not."""
    pool = make_pool(1, records=3000)
    large = write_pool(tmp_path / "large", pool)
    small = write_pool(tmp_path / "small", pool, cuts=list(range(50, 3000, 50)))
    mixed = write_pool(tmp_path / "mixed", pool, cuts=[10, 2900])
    expected = oracle(pool, top_k=100)
    assert [picks_of(select_samples(paths, top_k=100)) for paths in (large, small, mixed)] == [expected] * 3


@pytest.mark.parametrize("value", [0.0, 1.0, 0.3])
@pytest.mark.parametrize("variant", ["balanced", "unbalanced"])
def test_one_score_for_all_takes_the_first_samples(tmp_path: Path, value: float, variant: str) -> None:
    pool = make_pool(2, records=400)
    pool.scores[:] = value
    paths = write_pool(tmp_path, pool, cuts=list(range(40, 400, 40)))
    assert picks_of(select_samples(paths, top_k=9, variant=variant)) == oracle(pool, top_k=9, variant=variant)


def test_mass_ties_take_no_more_memory_than_k_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = []
    original = Best.add

    def add(self: Best, *args: object) -> None:
        original(self, *args)  # type: ignore[arg-type]
        rooms.append(len(self._keys))

    monkeypatch.setattr(Best, "add", add)
    pool = make_pool(3, records=2000, levels=1)
    paths = write_pool(tmp_path, pool, cuts=list(range(100, 2000, 100)))
    for variant in VARIANTS:
        select_samples(paths, top_k=10, variant=variant)
    assert max(rooms) <= 2 * 10 * pool.num_classes


def test_classes_short_of_k_are_reported_not_padded(tmp_path: Path) -> None:
    pool = make_pool(4, records=50, top_p=1, num_classes=4)
    pool.classes[:] = 0
    pool.classes[:3] = 2
    selection = select_samples(write_pool(tmp_path, pool, cuts=[20]), top_k=5)
    assert selection.per_class.tolist() == [5, 0, 3, 0]
    summary = selection.summary()
    assert summary["short_classes"] == {"c1": 0, "c2": 3, "c3": 0}
    assert summary["pairs"] == 8 and summary["pairs_wanted"] == 20 and summary["samples"] == 8
    assert summary["records"] == 50 and summary["scored"] == len(pool.index)
    assert summary["classes"]["c1"] == {"picked": 0, "lowest_score": None}
    assert summary["classes"]["c2"]["lowest_score"] == float(pool.scores[:3].min())


@pytest.mark.parametrize("top_k", [1, 7, 60, 10_000])
def test_random_draws_k_of_those_that_kept_the_class(tmp_path: Path, top_k: int) -> None:
    pool = make_pool(6, records=600)
    selection = select_samples(write_pool(tmp_path, pool, cuts=[100, 350]), top_k=top_k, variant="random", seed=1)
    kept = {(label, index): score for label, score, index in pairs(pool)}
    found = [(label, index) for label, _, index, _ in picks_of(selection)]
    assert len(set(found)) == len(found)
    assert all(kept[pair] == score for pair, score in zip(found, selection.score.tolist(), strict=True))
    available = np.bincount(pool.classes.ravel(), minlength=pool.num_classes)
    assert selection.per_class.tolist() == np.minimum(available, top_k).tolist()


def test_random_depends_on_the_seed_and_on_nothing_like_the_score(tmp_path: Path) -> None:
    pool = make_pool(7, records=4000, unreadable=0)
    paths = write_pool(tmp_path, pool)
    first, second = (select_samples(paths, top_k=400, variant="random", seed=seed) for seed in (0, 1))
    assert picks_of(first) != picks_of(second)
    assert abs(float(first.score.mean()) - float(pool.scores.mean())) < 0.02
    assert abs(float(first.sample.mean()) / 2000 - 1) < 0.05
    fewer = select_samples(paths, top_k=100, variant="random", seed=0)
    assert set(picks_of(fewer)) <= set(picks_of(first)), "a smaller K is a part of a larger one"


def test_progress_is_told_the_shards(tmp_path: Path) -> None:
    seen = []

    def progress(items: list[object], **said: object) -> list[object]:
        seen.append((len(items), said["total"], said["unit"]))
        return items

    paths = write_pool(tmp_path, make_pool(0), cuts=[10, 20])
    select_samples(paths, top_k=2, progress=progress)  # type: ignore[arg-type]
    assert seen == [(3, 3, "shards")] * 2


@pytest.mark.parametrize("top_k", [2**31, 2**32])
@pytest.mark.parametrize("variant", VARIANTS)
def test_k_times_the_classes_may_be_more_than_32_bits_hold(tmp_path: Path, variant: str, top_k: int) -> None:
    paths = write_pool(tmp_path, make_pool(0), cuts=[10, 200])
    everything = picks_of(select_samples(paths, top_k=300, variant=variant))
    assert picks_of(select_samples(paths, top_k=top_k, variant=variant)) == everything


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k must be from 1 to 4294967296, not 0"),
        ({"top_k": 2**32 + 1}, "top_k must be from 1 to 4294967296, not 4294967297"),
        ({"top_k": 5, "variant": "balancd"}, "did you mean 'balanced'"),
        ({"top_k": 5, "min_score": 1.5}, "min_score must be from 0 to 1, not 1.5"),
    ],
)
def test_impossible_arguments(tmp_path: Path, options: dict[str, object], message: str) -> None:
    paths = write_pool(tmp_path, make_pool(0))
    with pytest.raises(UserError, match=message):
        select_samples(paths, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_pool_with_nothing_readable(tmp_path: Path, variant: str) -> None:
    paths = write_pool(tmp_path, make_pool(0, unreadable=1.1), cuts=[10])
    with pytest.raises(UserError, match="no sample of the pool was scored"):
        select_samples(paths, top_k=1, variant=variant)


def test_a_large_pool_uses_all_32_bits_of_the_sample_index(tmp_path: Path) -> None:
    records = 2**32 - 1
    index = np.array([0, 5, 2**31 - 1, 2**31, records - 1])
    pool = Pool(index, np.zeros((5, 1), np.int64), np.full((5, 1), 0.5, np.float32), records, 1)
    selection = select_samples(write_pool(tmp_path, pool, cuts=[2**31, 2**31 + 1]), top_k=4)
    assert selection.sample.tolist() == index[:4].tolist()
    assert selection.shard.tolist() == [0, 0, 0, 1] and selection.position.tolist() == [0, 5, 2**31 - 1, 0]


@pytest.fixture
def worst(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule as a plugin would register it."""
    monkeypatch.setattr(SELECTION_RULES, "_parts", dict(SELECTION_RULES._parts))

    @SELECTION_RULES.register("worst")
    def worst(*, pool: PoolScores, top_k: int, seed: int, above: float = 0.0) -> Picks:
        def order(rows: ShardRows) -> np.ndarray:
            return np.where(rows.scores >= above, rows.scores, np.float32(1)).view(np.uint32)

        return pool.first(order, top_k=top_k)


@pytest.mark.usefixtures("worst")
@pytest.mark.parametrize("levels", [0, 3])
def test_a_rule_of_a_plugin(tmp_path: Path, levels: int) -> None:
    pool = make_pool(5, records=500, levels=levels)
    ranked = sorted(pairs(pool), key=lambda pair: (pair[1], pair[2]))
    expected = [
        (label, rank, index, score)
        for label in range(pool.num_classes)
        for rank, (_, score, index) in enumerate([pair for pair in ranked if pair[0] == label][:20])
    ]
    for trial, shards in enumerate((1, 7, 40)):
        paths = write_pool(tmp_path / str(trial), pool, cuts=random_cuts(trial, 500, shards), shuffle=trial)
        selection = select_samples(paths[::-1], top_k=20, variant="worst")
        assert picks_of(selection) == expected
    assert selection.facts()["variant"] == "worst" and "variant_options" not in selection.facts()


@pytest.mark.usefixtures("worst")
def test_options_of_a_rule(tmp_path: Path) -> None:
    paths = write_pool(tmp_path, make_pool(5, records=500), cuts=[100])
    selection = select_samples(paths, top_k=5, variant="worst", options={"above": 0.5})
    assert selection.score.min() >= 0.5 and selection.facts()["variant_options"] == {"above": 0.5}
    with pytest.raises(UserError, match="selection rule 'worst' has no option 'abov': did you mean 'above'"):
        select_samples(paths, top_k=5, variant="worst", options={"abov": 0.5})
