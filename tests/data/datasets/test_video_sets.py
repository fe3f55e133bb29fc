import logging
import os

import pytest

from bsssl.data.datasets.video_sets import Hmdb51, Kinetics, Ucf101
from bsssl.errors import UserError
from bsssl.registry import DATASETS

HEADER = "label,youtube_id,time_start,time_end,split\n"
ROWS = '"shaking hands",-7kbO0v4hag,7,17,train\n"tying knot (not on a tie)",0012345,107,117,train\n'
TRIMMED = ["shaking hands/-7kbO0v4hag_000007_000017.mp4", "tying knot (not on a tie)/0012345_000107_000117.mp4"]


@pytest.fixture
def touch(tmp_path):
    def make(*names):
        for name in names:
            path = tmp_path / "videos" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())
        return str(tmp_path / "videos")

    return make


@pytest.fixture
def kinetics(tmp_path):
    """Makes the source of a CSV with these rows, in a folder that is not that of the videos."""

    def make(rows=ROWS, header=HEADER, missing="skip", **options):
        (tmp_path / "lists").mkdir(exist_ok=True)
        (tmp_path / "lists" / "train.csv").write_text(header + rows)
        return Kinetics(path=str(tmp_path / "lists" / "train.csv"), missing=missing, **options)

    return make


def test_registered():
    assert DATASETS.get("kinetics") is Kinetics
    assert DATASETS.get("ucf101") is Ucf101
    assert DATASETS.get("hmdb51") is Hmdb51


def test_kinetics(touch, kinetics):
    root = touch(*TRIMMED, "shaking hands/other_000001_000011.mp4")
    records = list(kinetics(root=root).records())
    assert [record.key for record in records] == TRIMMED
    assert [record.path for record in records] == [os.path.join(root, name) for name in TRIMMED]
    assert [record.label for record in records] == ["shaking hands", "tying knot (not on a tie)"]
    assert {(record.offset, record.size, record.tags) for record in records} == {(0, -1, None)}
    assert records[0].read() == TRIMMED[0].encode()


def test_kinetics_beside_its_videos(tmp_path):
    (tmp_path / "train.csv").write_text(HEADER + ROWS)
    (tmp_path / "0012345.mp4").touch()
    assert len(Kinetics(path=str(tmp_path / "train.csv"), file="{id}.mp4", missing="skip").records()) == 1


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("{id}_{start:06d}_{end:06d}.mp4", ["-7kbO0v4hag_000007_000017.mp4", "0012345_000107_000117.mp4"]),
        ("{label_underscored}/{id}_{start}.mkv", ["shaking_hands/-7kbO0v4hag_7.mkv"]),
    ],
)
def test_kinetics_in_other_places(touch, kinetics, file, names):
    assert kinetics(root=touch(*names), file=file).records().key.to_pylist() == names


def test_kinetics_untrimmed(touch, kinetics):
    rows = ROWS + "yawning,0012345,20.5,30.5,train\n"
    root = touch("0012345.mp4")
    records = list(kinetics(rows, root=root, file="{id}.mp4").records())
    assert [record.key for record in records] == ["0012345.mp4#t=107,117", "0012345.mp4#t=20.5,30.5"]
    assert [record.path for record in records] == [f"{root}/{record.key}" for record in records]
    assert [record.label for record in records] == ["tying knot (not on a tie)", "yawning"]
    whole = kinetics(rows, root=root, file="{id}.mp4", segments=False).records()
    assert whole.key.to_pylist() == ["0012345.mp4"] * 2
    root = touch("0012345_107.mp4")
    assert kinetics(root=root, file="{id}_{start}.mp4", segments=True).records().key.to_pylist() == [
        "0012345_107.mp4#t=107,117"
    ]


def test_kinetics_videos_that_are_gone(touch, kinetics, caplog):
    root = touch(TRIMMED[1])
    caplog.set_level(logging.INFO, logger="bsssl")
    assert kinetics(root=root).records().key.to_pylist() == TRIMMED[1:]
    [line] = caplog.messages
    assert line.endswith(f"train.csv: 1 of 2 videos are not in {root}, left out")
    assert kinetics(root=root, missing="keep").records().key.to_pylist() == TRIMMED
    assert len(caplog.messages) == 1


def test_kinetics_all_gone(touch, kinetics):
    root = touch("0012345.mp4")
    with pytest.raises(UserError) as error:
        kinetics(root=root).records()
    assert str(error.value).startswith("none of the 2 videos of ")
    assert str(error.value).endswith(f"the first one looked for was {root}/{TRIMMED[0]}; check root and file")
    with pytest.raises(UserError, match="none of the 2 videos"):
        kinetics(root=f"{root}/nowhere").records()


def test_kinetics_without_labels(touch, kinetics):
    header, row = "youtube_id,time_start,time_end,split\n", "0012345,107,117,test\n"
    root = touch("0012345_000107_000117.mp4")
    records = kinetics(row, header, root=root, file="{id}_{start:06d}_{end:06d}.mp4").records()
    assert records.label.to_pylist() == [None]
    with pytest.raises(UserError, match=r"no column 'label'; columns found: youtube_id, .*without \{label\}"):
        kinetics(row, header, root=root).records()


def test_kinetics_on_a_remote_root(memory, kinetics):
    memory.pipe(f"/kinetics/{TRIMMED[0]}", b"video")
    records = kinetics(root="memory://kinetics").records()
    assert records.path.to_pylist() == [f"memory://kinetics/{TRIMMED[0]}"]
    assert records[0].read() == b"video"


def test_kinetics_is_streamed(kinetics):
    rows = "".join(f"class {number % 400},{number:011d},{number},{number + 10},train\n" for number in range(200_000))
    source = kinetics(rows, missing="keep")
    sizes = [len(table) for table in source.batches()]
    assert sum(sizes) == 200_000 and max(sizes) < 100_000


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ("", "has no rows"),
        ("yawning,,1,11,train\n", "row 1 has no youtube_id"),
        (ROWS + ",0012345,1,11,train\n", "row 3 has no label"),
        (ROWS + "yawning,0012345,,11,train\n", "row 3 has no time_start"),
        ("yawning,0012345,1.5,11,train\n", "row 1: Unknown format code 'd'"),
        ("yawning,0012345,soon,11,train\n", "cannot be read as a table: .*soon"),
        ("yawning,0012345,1,11\n", "cannot be read as a table: .*Expected 5 columns"),
    ],
)
def test_kinetics_malformed(touch, kinetics, rows, match):
    with pytest.raises(UserError, match=match) as error:
        kinetics(rows, root=touch(TRIMMED[0])).records()
    assert "train.csv" in str(error.value) and "\n" not in str(error.value)


def test_kinetics_empty_segment(touch, kinetics):
    with pytest.raises(UserError, match=r"train\.csv: row 3: 0012345\.mp4: no segment lies from 20 to 10"):
        kinetics(ROWS + "yawning,0012345,20,10,train\n", root=touch("0012345.mp4"), file="{id}.mp4").records()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"missing": "drop"}, "missing is 'drop'; valid: keep, skip"),
        ({"file": "{name}.mp4"}, "the field 'name': valid: end, id, label, "),
        ({"file": "{}.mp4"}, "the field '': valid: end"),
        ({"file": "{id.mp4"}, "file is '{id.mp4': .*write for example"),
        ({"file": "{id:06d}.mp4"}, "file is '{id:06d}.mp4': .*write for example"),
    ],
)
def test_kinetics_bad_options(kinetics, options, match):
    with pytest.raises(UserError, match=match):
        kinetics(**options)


def test_kinetics_missing_file(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*train\.csv"):
        Kinetics(path=str(tmp_path / "train.csv")).records()


UCF = ["Archery/v_Archery_g08_c01.avi", "YoYo/v_YoYo_g08_c02.avi"]


@pytest.mark.parametrize("numbers", ["", " 1"])
def test_ucf101(tmp_path, touch, numbers):
    root = touch(*UCF, "YoYo/v_YoYo_g09_c01.avi")
    (tmp_path / "trainlist01.txt").write_bytes("".join(f"{name}{numbers}\r\n" for name in UCF).encode() + b"\n")
    records = Ucf101(path=root, split_file=str(tmp_path / "trainlist01.txt")).records()
    assert records.key.to_pylist() == UCF
    assert records.path.to_pylist() == [f"{root}/{name}" for name in UCF]
    assert records.class_names() == ["Archery", "YoYo"]


def test_ucf101_refused(tmp_path, touch):
    root, path = touch(UCF[0]), tmp_path / "testlist01.txt"

    def refuse(content, match):
        path.write_text(content)
        with pytest.raises(UserError, match=match):
            Ucf101(path=root, split_file=str(path)).records()

    refuse("\n".join(UCF), rf"1 of the 2 videos that .*testlist01\.txt lists are not in .*videos \(such as {UCF[1]}\)")
    refuse(f"{UCF[0]}\nv_YoYo_g08_c02.avi\n", r"testlist01\.txt: line 2 is not like '.*': v_YoYo_g08_c02\.avi")
    refuse(f"{UCF[0]} one\n", "line 1 is not like")
    refuse(f"{UCF[0]} 1 2\n", "line 1 is not like")
    refuse("", r"testlist01\.txt lists no videos")
    with pytest.raises(UserError, match=r"no such file: .*none"):
        Ucf101(path=root, split_file=str(tmp_path / "none.txt")).records()


@pytest.fixture
def splits(tmp_path):
    folder = tmp_path / "splits"
    folder.mkdir()
    (folder / "clap_test_split1.txt").write_text("#20_clap_u_0.avi 1 \nb_clap_1.avi 2 \nc_clap_2.avi 0 \n")
    (folder / "brush_hair_test_split1.txt").write_text("d_0.avi 1 \ne_1.avi 2 \n")
    (folder / "clap_test_split2.txt").write_text("b_clap_1.avi 1 \n")
    return folder


def test_hmdb51(touch, splits):
    root = touch("clap/#20_clap_u_0.avi", "clap/b_clap_1.avi", "clap/c_clap_2.avi", "brush_hair/d_0.avi")
    source = Hmdb51(path=root, splits=str(splits), part="train")
    assert source.records().key.to_pylist() == ["brush_hair/d_0.avi", "clap/#20_clap_u_0.avi"]
    assert source.records().class_names() == ["brush_hair", "clap"]
    second = Hmdb51(path=root, splits=str(splits), part="train", split=2).records()
    assert second.path.to_pylist() == [f"{root}/clap/b_clap_1.avi"]
    with pytest.raises(UserError, match=r"1 of the 2 videos .* \(such as brush_hair/e_1\.avi\)"):
        Hmdb51(path=root, splits=str(splits), part="test").records()


def test_hmdb51_refused(tmp_path, touch, splits):
    root = touch("clap/b_clap_1.avi")
    for options, match in (
        ({"part": "val"}, "no part 'val'; valid: test, train"),
        ({"part": "train", "split": 4}, "no split '4'; valid: 1, 2, 3"),
    ):
        with pytest.raises(UserError, match=match):
            Hmdb51(path=root, splits=str(splits), **options)
    with pytest.raises(UserError, match=r"no lists named <class>_test_split3\.txt; check splits"):
        Hmdb51(path=root, splits=str(splits), part="train", split=3).records()
    with pytest.raises(UserError, match="lists no videos"):
        Hmdb51(path=root, splits=str(splits), part="test", split=2).records()
    for line in ("b_clap_1.avi 3", "b_clap_1.avi", "clap/b_clap_1.avi 1"):
        (splits / "clap_test_split2.txt").write_text(f"b_clap_1.avi 1\n{line}\n")
        with pytest.raises(UserError, match=r"clap_test_split2\.txt: line 2 is not like"):
            Hmdb51(path=root, splits=str(splits), part="train", split=2).records()
