import tarfile

import numpy as np
import pytest

from bsssl import data, storage
from bsssl.data.datasets.frames import FrameFolders, FrameTars
from bsssl.data.datasets.paths import items_at
from bsssl.data.decoding.readers import open_video
from bsssl.data.pool.contents import read_contents
from bsssl.data.views.checks import make_check
from bsssl.errors import UserError
from bsssl.registry import DATASETS
from tests.data.videos import pack_folder, read_numbers, write_frames


@pytest.fixture
def frames(tmp_path):
    """Two classes of videos as folders of frames, each video with other numbers."""
    for place, (label, video) in enumerate([("cat", "v1"), ("cat", "v2"), ("dog", "v1")]):
        write_frames(tmp_path / "frames" / label / video, range(place * 20, place * 20 + 6 + place), name="{}.png")
    return tmp_path / "frames"


def _numbers(record):
    """The numbers of the frames of a video, as they are read from its content."""
    with open_video(record.read()) as video:
        return read_numbers(video.get(range(video.num_frames)))


def test_registered():
    assert DATASETS.get("frames") is FrameFolders and DATASETS.get("frame_tars") is FrameTars
    assert [option.name for option in DATASETS.options("frames")] == ["fps", "names"]
    assert isinstance(data.open_source("frames", path="x", options={}, videos=True), FrameFolders)


def test_folders(frames):
    records = FrameFolders(path=str(frames), fps=10).records()
    assert records.key.to_pylist() == ["cat/v1", "cat/v2", "dog/v1"]
    assert records.label.to_pylist() == ["cat", "cat", "dog"]
    assert records[0].path == f"{frames}/cat/v1#fps=10&frames=6"
    assert [_numbers(record) for record in records] == [[*range(6)], [*range(20, 27)], [*range(40, 48)]]


def test_folders_without_classes_and_a_single_one(frames):
    records = FrameFolders(path=str(frames / "cat")).records()
    assert records.key.to_pylist() == ["v1", "v2"] and records.label.null_count == 2
    (record,) = FrameFolders(path=str(frames / "cat" / "v2")).records()
    assert record.key == "v2" and _numbers(record) == [*range(20, 27)]


def test_what_else_there_is(frames, said):
    (frames / "cat" / "v1" / "meta.json").write_text("{}")
    (frames / "cat" / "v1" / "._1.png").write_text("")
    (frames / "cat" / "empty").mkdir()
    (frames / "cat" / "only text").mkdir()
    (frames / "cat" / "only text" / "a.txt").write_text("")
    source = FrameFolders(path=str(frames))
    assert len(source.records()) == 3 and source.left_out == {"json": 1, "txt": 1}
    assert said() == [
        f"{frames}: 2 folders have no frames, left out (first: cat/empty)",
        f"{frames}: left out: 1 .json, 1 .txt; the source's options.names says which pictures are frames",
    ]


def test_pictures_of_several_kinds_in_a_folder(frames):
    for number in range(6):
        (frames / "cat" / "v1" / f"flow_x_{number}.jpg").write_bytes(b"")
    record = FrameFolders(path=str(frames)).records()[0]
    with pytest.raises(OSError, match=r"frames=12: pictures of several kinds, .*say by options\.names"):
        record.read()
    records = FrameFolders(path=str(frames), names="[0-9]*").records()
    assert records[0].path.endswith("cat/v1#fps=25&frames=6&names=[0-9]*") and _numbers(records[0]) == [*range(6)]


def test_names_that_are_not_utf8(frames):
    for number in (7, 8):
        (frames / "cat" / "v1" / f"\udcff{number}.png").write_bytes(b"")
    records = FrameFolders(path=str(frames)).records()
    (table,) = read_contents(records, check=make_check("headers", max_pixels=10**6, reading={}))
    (reason,) = filter(None, table["reason"].to_pylist())
    assert reason.endswith("such as img_*") and "as 0.png and ?7.png" in reason


def test_folders_in_a_folder_of_frames(frames):
    write_frames(frames / "cat" / "v1" / "flow", range(3))
    with pytest.raises(UserError, match="has pictures in cat/v1 and in cat/v1/flow, a folder in it; keep the frames"):
        FrameFolders(path=str(frames)).records()
    (frames / "cover.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"has pictures in \. and in cat/v1"):
        FrameFolders(path=str(frames)).records()


@pytest.mark.parametrize("fps", [0, -25, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["frames", "frame_tars"])
def test_rates_that_are_none(name, fps):
    with pytest.raises(UserError, match=rf"^options\.fps is {fps:g}; give the frames per second, a number above 0"):
        data.open_source(name, path="x", options={"fps": fps}, videos=True)


def test_other_wrong_options(tmp_path):
    assert FrameFolders(path=str(tmp_path), fps=1000)
    with pytest.raises(UserError, match=r"options\.names is 'a/b'; give a pattern of file names"):
        FrameFolders(path=str(tmp_path), names="a/b")
    with pytest.raises(UserError, match="no such folder"):
        FrameFolders(path=str(tmp_path / "none")).records()
    with pytest.raises(UserError, match="nothing to read in"):
        FrameFolders(path=str(tmp_path)).records()


def test_what_cannot_be_used_is_found_before_training(frames):
    (frames / "cat" / "v1" / "3.png").unlink()
    write_frames(frames / "cat" / "v2", [27], name="{}.png", size=(32, 48))
    broken = frames / "dog" / "v1" / "43.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    records = FrameFolders(path=str(frames)).records()
    for verify, found in (("headers", 2), ("decode", 3)):
        check = make_check(verify, max_pixels=10**6, reading={})
        (table,) = read_contents(records, check=check)
        reasons = list(filter(None, table["reason"].to_pylist()))
        assert len(reasons) == found
        for reason, text in zip(
            reasons,
            ("frames are missing between 2.png and 4.png", "pictures of two sizes", "000000003.png"),
            strict=False,
        ):
            assert text in reason and str(frames) in reason


@pytest.mark.parametrize("compressed", [False, True])
def test_tars(frames, tmp_path, compressed):
    (frames / "cat" / "v1" / "3.json").write_text("{}")
    tar = pack_folder(frames, tmp_path / "train.tar")
    if compressed:
        with tarfile.open(tmp_path / "train.tar.gz", "w:gz") as copy, tarfile.open(tar) as whole:
            for member in whole:
                copy.addfile(member, whole.extractfile(member))
        tar = tmp_path / "train.tar.gz"
    source = FrameTars(path=str(tar), fps=10, unpacked=str(tmp_path / "unpacked"))
    records = source.records()
    assert records.key.to_pylist() == [f"{tar.name}/{name}" for name in ("cat/v1", "cat/v2", "dog/v1")]
    assert records.label.to_pylist() == ["cat", "cat", "dog"] and source.left_out == {"json": 1}
    # The same videos as in the folders, to the byte.
    in_folders = FrameFolders(path=str(frames), fps=10).records()
    assert [record.read() for record in records] == [record.read() for record in in_folders]


def test_members_with_long_names_and_other_formats(tmp_path):
    deep = tmp_path / "frames" / ("class " + "é" * 60) / ("video " + "x" * 90)
    write_frames(deep, range(4), name="frame_" + "0" * 90 + "{:05d}.png")
    write_frames(tmp_path / "frames" / "z" / "v", range(4, 8))
    for number, kind in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        tar = pack_folder(tmp_path / "frames", tmp_path / f"{number}.tar", format=kind)
        records = FrameTars(path=str(tar)).records()
        assert [_numbers(record) for record in records] == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert records[0].label == deep.parent.name


def test_a_tar_of_one_video_and_of_videos_without_classes(tmp_path):
    write_frames(tmp_path / "frames", range(4))
    (record,) = FrameTars(path=str(pack_folder(tmp_path / "frames", tmp_path / "v.tar"))).records()
    assert (record.key, record.label) == ("v.tar", None) and _numbers(record) == [0, 1, 2, 3]
    (record,) = FrameTars(path=str(pack_folder(tmp_path, tmp_path / "w.tar", names=["frames"]))).records()
    assert (record.key, record.label) == ("w.tar/frames", None) and _numbers(record) == [0, 1, 2, 3]


def test_members_that_do_not_follow_each_other(frames, tmp_path):
    names = ["cat/v1/0.png", "cat/v2/20.png", "cat/v1/1.png"]
    tar = pack_folder(frames, tmp_path / "t.tar", names=names)
    with pytest.raises(UserError, match=r"t\.tar: the files in 'cat/v1' do not follow each other; write the tar anew"):
        FrameTars(path=str(tar)).records()


def test_a_tar_that_is_cut(frames, tmp_path):
    content = pack_folder(frames, tmp_path / "t.tar").read_bytes().rstrip(b"\0")
    (tmp_path / "t.tar").write_bytes(content[: len(content) * 2 // 3])
    source = FrameTars(path=str(tmp_path / "t.tar"))
    with pytest.raises(UserError, match=r"t\.tar is cut short"):
        source.records()
    ((_, records),) = source.shards()  # as in a pool
    assert _numbers(records[0]) == [*range(6)]
    with pytest.raises(OSError, match="cut short"):
        records[-1].read()
    whole = {"t.tar/cat/v1": 6, "t.tar/cat/v2": 7, "t.tar/dog/v1": 8}
    assert all(len(_numbers(record)) == whole[record.key] for record in records[: len(records) - 1])


def test_remote(frames, tmp_path, memory):
    for file in frames.rglob("*.png"):
        memory.pipe(f"/bucket/frames/{file.relative_to(frames)}", file.read_bytes())
    memory.pipe("/bucket/t.tar", pack_folder(frames, tmp_path / "t.tar").read_bytes())
    local = [record.read() for record in FrameFolders(path=str(frames)).records()]
    assert [record.read() for record in FrameFolders(path="memory://bucket/frames").records()] == local
    assert [record.read() for record in FrameTars(path="memory://bucket/t.tar").records()] == local
    with pytest.raises(FileNotFoundError):
        data.Record("v", "memory://bucket/none#fps=25", 0, -1, None, None).read()


def test_segments_in_a_manifest(frames, tmp_path):
    (tmp_path / "list.csv").write_text(
        "path,start,end,label\nframes/dog/v1,1,2.5,dog\nframes/cat/v1,0.5,,cat\nframes/cat/v2,,,cat\n"
    )
    records = data.Manifest(path=str(tmp_path / "list.csv"), fps=2).records()
    assert records.key.to_pylist() == ["frames/dog/v1#t=1,2.5", "frames/cat/v1#t=0.5", "frames/cat/v2"]
    assert records[0].path == f"{frames}/dog/v1#fps=2#t=1,2.5"
    views = data.ClipViews(_whole, frames=3, stride=1, count=1)
    samples = data.ItemDataset(records, views=views)
    hashed = data.ItemDataset(records, views=views, hash_content=True)
    for row, expected in enumerate([[42, 43, 44], [2, 3, 4], [22, 23, 24]]):
        for (sample,) in (samples[row], hashed[row]):  # by the folder, and by its content
            assert read_numbers(sample["input"].movedim(0, -1).numpy()) == expected


def test_labels_in_the_pool_by_place_and_content(frames, tmp_path):
    labeled = FrameFolders(path=str(frames / "cat"), fps=25).records()
    pool = FrameFolders(path=str(frames), fps=30).records()
    assert data.find_overlap([pool], labeled).key.to_pylist() == ["cat/v1", "cat/v2"]
    in_tar = FrameTars(path=str(pack_folder(frames, tmp_path / "t.tar"))).records()
    assert data.content_hashes(labeled) < data.content_hashes(in_tar)


def test_thumbnails_and_extents(frames):
    record = FrameFolders(path=str(frames)).records()[1]
    assert data.extent_of(record, videos=True) == data.Extent(64, 48, 7)
    assert data.Thumbnailer(clips=("av", {}))(record)[8:12] == b"WEBP"


def test_what_a_user_points_at(frames, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (records,) = items_at(["frames"], videos=True)
    assert records.key.to_pylist() == ["frames/cat/v1", "frames/cat/v2", "frames/dog/v1"]
    records = data.Records.concat(items_at(["frames/cat/v1/", "frames/dog/v1", "frames/cat/v2#fps=5"], videos=True))
    assert records.key.to_pylist() == ["frames/cat/v1", "frames/dog/v1", "frames/cat/v2#fps=5"]
    assert [len(_numbers(record)) for record in records] == [6, 8, 7]
    (records,) = items_at(["frames/cat/v1"], videos=False)
    assert len(records) == 6


def test_the_state_changes_with_the_frames(frames):
    before = storage.state(str(frames), levels=FrameFolders.levels)
    assert storage.state(str(frames), levels=FrameFolders.levels) == before
    write_frames(frames / "dog" / "v1", [48], name="{}.png")
    assert storage.state(str(frames), levels=FrameFolders.levels) != before


def _whole(pictures):
    """A transform that leaves frames as they are."""
    return pictures


def test_a_long_video_is_not_read_for_a_clip(tmp_path, monkeypatch):
    folder = write_frames(tmp_path / "v", range(60))
    read = []
    monkeypatch.setattr(storage, "read_whole", lambda path: read.append(path) or open(path, "rb").read())  # noqa: SIM115
    with open_video(f"{folder}#fps=25") as video:
        assert read_numbers(video.get(np.arange(20, 28).tolist())) == [*range(20, 28)]
    assert 8 <= len(read) <= 9
