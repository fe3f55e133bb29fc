import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from bsssl import data
from bsssl.errors import UserError
from bsssl.selection import (
    ScoreHeader,
    has_scores,
    ledger_path,
    read_header,
    read_sample_scores,
    rebase_scores,
    score_files,
    score_path,
    select_samples,
    write_scores,
)
from bsssl.selection.scores import ScoreFile
from tests.selection.pools import Pool, digest, make_pool, sample_table, write_pool


def test_header_comes_back(tmp_path: Path) -> None:
    paths = write_pool(tmp_path, make_pool(0), cuts=[100], class_names=tuple("abcdéfg"))
    header = read_header(paths[1])
    assert header == ScoreHeader(
        teacher="teacher", class_names=tuple("abcdéfg"), top_p=3, preprocessing={"resize": 8},
        num_shards=2, shard="shard-1", number=1, base=100, num_records=200, records="010000c8",
    )  # fmt: skip


@pytest.mark.parametrize("levels", [0, 2])
def test_sample_scores_come_back_by_sample_best_first(tmp_path: Path, levels: int) -> None:
    pool = make_pool(1, levels=levels)
    (path,) = write_pool(tmp_path, pool, shuffle=1)
    positions, classes, scores = read_sample_scores(path)
    order = np.lexsort((pool.classes, -pool.scores), axis=1)
    assert np.array_equal(positions, pool.index)
    assert np.array_equal(classes, np.take_along_axis(pool.classes, order, 1))
    assert np.array_equal(scores, np.take_along_axis(pool.scores, order, 1))


def test_an_empty_shard_is_a_shard(tmp_path: Path) -> None:
    paths = write_pool(tmp_path, make_pool(0), cuts=[50, 50])
    positions, classes, scores = read_sample_scores(paths[1])
    assert positions.shape == (0,) and classes.shape == (0, 3) and scores.shape == (0, 3)
    assert len(ScoreFile(paths[1]).samples()) == 0


def test_the_same_scores_make_the_same_file(tmp_path: Path) -> None:
    pool = make_pool(2)
    first, second = (write_pool(tmp_path / str(seed), pool, shuffle=seed)[0] for seed in (1, 2))
    assert digest(first) == digest(second)


def test_remote_files() -> None:
    pool = make_pool(3)
    paths = write_pool("memory://scores", pool, cuts=[100])  # type: ignore[arg-type]
    try:
        assert score_files("memory://scores") == [path.replace("memory://", "memory:///") for path in paths]
        assert len(select_samples(paths, top_k=5).sample) == 35
        assert len(read_sample_scores(paths[0])[0]) == int((pool.index < 100).sum())
    finally:
        fsspec.filesystem("memory").rm("/scores", recursive=True)


def test_the_ledger_lies_beside_the_score_file(tmp_path: Path) -> None:
    assert ledger_path(score_path(str(tmp_path), 3)) == str(tmp_path / "000003.ledger.jsonl")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1, 1.0001])
def test_scores_must_be_probabilities(tmp_path: Path, bad: float) -> None:
    pool = make_pool(4)
    pool.scores[17, 1] = bad
    with pytest.raises(UserError, match=rf"1 samples of shard-0 .*'key-{pool.index[17]}'.*check the teacher"):
        write_pool(tmp_path, pool)
    assert not list(tmp_path.iterdir()), "nothing half-written"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda call: call.update(classes=call["classes"][:, :2]), "must be"),
        (lambda call: call["classes"].__setitem__((0, 0), 7), "must be in"),
        (lambda call: call["classes"].__setitem__((0, 0), -1), "must be in"),
        (lambda call: call["classes"].__setitem__((0, 0), call["classes"][0, 1]), "must be distinct"),
        (lambda call: call.update(samples=sample_table(np.zeros(len(call["classes"]), int))), "must be distinct"),
        (lambda call: call.update(samples=sample_table(np.arange(len(call["classes"])) + 290)), "must be in"),
    ],
)
def test_arguments_that_do_not_fit(tmp_path: Path, spoil: Callable[[dict[str, object]], None], message: str) -> None:
    pool = make_pool(5)
    call = {"samples": sample_table(pool.index), "classes": pool.classes, "scores": pool.scores}
    spoil(call)
    header = ScoreHeader(
        teacher="t", class_names=tuple("abcdefg"), top_p=3, num_shards=1, shard="s", number=0, base=0,
        num_records=300,
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        write_scores(str(tmp_path / "x"), header=header, **call)  # type: ignore[arg-type]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_in_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def overwrite(path: Path) -> None:
    path.write_bytes(b"some text that is not a score file" * 100)


def other_version(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'version\\": 2', b'version\\": 9'))


def other_format(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"bsssl scores", b"model scores"))


def bad_offsets(path: Path) -> None:
    file = ScoreFile(str(path))
    _, start, _ = file._places["offsets"]
    content = bytearray(path.read_bytes())
    content[start + 8 : start + 16] = b"\xff" * 8
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncate, "cut short"),
        (cut_in_header, "damaged or not a score file"),
        (empty, "damaged or not a score file"),
        (extend, "cut short"),
        (overwrite, "damaged or not a score file"),
        (other_version, "format version 9, this program reads 1 and 2"),
        (other_format, "not a score file"),
        (bad_offsets, "damaged"),
    ],
)
def test_damaged_files(tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
    paths = write_pool(tmp_path, make_pool(0), cuts=[100])
    spoil(Path(paths[1]))
    with pytest.raises(UserError, match=message) as caught:
        select_samples(paths, top_k=3)
    said = str(caught.value)
    assert paths[1] in said and "bsssl score" in said and "\n" not in said


@pytest.mark.parametrize("seed", range(5))
def test_any_header_byte_may_be_wrong_without_a_traceback(tmp_path: Path, seed: int) -> None:
    (path,) = write_pool(tmp_path, make_pool(0, records=20))
    content = Path(path).read_bytes()
    random = np.random.default_rng(seed)
    for _ in range(200):
        spoiled = bytearray(content)
        spoiled[random.integers(0, 8 + int.from_bytes(content[:8], "little"))] = random.integers(0, 256)
        Path(path).write_bytes(spoiled)
        try:
            read_header(path)
        except UserError as error:
            assert path in str(error)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("teacher", "another"),
        ("class_names", tuple("gfedcba")),
        ("preprocessing", {"resize": 9}),
    ],
)
def test_mixed_files_are_refused(tmp_path: Path, name: str, value: object) -> None:
    pool = make_pool(0)
    mine = write_pool(tmp_path / "a", pool, cuts=[100])
    theirs = write_pool(tmp_path / "b", pool, cuts=[100], **{name: value})
    with pytest.raises(UserError, match=f"disagree on {name}") as caught:
        select_samples([mine[0], theirs[1]], top_k=3)
    assert mine[0] in str(caught.value) and theirs[1] in str(caught.value)


def test_incomplete_and_doubled_pools_are_refused(tmp_path: Path) -> None:
    paths = write_pool(tmp_path, make_pool(0), cuts=[50, 100, 150])
    with pytest.raises(UserError, match=r"2 of 4 shards have no score file .*\(numbers 1, 3\); run `bsssl score`"):
        select_samples([paths[0], paths[2]], top_k=3)
    with pytest.raises(UserError, match="both hold shard 2"):
        select_samples([*paths, paths[2]], top_k=3)
    with pytest.raises(UserError, match="no score files were given"):
        select_samples([], top_k=3)
    with pytest.raises(UserError, match=r"no score files .*run `bsssl score`"):
        score_files(str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="no such file"):
        select_samples([*paths[:3], str(tmp_path / "999999.scores")], top_k=3)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("number", "1"), ("number", 7), ("base", 2.5), ("base", 2**60), ("num_records", None), ("num_shards", True)),
        *(("records", "no digest"), ("top_p", 0), ("class_names", [1] * 7), ("teacher", None)),
    ],
)
def test_facts_that_cannot_be(tmp_path: Path, key: str, value: object) -> None:
    path = Path(write_pool(tmp_path, make_pool(0), cuts=[100])[1])
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    facts = [json.loads(line) for line in header["__metadata__"]["bsssl"].split("\n")]
    next(one for one in facts if key in one)[key] = value
    header["__metadata__"]["bsssl"] = "\n".join(map(json.dumps, facts))
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(UserError, match=r"000001\.scores is damaged or not a score file; delete it"):
        select_samples(score_files(str(tmp_path)), top_k=3)


def test_a_number_of_shards_that_no_memory_holds(tmp_path: Path) -> None:
    write_pool(tmp_path, make_pool(0), num_shards=2**62)
    with pytest.raises(UserError, match=r"shards have no score file .*\(numbers 1, 2, 3, .*, 20, \.\.\.\); run"):
        select_samples(score_files(str(tmp_path)), top_k=3)


@pytest.mark.parametrize("row", [2**63, 2**32 - 1])
def test_rows_of_no_sample_and_scores_that_are_none(tmp_path: Path, row: int) -> None:
    path = Path(write_pool(tmp_path, make_pool(0, records=50))[0])
    rows, content = np.array([row], np.uint64).tobytes(), path.read_bytes()
    start = content.index(ScoreFile(str(path)).array("rows0")[:1].tobytes())
    path.write_bytes(content[:start] + rows + content[start + 8 :])
    for variant in ("balanced", "unbalanced", "random"):
        with pytest.raises(UserError, match=r"000000\.scores is damaged \(rows out of range\); delete it"):
            select_samples([str(path)], top_k=3, variant=variant)


def test_folders_whose_names_are_patterns(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]*"
    folder.mkdir()
    (folder / "000000.scores").write_text("")
    assert score_files(str(folder)) == [str(folder / "000000.scores")]
    (tmp_path / "a=[1,2]").mkdir()
    (tmp_path / "a=[1,2]" / "score").symlink_to(folder)
    assert score_files(str(tmp_path / "a=[1,2]" / "score")) == [str(folder / "000000.scores")]


def test_shards_that_do_not_follow_one_another(tmp_path: Path) -> None:
    mine = write_pool(tmp_path / "a", make_pool(0), cuts=[100])
    theirs = write_pool(tmp_path / "b", make_pool(0), cuts=[150])
    with pytest.raises(UserError, match="starts at record 150, but the shards before it hold 100"):
        select_samples([mine[0], theirs[1]], top_k=3)


def test_more_records_than_an_index_holds(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="split it into several pools"):
        write_pool(tmp_path, make_pool(0), num_records=2**32)


def test_the_container_is_plain_safetensors(tmp_path: Path) -> None:
    from safetensors import safe_open

    (path,) = write_pool(tmp_path, make_pool(0, records=3000))
    with safe_open(path, "np") as file:
        assert set(file.keys()) == {"offsets", "rows0", "rows1", "rows2", "counts", "samples"}
        assert json.loads(file.metadata()["bsssl"].splitlines()[0])["num_records"] == 3000
        assert file.get_tensor("counts")[-1].tolist() == np.diff(file.get_tensor("offsets")).tolist()


def test_files_of_version_1_give_the_selection_that_they_gave() -> None:
    """Written, and selected from, by the last program that wrote them."""
    folder = Path(__file__).parent / "version_1"
    expected = json.loads((folder / "selected.json").read_text())
    selection = select_samples(score_files(str(folder)), top_k=6)
    assert selection.sample.tolist() == expected["sample"] and selection.class_index.tolist() == expected["classes"]
    assert selection.facts() == expected["facts"] and selection.summary() == expected["summary"]
    assert list(selection.facts()) == list(expected["facts"])


def grown(tmp_path: Path, pool: Pool) -> tuple[list[str], list[str]]:
    """Score files of a pool of 100 + 100 records, and of 100 + 100 + 100 of which only the last was written anew."""
    before = write_pool(tmp_path / "before", part_of(pool, 200), cuts=[100])
    after = write_pool(tmp_path / "after", pool, cuts=[100, 200])
    return before, after


def part_of(pool: Pool, records: int) -> Pool:
    rows = pool.index < records
    return Pool(pool.index[rows], pool.classes[rows], pool.scores[rows], records, pool.num_classes)


def test_files_stay_valid_when_the_pool_grows(tmp_path: Path) -> None:
    before, after = grown(tmp_path, make_pool(7))
    mixed, anew = (select_samples(paths, top_k=9) for paths in ([*before, after[2]], after))
    assert mixed.sample.tolist() == anew.sample.tolist() and mixed.facts() == anew.facts()
    for old, new in zip(before, after, strict=False):
        assert has_scores(old, header=read_header(new), pool="")
        content = Path(old).read_bytes()
        rebase_scores(old, header=read_header(new))
        assert Path(old).read_bytes() == content
    with pytest.raises(UserError, match=r"1 of 3 shards have no score file .*\(numbers 1\)"):
        select_samples([before[0], after[2]], top_k=9)


def test_files_stay_valid_when_the_pool_shrinks_or_moves(tmp_path: Path) -> None:
    before, after = grown(tmp_path, make_pool(7))
    with pytest.raises(UserError, match="1 of 3 shards have no score file"):
        select_samples(after[:2], top_k=9)
    for old, new in zip(after, before, strict=False):
        rebase_scores(old, header=read_header(new))
        assert digest(old) == digest(new)
    moved = replace(read_header(after[2]), base=150, number=3, num_shards=5, shard="elsewhere")
    samples = ScoreFile(after[2]).samples()
    scores = read_sample_scores(after[2])
    rebase_scores(after[2], header=moved)
    assert read_header(after[2]) == moved and ScoreFile(after[2]).samples().equals(samples)
    assert all(np.array_equal(*pair) for pair in zip(read_sample_scores(after[2]), scores, strict=True))


@pytest.mark.parametrize(
    "changed",
    [{"teacher": "other"}, {"records": "ff"}, {"top_p": 2}, {"preprocessing": {}}, {"class_names": tuple("gfedcba")}],
)
def test_what_makes_scores_those_of_another_shard(tmp_path: Path, changed: dict[str, Any]) -> None:
    (path,) = write_pool(tmp_path, make_pool(7))
    header = read_header(path)
    assert has_scores(path, header=replace(header, base=4, number=2, num_shards=9, shard="x"), pool="")
    assert not has_scores(path, header=replace(header, **changed), pool="")
    with pytest.raises(ValueError, match="does not hold the scores"):
        rebase_scores(path, header=replace(header, **changed))
    assert not has_scores(f"{path}.none", header=header, pool="")
    truncate(Path(path))
    assert not has_scores(path, header=header, pool="")


def test_files_of_version_1_are_of_their_pool_as_a_whole() -> None:
    path = str(Path(__file__).parent / "version_1" / "000001.scores")
    header = replace(read_header(path), records="ab" * 32)
    assert has_scores(path, header=header, pool="pool")
    assert not has_scores(path, header=header, pool="another")


def test_the_fingerprint_of_a_pool_follows_from_its_score_files(tmp_path: Path) -> None:
    names = [f"{number:03d}" for number in range(7)]
    (tmp_path / "m.csv").write_text("path\n" + "\n".join(names))
    pool = data.write_pool([data.Manifest(path=str(tmp_path / "m.csv"))], folder=str(tmp_path / "pool"), shard_size=3)
    scored = make_pool(0, records=7, unreadable=0)
    paths = write_pool(tmp_path / "scores", scored, cuts=[3, 6])
    for path, shard in zip(paths, pool.shards, strict=True):
        header = replace(read_header(path), records=shard.digest)
        rows = slice(shard.base, shard.base + shard.num_records)
        write_scores(
            path, header=header, samples=sample_table(scored.index[rows], shard.base), classes=scored.classes[rows],
            scores=scored.scores[rows],
        )  # fmt: skip
    assert select_samples(paths, top_k=2).facts()["pool"] == pool.fingerprint


@pytest.mark.parametrize("name", [b"key", b"size", b"position"])
def test_a_sample_table_without_a_column(tmp_path: Path, name: bytes) -> None:
    path = Path(write_pool(tmp_path, make_pool(0))[0])
    _, start, stop = ScoreFile(str(path))._places["samples"]
    content = path.read_bytes()
    path.write_bytes(content[:start] + content[start:stop].replace(name, name.upper()) + content[stop:])
    with pytest.raises(UserError, match="has a damaged sample table"):
        ScoreFile(str(path)).samples()
