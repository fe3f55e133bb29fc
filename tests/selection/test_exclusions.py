import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bsssl.errors import UserError
from bsssl.selection import (
    SAMPLES_SCHEMA,
    ScoreHeader,
    following,
    read_exclusions,
    read_selection,
    score_files,
    score_path,
    select_samples,
    write_scores,
    write_selection,
)
from bsssl.selection.exclusions import COPIES_SCHEMA

NAMES = ("cat", "dog", "fox, red")
SHARDS, RECORDS, TOP_P = 3, 60, 2


@pytest.fixture
def pool(tmp_path):
    """Score files of 180 items, of which each keeps two classes; many scores are equal."""
    generator = np.random.default_rng(0)
    for number in range(SHARDS):
        keys = [f"{number}/{row}.jpg" for row in range(RECORDS)]
        columns = [range(RECORDS), keys, keys, [0] * RECORDS, [-1] * RECORDS]
        header = ScoreHeader(
            teacher="t",
            class_names=NAMES,
            top_p=TOP_P,
            num_shards=SHARDS,
            shard=str(number),
            number=number,
            base=number * RECORDS,
            num_records=RECORDS,
        )
        write_scores(
            score_path(str(tmp_path / "scores"), number),
            header=header,
            samples=pa.table(dict(zip(SAMPLES_SCHEMA.names, columns, strict=True))),
            classes=np.array([generator.permutation(3)[:TOP_P] for _ in range(RECORDS)]),
            scores=-np.sort(-generator.integers(0, 20, (RECORDS, TOP_P)) / 20),
        )
    return score_files(str(tmp_path / "scores"))


def picked(pool, **options):
    table = select_samples(pool, **options).to_table()
    return [(key, NAMES[index]) for key, index in zip(*(table[n].to_pylist() for n in ("key", "class")), strict=True)]


def copies_at(path, left_out, *, others=()):
    """A list of copies of the pool's items (shard, position), of which ``others`` are not left out."""
    rows = [
        {"set": "pool", "key": "", "shard": shard, "position": row, "of_set": "pool", "of_key": "", "left_out": is_out}
        for is_out, places in ((True, left_out), (False, others))
        for shard, row in places
    ]
    rows.append({"set": "labeled", "position": 0, "of_set": "labeled", "left_out": False})
    rows.sort(key=lambda row: (row.get("shard", -1), row["position"]))
    pq.write_table(pa.Table.from_pylist(rows, COPIES_SCHEMA), path, row_group_size=3)
    return str(path)


@pytest.mark.parametrize("variant", ["balanced", "unbalanced", "random"])
def test_what_a_list_of_copies_leaves_out_is_as_if_it_was_not_scored(pool, tmp_path, variant):
    out = [(0, row) for row in range(0, RECORDS, 3)] + [(2, 7), (2, 7), (2, 8)]
    path = copies_at(tmp_path / "copies.parquet", out, others=[(1, 5), (2, 9)])
    everything = picked(pool, top_k=1000, variant=variant)
    keys = {f"{shard}/{row}.jpg" for shard, row in out}
    for top_k in (1, 10, 1000):
        left = picked(pool, top_k=top_k, variant=variant, copies=path)
        by_hand = read_exclusions(listed(tmp_path / "list.csv", [(key, "") for key in sorted(keys)]))
        assert left == picked(pool, top_k=top_k, variant=variant, exclude=by_hand)
        both = picked(pool, top_k=top_k, variant=variant, copies=path, exclude=by_hand)
        assert both == left
    assert left == [pair for pair in everything if pair[0] not in keys]


def test_a_list_of_copies_that_is_damaged_is_said_to_be(pool, tmp_path):
    path = tmp_path / "copies.parquet"
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"copies\.parquet is no list of copies of this pool \("):
        picked(pool, top_k=1, copies=str(path))


def listed(path, rows):
    """An exclusion list in the form that the name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"key": [key for key, _ in rows], "class": [name for _, name in rows]}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"key": key, "class": name}) + "\n" for key, name in rows))
    else:
        path.write_text("key,class\n" + "".join(f'"{key or ""}","{name or ""}"\n' for key, name in rows))
    return str(path)


@pytest.mark.parametrize("variant", ["balanced", "unbalanced", "random"])
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_what_is_left_out_is_as_if_it_had_not_kept_the_class(pool, tmp_path, variant, form):
    everything = picked(pool, top_k=1000, variant=variant)
    chosen = picked(pool, top_k=10, variant=variant)
    rows = [chosen[0], chosen[-1], (chosen[3][0], None)]
    excluded = read_exclusions(listed(tmp_path / f"out.{form}", rows))
    out = {*rows[:2], *((chosen[3][0], name) for name in NAMES)}
    left = [pair for pair in everything if pair not in out]
    if variant == "unbalanced":
        assert set(picked(pool, top_k=1000, variant=variant, exclude=excluded)) == set(left)
        assert not out & set(picked(pool, top_k=10, variant=variant, exclude=excluded))
    else:
        wanted = [pair for name in NAMES for pair in [one for one in left if one[1] == name][:10]]
        assert picked(pool, top_k=10, variant=variant, exclude=excluded) == wanted


def test_a_class_can_be_left_out_as_a_whole(pool, tmp_path):
    excluded = read_exclusions(listed(tmp_path / "out.csv", [(None, "fox, red")]))
    assert picked(pool, top_k=10, exclude=excluded) == [pair for pair in picked(pool, top_k=10) if pair[1] != NAMES[2]]


def test_unknown_keys_are_told_and_others_left_out(pool, tmp_path, caplog):
    best = picked(pool, top_k=10)[0]
    excluded = read_exclusions(listed(tmp_path / "out.csv", [best, ("nowhere.jpg", "cat")]))
    with caplog.at_level("WARNING", "bsssl"):
        assert best not in picked(pool, top_k=10, exclude=excluded)
    assert "1 of 2 keys are no scored item of the pool (first: nowhere.jpg)" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("out.csv", "key,class\n0/1.jpg,cats\n", "unknown class 'cats': did you mean 'cat'"),
        ("out.csv", "key,class\nnowhere,cat\n", "none of its 1 keys is an item of the pool"),
        ("out.csv", "key\n0/1.jpg\n", "has no column class; it has key"),
        ("out.csv", "key,class\n,\n", "neither a key nor a class"),
        ("out.csv", "", "out.csv cannot be read as a table"),
        ("out.csv", f"key,class,{'x' * 200_000}\n", "out.csv cannot be read as a table: field larger than"),
        ("out.jsonl", "", "out.jsonl has no rows"),
        ("out.csv", "key,class\n", "out.csv has no rows"),
        ("out.jsonl", "{", "out.jsonl: line 1 is not valid JSON"),
        ("out.jsonl", 'null}\n{"key"{"key": "0/1.jpg", "class": "cat"}\n', "line 1 is not valid JSON"),
        ("out.jsonl", f'{{"key": {"[" * 99_999}\n', "line 1 is not valid JSON"),
        ("out.parquet", "PAR1", "out.parquet cannot be read as a table"),
        ("out.csv", b"key,class\n\xff,cat\n", "out.csv cannot be read as a table: .*; save it as UTF-8"),
        ("out.csv", "key,class,key\na,b,c\n", "has the column 'key' more than once"),
        ("out.txt", "", "the name of a table must end in .csv, .jsonl or .parquet"),
        ("out.csv", 'key,class\n,cat\n,dog\n,"fox, red"\n', "nothing to select"),
    ],
)
def test_what_is_wrong_is_one_line(pool, tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message) as caught:
        select_samples(pool, top_k=5, exclude=read_exclusions(str(tmp_path / name)))
    assert "\n" not in str(caught.value)


def test_a_list_that_is_missing():
    with pytest.raises(UserError, match=r"nowhere\.csv"):
        read_exclusions("nowhere.csv")


@pytest.mark.parametrize(("variant", "min_score"), [("balanced", 0.0), ("balanced", 0.6), ("random", 0.0)])
def test_what_follows_a_selection(pool, tmp_path, variant, min_score):
    path = str(tmp_path / "selection.parquet")
    write_selection(path, select_samples(pool, top_k=9, variant=variant, min_score=min_score, seed=3))
    chosen = read_selection(path)
    after = following(pool, chosen, most=4).table.to_pylist()
    keys = {pair: rank for rank, pair in enumerate(picked(pool, top_k=13, variant=variant, seed=3))}
    assert after and all((row["key"], NAMES[row["class"]]) in keys for row in after)
    mine = {(row["key"], row["class"]) for row in chosen.table.to_pylist()}
    assert not mine & {(row["key"], row["class"]) for row in after}
    for index in range(3):
        ranks = [row["rank"] for row in after if row["class"] == index]
        first = sum(name == index for _, name in mine)
        assert ranks == [*range(first, first + 4)]
