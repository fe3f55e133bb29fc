import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from bsssl.errors import UserError
from bsssl.selection import (
    ScoreHeader,
    ledger_path,
    read_header,
    read_sample_scores,
    score_files,
    score_path,
    select_samples,
    write_scores,
)
from bsssl.selection.scores import ScoreFile
from tests.selection.pools import digest, make_pool, sample_table, write_pool


def test_header_comes_back(tmp_path: Path) -> None:
    paths = write_pool(tmp_path, make_pool(0), cuts=[100], class_names=tuple("abcdéfg"))
    header = read_header(paths[1])
    assert header == ScoreHeader(
        teacher="teacher", pool="pool", class_names=tuple("abcdéfg"), top_p=3, preprocessing={"resize": 8},
        num_shards=2, shard="shard-1", number=1, base=100, num_records=200,
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
        teacher="t", pool="p", class_names=tuple("abcdefg"), top_p=3, num_shards=1, shard="s", number=0, base=0,
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
    path.write_bytes(path.read_bytes().replace(b'version\\": 1', b'version\\": 9'))


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
        (other_version, "format version 9, this program reads 1"),
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
        ("pool", "another"),
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


def test_folders_whose_names_are_patterns(tmp_path: Path) -> None:
    folder = tmp_path / "run[1]*"
    folder.mkdir()
    (folder / "000000.scores").write_text("")
    assert score_files(str(folder)) == [str(folder / "000000.scores")]


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
