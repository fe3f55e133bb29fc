"""What is said of the bytes of items, read once."""

import numpy as np
import pytest
import xxhash

from bsssl.data import records
from bsssl.data.datasets.tars import index_tar
from bsssl.data.endings import Endings
from bsssl.data.pool.contents import Part, failures, has_contents, numbered_hashes, read_contents, write_contents
from bsssl.data.records import Records
from bsssl.data.views.checks import make_check
from bsssl.errors import UserError
from tests.data.videos import write_video


def contents(items, verify="headers", reading=None):
    """Hash and reason of each item."""
    tables = list(read_contents(items, check=make_check(verify, max_pixels=10_000, reading=reading)))
    return [(row["hash"], row["reason"]) for table in tables for row in table.to_pylist()]


def hashed_by_itself(content):
    return xxhash.xxh3_128_digest(content)


@pytest.fixture
def files(tmp_path, encode, smooth):
    """Contents by name: two whole pictures, a small and a large one, and what is none."""
    from PIL import Image

    whole = encode(Image.fromarray(smooth))
    made = {
        "a.png": whole,
        "b.jpg": encode(Image.fromarray(smooth), "JPEG"),
        "cut.jpg": encode(Image.fromarray(smooth), "JPEG")[:-200],
        "head.jpg": b"\xff\xd8\xff\xe0",
        "large.png": encode(Image.new("L", (200, 200))),
        "none.png": b"<html>",
    }
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    return made


def test_the_hash_of_all_that_can_be_read_and_the_reason_of_what_cannot_be_used(tmp_path, files):
    paths = [str(tmp_path / name) for name in (*files, "gone.png")]
    records = Records.from_columns(key=paths, path=paths)
    for verify, bad in (
        ("headers", ["head.jpg", "large.png", "none.png", "gone.png"]),
        ("decode", ["cut.jpg", "head.jpg", "large.png", "none.png", "gone.png"]),
        ("off", ["gone.png"]),
    ):
        found = contents(records, verify)
        assert [hashed for hashed, _ in found] == [*map(hashed_by_itself, files.values()), None]
        reasons = [reason for _, reason in found if reason is not None]
        assert [reason.partition(":")[0].rsplit("/", 1)[-1] for reason in reasons if "gone" not in reason] == bad[:-1]
        assert "gone.png" in reasons[-1]


def test_members_of_a_tar(tmp_path, files, make_tar):
    path = tmp_path / "t.tar"
    path.write_bytes(make_tar(files)[: 512 * 3])
    records, _ = index_tar(str(path), endings=Endings("images"))
    found = contents(records, "off")
    assert found[-1][0] is None and "t.tar is cut short" in found[-1][1]


def test_videos(tmp_path):
    write_video(tmp_path / "v.mp4")
    whole = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    paths = [str(tmp_path / name) for name in ("v.mp4", "v.mp4#t=0,0.5", "v.mp4#t=900,901", "cut.mp4")]
    for verify in ("headers", "decode"):
        found = contents(Records.from_columns(key=paths, path=paths), verify, {"backend": "av"})
        assert [reason is None for _, reason in found] == [True, True, False, False]
        assert "no frame from 900 s" in found[2][1]
        assert found[0][0] == hashed_by_itself(whole) and len({hashed for hashed, _ in found}) == 4


def test_the_file_of_a_part(tmp_path, files):
    paths = [str(tmp_path / name) for name in ("gone.png", "a.png", "none.png")]
    records = Records.from_columns(key=paths, path=paths)
    (table,) = read_contents(records, check=make_check("headers", max_pixels=10_000, reading=None))
    path = str(tmp_path / "0.contents")
    assert not has_contents(path, about={"records": "1"})
    write_contents(path, table, about={"records": "1"})
    assert has_contents(path, about={"records": "1"}) and not has_contents(path, about={"records": "2"})
    part = Part(number=0, items="pool", start=0, first=100, count=3, digest="1", records=lambda: records)
    numbers, words = numbered_hashes(part, path)
    assert numbers.tolist() == [101]  # alone can be used
    assert words.tobytes() == hashed_by_itself(files["a.png"]) and words.dtype == np.uint64
    assert [*failures(path)] == [0, 2] and "none.png" in failures(path)[2]
    (tmp_path / "0.contents").write_bytes(b"PAR1 and nothing else")
    assert not has_contents(path, about={"records": "1"})
    with pytest.raises(UserError, match=r"0\.contents is damaged"):
        failures(path)


def test_a_file_is_read_once_for_all_its_segments(tmp_path, monkeypatch):
    video = write_video(tmp_path / "v.mp4", frames=50)
    reads, read = [], records.read_bytes
    monkeypatch.setattr(records, "read_bytes", lambda *args, **options: reads.append(args) or read(*args, **options))
    paths = [f"{video}#t={start / 25:g},{start / 25 + 0.2:g}" for start in range(40)]
    found = contents(Records.from_columns(key=paths, path=paths), reading={"deadline": 60.0})
    assert len(reads) == 1
    assert len({content for content, _ in found}) == 40 and {reason for _, reason in found} == {None}
