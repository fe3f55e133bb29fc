import tarfile

import numpy as np
import pyarrow as pa
import pytest

from bsssl import data
from bsssl.data import is_written, plan_tars, read_pool, selected_training_set, write_places, write_tar
from bsssl.data.loading.loader import TrainBatches, permutation
from bsssl.errors import UserError
from bsssl.selection import ScoreHeader, read_selection, score_path, select_samples, write_scores, write_selection


@pytest.fixture
def selection(tmp_path):
    """A selection of 3 classes with K = 4 over 20 samples in two shards; samples are files or parts of one."""
    rng = np.random.default_rng(0)
    (tmp_path / "pool").mkdir()
    container = tmp_path / "pool" / "b.tar"
    container.write_bytes(bytes(range(200)))
    for shard in range(2):
        names = [f"{shard}-{number}.jpg" for number in range(10)]
        for name in names:
            (tmp_path / "pool" / name).write_bytes(name.encode() * 50)
        paths = [str(container if shard else tmp_path / "pool" / name) for name in names]
        samples = pa.table(
            {
                "position": range(10),
                "key": [f"b.tar/{name}" if shard else name for name in names],
                "path": [
                    f"{path}#t={number},{number + 1}" if number == 3 else path for number, path in enumerate(paths)
                ],
                "offset": [20 * number if shard else 0 for number in range(10)],
                "size": [20 if shard else -1] * 10,
            }
        )
        scores = np.sort(rng.dirichlet(np.ones(3), 10)[:, :2], axis=1)[:, ::-1]
        header = ScoreHeader(
            **{"teacher": "t", "class_names": ("a", "b", "c"), "top_p": 2, "num_shards": 2},
            **{"shard": str(shard), "number": shard, "base": 10 * shard, "num_records": 10},
        )
        classes = np.array([rng.permutation(3)[:2] for _ in range(10)])
        write_scores(score_path(str(tmp_path), shard), header=header, samples=samples, classes=classes, scores=scores)
    path = str(tmp_path / "selection.parquet")
    write_selection(path, select_samples([score_path(str(tmp_path), shard) for shard in range(2)], top_k=8))
    return path


def copy(selection, folder, *, per_tar=4, order=1):
    plan = plan_tars(selection, per_tar=per_tar, seed=0)
    for number in range(plan.num_tars)[::order]:
        write_tar(plan, number, folder=str(folder), identity="i")
    path = str(folder / "selection.parquet")
    write_places(plan, folder=str(folder), path=path)
    return plan, path


def test_an_index_does_not_vouch_for_another_tar(selection, tmp_path, monkeypatch):
    folder = tmp_path / "tars"
    copy(selection, folder)
    assert is_written(str(folder), 1, identity="i")

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyarrow.parquet.write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        write_tar(plan_tars(selection, per_tar=4, seed=9), 1, folder=str(folder), identity="other")
    assert not is_written(str(folder), 1, identity="i") and not is_written(str(folder), 1, identity="other")


def contents(records):
    return [record.read() for record in records]


@pytest.mark.parametrize("mode", ["per_pair", "multi"])
def test_a_student_sees_exactly_the_selection(selection, tmp_path, mode):
    plan, path = copy(selection, tmp_path / "tars")
    before, targets = selected_training_set(selection, mode=mode)
    after, copied_targets = selected_training_set(path, mode=mode)
    assert contents(after) == contents(before) and after.key == before.key
    dense = [targets[row] if mode == "per_pair" else targets[row].tolist() for row in range(len(before))]
    assert dense == [
        copied_targets[row] if mode == "per_pair" else copied_targets[row].tolist() for row in range(len(after))
    ]
    segments = [path.partition("#")[2] for path in before.path.to_pylist()]
    assert any(segments) and [path.partition("#")[2] for path in after.path.to_pylist()] == segments
    assert len(plan.rows) == read_selection(selection).num_samples


def test_the_tars_are_webdatasets_in_shuffled_order(selection, tmp_path):
    plan, _ = copy(selection, tmp_path / "tars", per_tar=5)
    names = []
    for number in range(plan.num_tars):
        with tarfile.open(tmp_path / "tars" / f"{number:06d}.tar") as tar:
            names += tar.getnames()
            assert all(member.mtime == member.uid == 0 for member in tar)
            note = tar.extractfile(tar.getnames()[0]).read()
            assert note.startswith(b'{"key": "') and b'"classes": [' in note and b'"scores": [0.' in note
    assert names[::2] == [f"{number:09d}.json" for number in range(len(plan.rows))]
    assert names[1::2] == [f"{number:09d}.jpg" for number in range(len(plan.rows))]
    assert not np.array_equal(plan.rows, np.sort(plan.rows))


def test_equal_selections_make_equal_files(selection, tmp_path):
    for folder, order in (("a", 1), ("b", -1)):
        copy(selection, tmp_path / folder, order=order)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


def test_a_sample_that_is_gone(selection, tmp_path):
    plan = plan_tars(selection, per_tar=100, seed=0)
    gone = next(row for row in plan.selected.table.to_pylist() if row["shard"] == 0)
    (tmp_path / "pool" / gone["key"]).unlink()
    with pytest.raises(UserError, match=f"the selected sample {gone['key']} cannot be read any more"):
        write_tar(plan, 0, folder=str(tmp_path / "tars"), identity="i")
    assert list((tmp_path / "tars").iterdir()) == []


def test_rows_of_a_group_stay_together():
    groups = np.repeat([2, 0, 1, 3], [5, 1, 4, 6])
    orders = [permutation(16, seed=1, epoch=epoch, groups=groups) for epoch in range(4)]
    for order in orders:
        assert sorted(order) == list(range(16))
        assert np.count_nonzero(np.diff(groups[order])) == 3
    assert len({tuple(order) for order in orders}) == 4
    assert len({tuple(dict.fromkeys(groups[order])) for order in orders}) > 1


def test_batches_read_one_group_after_the_other():
    groups = np.repeat([1, 0, 2], 6)
    rows = [row for batch in TrainBatches(18, batch_size=3, num_batches=6, groups=groups) for row, _ in batch]
    assert sorted(rows) == list(range(18)) and rows != sorted(rows)
    assert np.count_nonzero(np.diff(groups[rows])) == 2


def test_the_student_reads_tar_by_tar(bsssl, finished, recipe, monkeypatch):
    given = []

    class Recorded(data.TrainBatches):
        def __init__(self, *arguments, groups=None, **options):
            given.append(groups)
            super().__init__(*arguments, groups=groups, **options)

    monkeypatch.setattr(data, "TrainBatches", Recorded)
    on = ("--config", recipe.config, f"output_dir={finished}", "materialise.samples_per_tar=4")
    assert bsssl("run", *on).status == 0
    copied = read_selection(str(finished / "seed-0" / "materialise" / "selection.parquet")).table["path"].to_pylist()
    [groups] = [groups for groups in given if groups is not None]  # of pre-training alone
    assert len(set(zip(copied, groups.tolist(), strict=True))) == len(set(copied)) > 2


def test_the_recipe_with_materialised_samples(bsssl, finished, recipe):
    common = ("--config", recipe.config, f"output_dir={finished}")
    assert "add for example materialise.samples_per_tar" in bsssl("materialise", *common).err
    on = (*common, "materialise.samples_per_tar=4")
    assert bsssl("materialise", *on, "--task", "1/3").status == 0
    folder = finished / "seed-0" / "materialise"
    pairs = read_selection(str(finished / "seed-0" / "select" / "selection.parquet"))
    samples = len({(row["shard"], row["position"]) for row in pairs.table.to_pylist()})
    assert [path.name for path in sorted(folder.glob("*.tar"))] == [
        f"{number:06d}.tar" for number in range(1, -(-samples // 4), 3)
    ]
    assert bsssl("run", *on, "--plan").out.count("\nmaterialise ") == 1
    assert bsssl("run", *on).status == 0
    assert len(list(folder.glob("*.tar"))) == -(-samples // 4)
    copied = read_selection(str(folder / "selection.parquet"))
    assert copied.table.drop(["path", "offset", "size"]).equals(pairs.table.drop(["path", "offset", "size"]))
    assert len(read_pool(str(finished / "seed-0" / "data" / "pool")).shards) == 6
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert bsssl("run", *on).status == 0
    assert before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}

    tars = -(-samples // 4)
    assert f"{tars} of {tars} tars" in bsssl("status", finished).out
    (folder / "done.json").rename(folder / "begun.json")  # as if it had not been finished
    for path in (folder / "000001.tar",):
        path.unlink()
    assert f"{tars - 1} of {tars} tars" in bsssl("status", finished).out
    shown = [
        line.split()[2:] for line in bsssl("status", finished, "--shards").out.splitlines() if "materialise" in line
    ]
    assert shown == [[str(tar), *(("not", "done") if tar == 1 else ("done",))] for tar in range(tars)]
