import json

import numpy as np
import pytest

from bsssl.data.datasets.sources import Folder, Manifest, Source, Tars
from bsssl.data.loading.dataset import content_hash
from bsssl.data.pool.listing import read_pool, write_pool
from bsssl.data.pool.overlap import check_overlap, content_hashes, find_overlap
from bsssl.data.records import Records
from bsssl.errors import UserError


@pytest.fixture
def tars(tmp_path, make_tar):
    for number, count in enumerate((3, 0, 5)):
        tar = make_tar({f"{n}.jpg": bytes([number, n]) for n in range(count)})
        (tmp_path / f"t{number}.tar").write_bytes(tar)
    return Tars(path=str(tmp_path / "t{0..2}.tar"))


def test_pool_of_a_folder_and_tars(tmp_path, picture_folder, tars):
    written = write_pool([Folder(path=str(picture_folder)), tars], folder=str(tmp_path / "pool"), shard_size=6)
    pool = read_pool(str(tmp_path / "pool"))
    assert pool == written
    assert [shard.num_records for shard in pool.shards] == [6, 6, 3, 3, 0, 5]
    assert [shard.base for shard in pool.shards] == [0, 6, 12, 15, 18, 18]
    assert [shard.number for shard in pool.shards] == list(range(6))
    assert [shard.name for shard in pool.shards][2:4] == ["shard-000002", "t0.tar"]
    assert pool.num_records == 23
    records = Records.concat([shard.records() for shard in pool.shards])
    assert records == Records.concat([Folder(path=str(picture_folder)).records(), tars.records()])


def test_fingerprint(tmp_path, picture_folder):
    def fingerprint(name, **options):
        return write_pool([Folder(path=str(picture_folder))], folder=str(tmp_path / name), **options).fingerprint

    first = fingerprint("a", shard_size=6)
    assert fingerprint("b", shard_size=6) == first
    assert fingerprint("c", shard_size=7) != first
    (picture_folder / "ant" / "1.jpg").unlink()
    assert fingerprint("d", shard_size=6) != first


def test_a_pool_can_be_moved(tmp_path, picture_folder):
    pool = write_pool([Folder(path=str(picture_folder))], folder=str(tmp_path / "a"))
    (tmp_path / "a").rename(tmp_path / "b")
    assert len(read_pool(str(tmp_path / "b")).shards[0].records()) == pool.num_records


def test_remote_pool(memory, picture_folder):
    pool = write_pool([Folder(path=str(picture_folder))], folder="memory://pool", shard_size=10)
    assert read_pool("memory://pool") == pool
    assert len(read_pool("memory://pool").shards[1].records()) == 5


def test_exclude(tmp_path, picture_folder, tars):
    folder = Folder(path=str(picture_folder)).records()
    tarred = tars.records()
    held = Records.concat([folder[3:5], tarred[1:2]])
    pool = write_pool([Folder(path=str(picture_folder)), tars], folder=str(tmp_path / "pool"), exclude=held)
    assert pool.num_records == 15 - 2 + 8 - 1
    tables = [shard.records() for shard in pool.shards]
    assert len(find_overlap(tables, held)) == 0
    check_overlap(tables, held, remedy="remove them")


def test_overlap(tmp_path, picture_folder, tars):
    pool = write_pool([Folder(path=str(picture_folder)), tars], folder=str(tmp_path / "pool"), shard_size=4)
    tables = [shard.records() for shard in pool.shards]
    held = Records.concat([Folder(path=str(picture_folder)).records()[:4], tars.records()[7:8]])
    assert find_overlap(tables, held).key.to_pylist() == held.key.to_pylist()
    with pytest.raises(UserError, match=r"contains 5 labeled or test items \(such as ant/1\.jpg, .*; remove them"):
        check_overlap(tables, held, remedy="remove them")
    other = Records.from_columns(key=["a"], path=[tars.files()[0]], offset=[100_000], size=[3])
    assert len(find_overlap(tables, other)) == 0


def test_empty_pool(tmp_path, picture_folder, make_tar):
    everything = Folder(path=str(picture_folder))
    with pytest.raises(UserError, match="the pool is empty"):
        write_pool([everything], folder=str(tmp_path / "pool"), exclude=everything.records())
    (tmp_path / "none.tar").write_bytes(make_tar({}))
    with pytest.raises(UserError, match=r"nothing to read in .*none\.tar"):
        write_pool([Tars(path=str(tmp_path / "none.tar"))], folder=str(tmp_path / "pool"))
    assert not (tmp_path / "pool" / "pool.json").exists()


def test_missing_pool(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*pool\.json"):
        read_pool(str(tmp_path))


def test_cut_tar_stays_in_the_pool(tmp_path, make_tar):
    whole = make_tar({f"{n}.jpg": bytes(400) for n in range(4)})
    (tmp_path / "cut.tar").write_bytes(whole[:1700])
    pool = write_pool([Tars(path=str(tmp_path / "cut.tar"))], folder=str(tmp_path / "pool"))
    assert pool.shards[0].records().key.to_pylist() == ["cut.tar/0.jpg", "cut.tar/1.jpg", "cut.tar/(end of the tar)"]


def test_long_manifest(tmp_path):
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"{n}.jpg\n" for n in range(70_001)))
    pool = write_pool([Manifest(path=str(tmp_path / "list.csv"))], folder=str(tmp_path / "pool"), shard_size=10_000)
    assert [shard.num_records for shard in pool.shards] == [10_000] * 7 + [1]
    keys = np.concatenate([shard.records().key.to_numpy() for shard in pool.shards])
    assert keys.tolist() == [f"{n}.jpg" for n in range(70_001)]


def test_content_hashes(tmp_path, picture_folder):
    records = Folder(path=str(picture_folder)).records()
    missing = Records.from_columns(key=["gone"], path=[str(tmp_path / "gone.jpg")])
    expected = {content_hash(path.read_bytes()) for path in picture_folder.rglob("*.jpg")}
    assert content_hashes(Records.concat([records, missing])) == expected
    assert all(len(digest) == 16 for digest in expected)


@pytest.mark.parametrize(
    ("pool", "overlaps"),
    [
        ("", True),
        ("#t=0.4,1.6", True),
        ("#t=0.50,1.5", True),
        ("#t=1,9", True),
        ("#t=1.5,2", False),
        ("#t=,0.5", False),
    ],
)
def test_parts_of_a_video_overlap_if_their_times_do(pool, overlaps):
    held = Records.from_columns(key=["held"], path=["one.mp4#t=0.5,1.5"])
    others = Records.from_columns(key=["a", "b"], path=[f"one.mp4{pool}", f"two.mp4{pool}"])
    assert find_overlap([others], held).key.to_pylist() == ["a"] * overlaps


class InTables(Source):
    """The same records, however many there are in a table."""

    def __init__(self, rows, table_rows):
        self._rows, self._table_rows = rows, table_rows

    def batches(self):
        keys = [f"{row * 7919 % 100_003}.jpg" for row in range(self._rows)]
        records = Records.from_columns(key=keys, path=[f"/data/{key}" for key in keys])
        yield from (records[start : start + self._table_rows] for start in range(0, self._rows, self._table_rows))


def test_shards_that_did_not_change_are_listed_alike_when_the_pool_grows(tmp_path, tars):
    before = write_pool([InTables(100_000, 100_000)], folder=str(tmp_path / "before"), shard_size=100_000)
    after = write_pool([InTables(100_000, 777), tars], folder=str(tmp_path / "after"), shard_size=100_000)
    for old, new in zip(before.shards, after.shards, strict=False):
        assert old.digest == new.digest and len(old.digest) == 64
        with open(old.path, "rb") as one, open(new.path, "rb") as other:
            assert one.read() == other.read()
    assert len({shard.digest for shard in after.shards}) == len(after.shards) == 4


def test_a_list_of_an_earlier_program_is_read(tmp_path, picture_folder):
    pool = write_pool([Folder(path=str(picture_folder))], folder=str(tmp_path))
    listed = json.loads((tmp_path / "pool.json").read_text())
    for shard in listed["shards"]:
        del shard["digest"]
    (tmp_path / "pool.json").write_text(json.dumps(listed))
    earlier = read_pool(str(tmp_path))
    assert earlier.fingerprint == pool.fingerprint and [shard.digest for shard in earlier.shards] == [""]
