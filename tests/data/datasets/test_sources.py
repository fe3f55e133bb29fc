import json
import logging
import os
import weakref

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bsssl.data.datasets.sources import Folder, Manifest, Tars
from bsssl.data.endings import VIDEO_EXTENSIONS
from bsssl.data.records import Record
from bsssl.errors import UserError
from bsssl.registry import DATASETS
from bsssl.storage import tables


def test_registered():
    assert {"folder", "manifest", "tars"} <= set(DATASETS.names())
    assert DATASETS.get("folder") is Folder


def test_folder(picture_folder):
    (picture_folder / "ant" / "notes.md").write_text("not a picture")
    (picture_folder / "ant" / "._1.jpg").write_text("a hidden file of macOS")
    (picture_folder / "top.JPG").write_bytes(b"")
    records = Folder(path=str(picture_folder)).records()
    assert len(records) == 16
    assert records.key.to_pylist()[:4] == ["top.JPG", "ant/1.jpg", "ant/2.jpg", "ant/3.jpg"]
    assert records.label.to_pylist()[:5] == [None] + ["ant"] * 4
    assert records[4].key == "ant/deep/0.jpg"
    assert records[1].path == str(picture_folder / "ant" / "1.jpg")
    assert records.class_names() == ["ant", "bee", "cat"]
    assert len(Folder(path=str(picture_folder), extensions=["md"]).records()) == 1
    assert len(Folder(path=str(picture_folder), extensions="any").records()) == 17


@pytest.mark.parametrize("factory", [Folder, Tars])
def test_extensions(tmp_path, make_tar, factory):
    names = ["a/1.jpg", "a/2.bmp", "a/3.MP4", "a/4.webm", "a/5.md"]
    if factory is Tars:
        path = tmp_path / "t.tar"
        path.write_bytes(make_tar(dict.fromkeys(names, b"content")))
    else:
        path = tmp_path
        (path / "a").mkdir()
        for name in names:
            (path / name).touch()

    def found(**options):
        keys = factory(path=str(path), **options).records().key.to_pylist()
        return [key.removeprefix("t.tar/") for key in keys]

    assert found() == found(extensions="images") == names[:2]
    assert found(extensions="videos") == found(extensions=VIDEO_EXTENSIONS) == names[2:4]
    assert found(extensions="any") == names
    assert found(extensions=[".mp4", "jpg"]) == ["a/1.jpg", "a/3.MP4"]
    for wrong in ("video", "mp4"):
        with pytest.raises(UserError, match=f"unknown extensions '{wrong}': .*valid: any, images, videos, or a list"):
            factory(path=str(path), extensions=wrong)


def test_folder_with_links(picture_folder, tmp_path):
    (tmp_path / "linked").mkdir()
    os.symlink(picture_folder / "ant", tmp_path / "linked" / "ant")
    assert len(Folder(path=str(tmp_path / "linked")).records()) == 4


def test_remote_folder(memory):
    for name in ("b/2.jpg", "b/1.jpg", "a/x/3.png", "0.jpg"):
        memory.pipe(f"/pool/{name}", name.encode())
    records = Folder(path="memory://pool").records()
    assert records.key.to_pylist() == ["0.jpg", "a/x/3.png", "b/1.jpg", "b/2.jpg"]
    assert records.label.to_pylist() == [None, "a", "b", "b"]
    assert records[2].read() == b"b/1.jpg"


def test_folder_refused(tmp_path):
    with pytest.raises(UserError, match=r"no such folder: .*nowhere"):
        Folder(path=str(tmp_path / "nowhere")).records()
    with pytest.raises(UserError, match="nothing to read in"):
        Folder(path=str(tmp_path)).records()


ROWS = [{"path": "a/1.jpg", "label": "007", "tags": ["x", "y"]}, {"path": "/abs/2.jpg", "label": None, "tags": None}]


def _write_manifest(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        lines = [",".join(rows[0])]
        lines += [",".join(";".join(v) if isinstance(v, list) else str(v or "") for v in row.values()) for row in rows]
        path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_manifest(tmp_path, suffix):
    path = tmp_path / f"list.{suffix}"
    _write_manifest(path, ROWS)
    assert list(Manifest(path=str(path)).records()) == [
        Record("a/1.jpg", str(tmp_path / "a/1.jpg"), 0, -1, "007", ["x", "y"]),
        Record("/abs/2.jpg", "/abs/2.jpg", 0, -1, None, None),
    ]
    rooted = Manifest(path=str(path), root="s3://bucket/x").records().path.to_pylist()
    assert rooted == ["s3://bucket/x/a/1.jpg", "/abs/2.jpg"]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_manifest_without_labels_or_with_other_columns(tmp_path, suffix):
    path = tmp_path / f"list.{suffix}"
    _write_manifest(path, [{"file": "1.jpg", "kind": 3}, {"file": "2.jpg", "kind": 4}])
    assert Manifest(path=str(path), path_column="file").records().label.to_pylist() == [None, None]
    named = Manifest(path=str(path), path_column="file", label_column="kind").records()
    assert named.label.to_pylist() == ["3", "4"]
    with pytest.raises(UserError, match=rf"list\.{suffix} has no column 'path'; columns found: file, kind; "):
        Manifest(path=str(path)).records()
    with pytest.raises(UserError, match=r"has no column 'klass'.*set label_column"):
        Manifest(path=str(path), path_column="file", label_column="klass").records()


SEGMENTS = [
    {"path": "v.mp4", "start": 12.5, "end": 20.0},
    {"path": "v.mp4", "start": None, "end": 12.5},
    {"path": "v.mp4", "start": 20.0, "end": None},
    {"path": "w.mp4", "start": None, "end": None},
]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_manifest_with_segments(tmp_path, suffix):
    path = tmp_path / f"list.{suffix}"
    _write_manifest(path, SEGMENTS)
    records = Manifest(path=str(path)).records()
    names = ["v.mp4#t=12.5,20", "v.mp4#t=,12.5", "v.mp4#t=20", "w.mp4"]
    assert records.key.to_pylist() == names
    assert records.path.to_pylist() == [str(tmp_path / name) for name in names]
    records.write(str(tmp_path / "split.csv"))
    assert Manifest(path=str(tmp_path / "split.csv")).records() == records


def test_manifest_with_segments_in_other_columns(tmp_path):
    (tmp_path / "list.csv").write_text("path,from,key,offset\nv.tar,3,one,512\nv.tar,4.5,two,512\n")
    manifest = Manifest(path=str(tmp_path / "list.csv"), start_column="from")
    assert manifest.records().key.to_pylist() == ["one", "two"]
    assert manifest.records().path.to_pylist() == [str(tmp_path / "v.tar#t=3"), str(tmp_path / "v.tar#t=4.5")]
    (tmp_path / "keyless.csv").write_text("path,to,offset\nv.tar,3,512\n")
    keyless = Manifest(path=str(tmp_path / "keyless.csv"), end_column="to").records()
    assert keyless.key.to_pylist() == ["v.tar@512#t=,3"]
    with pytest.raises(UserError, match=r"has no column 'till'.*set end_column"):
        Manifest(path=str(tmp_path / "list.csv"), end_column="till").records()


def test_manifest_with_bad_segments(tmp_path):
    def refuse(rows, match):
        (tmp_path / "list.csv").write_text("path,start,end\nw.mp4,0,1\n" + rows)
        with pytest.raises(UserError, match=rf"list\.csv.*{match}") as error:
            Manifest(path=str(tmp_path / "list.csv")).records()
        assert "\n" not in str(error.value)

    refuse("v.mp4,20,12.5\n", r"row 2: v\.mp4: no segment lies from 20 to 12\.5; give seconds")
    refuse("v.mp4,-1,3\n", "row 2: .*no segment lies from -1 to 3")
    refuse("v.mp4,nan,3\n", "row 2: .*no segment lies from nan to 3")
    refuse("v.mp4#t=1,,3\n", "row 2: .*names a segment already")
    refuse("v.mp4,early,3\n", "cannot be read as a table: .*early")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_written_records_are_a_manifest(tmp_path, make_tar, suffix):
    (tmp_path / "t.tar").write_bytes(make_tar({"a/1.jpg": b"1", "b/2.jpg": b"22"}))
    records = Tars(path=str(tmp_path / "t.tar")).records()
    records.write(str(tmp_path / f"split.{suffix}"))
    assert Manifest(path=str(tmp_path / f"split.{suffix}")).records() == records


def test_manifest_refused(tmp_path):
    def refuse(name, content, match):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=match) as error:
            Manifest(path=str(tmp_path / name)).records()
        assert "\n" not in str(error.value) and name in str(error.value)

    refuse("empty.csv", b"", "cannot be read|no rows")
    refuse("header.csv", b"path,label\n", "no rows")
    refuse("ragged.csv", b"path,label\na,b\nc,d,e\n", "cannot be read as a table")
    refuse("nulls.csv", b"path,label\na.jpg,b\n,c\n", "row 2 has no path")
    refuse("bad.jsonl", b'{"path": "a.jpg"}\n{"path": \n', "line 2 is not valid JSON")
    refuse("list.jsonl", b'["a.jpg"]\n', "line 1 is not an object")
    refuse("bad.parquet", b"PAR1nothing", "cannot be read as a table")
    refuse("latin.csv", "path,label\n\xe9.jpg,b\n".encode("latin-1"), "; save it as UTF-8$")
    refuse("text.jsonl", b'{"path": "a.jpg"}\n{"path": "b\xff.jpg"}\n', "line 2 is not valid JSON")
    refuse("twice.csv", b"path,label, label\na.jpg,b,c\n", "has the column 'label' more than once; keep one")
    refuse("strat.csv", b"path,strat,end\nv.mp4,1,2\n", "has a column 'strat'; rename it to 'start'")
    refuse("open.csv", b'path,label\n"a.jpg,b\n', "cannot be read as a table")
    refuse("surrogate.jsonl", b'{"path": "\\ud800"}\n', "cannot be read as a table: .*surrogates.*; save it as UTF-8")
    refuse("large.jsonl", b'{"path": 1' + b"0" * 30 + b"}\n", "cannot be read as a table: .*too large")
    refuse("list.txt", b"a.jpg\n", r"must end in \.csv")
    with pytest.raises(UserError, match="no such file"):
        Manifest(path=str(tmp_path / "missing.csv")).records()


ODD_TABLES = {
    "semicolons.csv": b'path;label;tags\na.jpg;b;"x;y"\n',
    "tabs.tsv": b"path\tlabel\ttags\na.jpg\tb\tx;y\n",
    "bars.csv": b"path|label|tags|note, or not\na.jpg|b|x;y|,,,\n",
    "blanks.csv": b" path, label , tags\na.jpg, b , x;y\n",
    "windows.csv": b"\xef\xbb\xbfpath,label,tags\r\na.jpg,b,x;y\r\n",
    "quoted.csv": b'\xef\xbb\xbf"path","note","label","tags"\r\n"a.jpg","two\r\nlines","b","x;y"\r\n',
    "stated.csv": b'sep=;\r\npath;label;tags\r\na.jpg;b;"x;y"\r\n',
    "stated16.csv": '"sep=;"\npath;label;tags\na.jpg;b;"x;y"\n'.encode("utf-16"),
    "blanks between quotes.csv": b'"path" , "label", "tags"\n"a.jpg" , "b" , "x;y"\n',
    "utf16.csv": "path;label;tags;\xe9\na.jpg;b;'x;y';\xe9\n".replace("'", '"').encode("utf-16"),
    "utf16be.csv": b"\xfe\xff" + "path,label,tags\na.jpg,b,x;y\n".encode("utf-16-be"),
    "unmarked.csv": "path,label,tags\na.jpg,b,x;y\n".encode("utf-16-le"),
    "utf16.jsonl": '{"path": "a.jpg", "label": "b", "tags": ["x", "y"]}\n'.encode("utf-16"),
    "windows.jsonl": b'\xef\xbb\xbf{"path": "a.jpg", "label": "b", "tags": ["x", "y"]}\r\n',
}


@pytest.mark.parametrize("name", ODD_TABLES)
def test_manifests_of_other_programs(tmp_path, name):
    (tmp_path / name).write_bytes(ODD_TABLES[name])
    assert list(Manifest(path=str(tmp_path / name)).records()) == [
        Record("a.jpg", str(tmp_path / "a.jpg"), 0, -1, "b", ["x", "y"])
    ]


def test_separators_are_said(tmp_path, caplog):
    (tmp_path / "list.csv").write_text("path;label\na.jpg;b\n")
    with caplog.at_level(logging.INFO, logger="bsssl"):
        Manifest(path=str(tmp_path / "list.csv")).records()
    assert "list.csv: its columns are separated by semicolons" in caplog.text


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_columns_that_are_not_needed_may_hold_anything(tmp_path, suffix):
    path = tmp_path / f"list.{suffix}"
    if suffix == "csv":
        rows = [b"path,note", *(b"%d.jpg,%d" % (row, row) for row in range(100_000)), b"last.jpg,n/a \xff"]
        path.write_bytes(b"\n".join(rows))
    elif suffix == "jsonl":
        notes = ["1", '"a"', "[1]", '{"a": [2]}', "null"]
        path.write_text("".join(f'{{"path": "{row}.jpg", "note": {note}}}\n' for row, note in enumerate(notes)))
    else:
        pq.write_table(pa.table({"path": ["1.jpg"], "note": pa.array([{"bytes": b"x"}])}), path)
    records = Manifest(path=str(path)).records()
    assert len(records) == {"csv": 100_001, "jsonl": 5, "parquet": 1}[suffix]


def test_a_column_of_lists_is_no_label(tmp_path):
    pq.write_table(pa.table({"path": ["1.jpg"], "label": [["a", "b"]]}), tmp_path / "list.parquet")
    with pytest.raises(UserError, match=r"list\.parquet cannot be read as a table: the column 'label' holds list<"):
        Manifest(path=str(tmp_path / "list.parquet")).records()


def test_columns_with_nearly_the_right_name_are_named(tmp_path, caplog):
    (tmp_path / "list.csv").write_text("path,tag,colour\na.jpg,b,c\n")
    Manifest(path=str(tmp_path / "list.csv")).records()
    assert "the column 'tag' is not read; if 'tags' is meant, call it so" in caplog.text and "colour" not in caplog.text


@pytest.mark.parametrize("damage", ["cut", "footer", "page", "text"])
def test_a_damaged_parquet_manifest(tmp_path, damage):
    path = tmp_path / "list.parquet"
    names = pa.array([b"\xff.jpg"] * 99, pa.binary()).view(pa.string()) if damage == "text" else ["a.jpg"] * 99
    pq.write_table(pa.table({"path": names}), path, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        del content[-20:]
    elif damage != "text":
        start = 4 if damage == "page" else content.rindex(b"schema")
        content[start : start + 32] = b"\xff" * 32
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"list\.parquet cannot be read as a table: ") as caught:
        Manifest(path=str(path)).records()
    assert "\n" not in str(caught.value)


def test_manifest_is_streamed(tmp_path):
    path = tmp_path / "long.jsonl"
    with open(path, "w") as file:
        for number in range(150_000):
            file.write(f'{{"path": "{number}.jpg"}}\n')
    sizes = [len(table) for table in Manifest(path=str(path)).batches()]
    assert sum(sizes) == 150_000 and max(sizes) <= 65_536


def test_no_thread_of_arrow_holds_a_manifest_that_has_been_read(tmp_path, monkeypatch):
    """A loader may be forked at once, and a lock that such a thread holds would stay locked in its workers for ever."""
    path, opened, open_read = tmp_path / "m\udcff.csv", [], tables.open_read
    path.write_text("path,label\n/a.jpg,a\n/b.jpg,b\n")
    monkeypatch.setattr(tables, "open_read", lambda name: opened.append(open_read(name)) or opened[-1])
    for _ in range(300):
        assert len(Manifest(path=str(path)).records()) == 2
        file = weakref.ref(opened.pop())
        assert file() is None


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_tars(tmp_path, memory, make_tar, kind):
    root = str(tmp_path) if kind == "local" else "memory://tars"
    for number in range(3):
        tar = make_tar({"x/7.jpg": b"seven", "x/8.png": b"eight" * 300, "readme.md": b"left out"})
        if kind == "local":
            (tmp_path / f"t-{number:03d}.tar").write_bytes(tar)
        else:
            memory.pipe(f"/tars/t-{number:03d}.tar", tar)
    for pattern, count in (("t-{000..002}.tar", 3), ("t-00[01].tar", 2), ("t-*.tar", 3), ("t-00{0,2}.tar", 2)):
        source = Tars(path=f"{root}/{pattern}")
        assert len(source.files()) == count and len(source.records()) == 2 * count
    record = source.records()[-1]
    assert record.key == "t-002.tar/x/8.png" and record.label == "x"
    assert record.read() == b"eight" * 300


@pytest.mark.parametrize("name", ["[2020]{a,b}*?", "a::b:c", "%20 #d"])
def test_what_is_there_is_itself_before_it_is_a_pattern(tmp_path, make_tar, name):
    folder = tmp_path / name
    folder.mkdir()
    for name in ("t-1.tar", "t-2.tar", "t[2].tar", "t-{1..2}.tar"):
        (folder / name).write_bytes(make_tar({"x.jpg": name.encode()}))

    def found(name):
        return [record.read().decode() for record in Tars(path=str(folder / name)).records()]

    assert found("t[2].tar") == ["t[2].tar"] and found("t-{1..2}.tar") == ["t-{1..2}.tar"]
    assert found("t-[12].tar") == ["t-1.tar", "t-2.tar"]
    assert found("t-{1,2}.tar") == ["t-1.tar", "t-2.tar"]
    assert sorted(found("*.tar")) == sorted(["t-1.tar", "t-2.tar", "t[2].tar", "t-{1..2}.tar"])


def test_tars_refused(tmp_path):
    with pytest.raises(UserError, match="no file matches"):
        Tars(path=str(tmp_path / "*.tar")).records()
    with pytest.raises(UserError, match=r"no such file: .*x-01\.tar"):
        Tars(path=str(tmp_path / "x-{01..02}.tar")).records()


@pytest.mark.parametrize("factory", [Folder, Manifest, Tars])
def test_protocol_that_cannot_be_read(factory):
    with pytest.raises(UserError, match="cannot read nosuch://bucket/x"):
        factory(path="nosuch://bucket/x")
