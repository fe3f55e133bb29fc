import csv
import json
import subprocess
from pathlib import Path

import pytest

from bsssl import data
from bsssl.data.datasets.activitynet import ActivityNet
from bsssl.errors import UserError
from bsssl.registry import DATASETS
from tests.data.videos import read_numbers, write_video

DATABASE = {
    "one": {
        "subset": "training",
        "duration": 2.0,
        "annotations": [
            {"segment": [0.2, 0.6], "label": "Surfing"},
            {"segment": [1, 9.5], "label": "Cutting the grass"},
        ],
    },
    "two": {"subset": "training", "annotations": []},
    "three": {"subset": "validation", "annotations": [{"segment": ["0.5", 1.0], "label": "Surfing"}]},
}


@pytest.fixture
def source(tmp_path):
    """Makes the source of a JSON with this database, in a folder that is not that of the videos."""

    def make(database=DATABASE, **options):
        (tmp_path / "lists").mkdir(exist_ok=True)
        (tmp_path / "lists" / "net.json").write_text(json.dumps({"version": "1.3", "database": database}))
        return ActivityNet(path=str(tmp_path / "lists" / "net.json"), root=str(tmp_path / "videos"), **options)

    return make


def _clips(records):
    """The numbers of the frames of a clip of each item, or why there is none."""
    samples = data.ItemDataset(records, views=data.ClipViews(lambda frames: frames, frames=4, stride=1, count=1))
    for row in range(len(samples)):
        (sample,) = samples[row]
        failed = isinstance(sample, data.Failure)
        yield sample.reason if failed else read_numbers(sample["input"].movedim(0, -1).numpy())


def test_segments(source):
    assert DATASETS.get("activitynet") is ActivityNet
    records = source(subset="training", file="v_{id}.mp4").records()
    assert records.key.to_pylist() == ["v_one.mp4#t=0.2,0.6", "v_one.mp4#t=1,9.5", "v_two.mp4"]
    assert records.label.to_pylist() == ["Surfing", "Cutting the grass", None]
    assert records[0].path.endswith("/videos/v_one.mp4#t=0.2,0.6")
    assert source(subset="validation").records().key.to_pylist() == ["three.mp4#t=0.5,1"]


def test_segments_that_end_after_the_video_or_begin_after_it(source, tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "one.mp4", frames=50, options={"g": "10"})  # two seconds
    annotations = [{"segment": segment, "label": "a"} for segment in ([0.2, 0.36], [1.84, 60], [2.5, 3], [0, 1e6])]
    records = source({"one": {"annotations": annotations}}).records()
    first, last, none, whole = _clips(records)
    assert first == [5, 6, 7, 8] and last == [46, 47, 48, 49] and whole == [23, 24, 25, 26]
    assert none.endswith("one.mp4#t=2.5,3: no frame from 2.5 s to 3 s")


def test_segments_without_length(source, said):
    annotations = [{"segment": segment, "label": "a"} for segment in ([1, 1], [0, 1], [3, 2])]
    records = source({"one": {"annotations": annotations}}).records()
    assert records.key.to_pylist() == ["one.mp4#t=0,1"]
    (line,) = said()
    assert line.endswith("2 segments that do not end after they begin are left out (first: one from 1 to 1 s)")
    with pytest.raises(UserError, match="has no segments that end after they begin"):
        source({"one": {"annotations": annotations[:1]}}).records()


def test_videos_that_are_gone(source, tmp_path, said):
    (tmp_path / "videos").mkdir()
    with pytest.raises(
        UserError, match=r"none of the 2 videos of .* is in .*videos; the first one looked for was .*one"
    ):
        source(subset="training", missing="skip").records()
    (tmp_path / "videos" / "two.mp4").touch()
    assert source(subset="training", missing="skip").records().key.to_pylist() == ["two.mp4"]
    assert any("1 of 2 videos are not in" in line for line in said())
    with pytest.raises(UserError, match="missing is 'drop'"):
        source(missing="drop")


@pytest.mark.parametrize(
    ("database", "options", "reason"),
    [
        (DATABASE, {}, r"has several subsets \(training, validation\); choose one by options\.subset"),
        (
            DATABASE,
            {"subset": "train"},
            r"has no subset 'train': did you mean 'training'\? valid: training, validation",
        ),
        ({}, {}, "has no videos"),
        ([], {}, "is not like"),
        ({"one": []}, {}, "is not like"),
        ({"one": {"annotations": [{"segment": [1], "label": "a"}]}}, {}, "one has an annotation that is not like"),
        ({"one": {"annotations": [{"segment": [1, 2]}]}}, {}, "one has an annotation that is not like"),
        ({"one": {"annotations": {"a": 1}}}, {}, "one has an annotation that is not like"),
        ({"one": {"annotations": [{"segment": [-1, 2], "label": "a"}]}}, {}, "no segment lies from -1 to 2"),
        (DATABASE, {"file": "video.mp4"}, r"file is 'video\.mp4', without \{id\}"),
    ],
)
def test_what_is_refused(source, database, options, reason):
    with pytest.raises(UserError, match=reason):
        source(database, **options).records()


def test_a_file_that_is_no_json(source, tmp_path):
    made = source()
    for text in ("{", "[1]", "\xff", '{"database": 3}'):
        (tmp_path / "lists" / "net.json").write_text(text, encoding="latin-1")
        with pytest.raises(UserError, match=r"net\.json is not like"):
            made.records()


def test_very_many_segments_of_one_file(source, tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "one.mp4", frames=50, options={"g": "10"})
    annotations = [{"segment": [n / 10_000, n / 10_000 + 1], "label": f"{n % 7}"} for n in range(10_000)]
    records = source({"one": {"annotations": annotations}}).records()
    assert len({*records.path.to_pylist()}) == 10_000
    assert list(_clips(records.take([0, 9_999]))) == [[10, 11, 12, 13], [35, 36, 37, 38]]
    # As many of the same file in the pool: each is compared with all that are labeled.
    others = [{"segment": [n / 10_000 + 1.5, n / 10_000 + 2.5], "label": "a"} for n in range(10_000)]
    pool = source({"one": {"annotations": others}}).records()
    assert len(data.find_overlap([pool], records)) == 4_999
    assert len(data.find_overlap([records], pool)) == 4_999


def test_ava_by_a_manifest(tmp_path):
    """The command of docs/videos.md makes a manifest of AVA's rows, in which times are those of key frames."""
    (tmp_path / "ava.csv").write_text(
        "one,0902,0.077,0.151,0.283,0.811,80,1\none,0902,0.077,0.151,0.283,0.811,9,1\none,0903,0.1,0.1,0.2,0.8,12,0\n"
    )
    guide = (Path(__file__).parents[3] / "docs" / "videos.md").read_text()
    (command,) = (line for line in guide.splitlines() if line.startswith("awk ") and "ava" in line)
    subprocess.run(command.replace("ava_train_v2.2.csv", "ava.csv"), shell=True, cwd=tmp_path, check=True)
    with (tmp_path / "ava_train.csv").open() as file:
        assert len(list(csv.reader(file))) == 4
    records = data.Manifest(path=str(tmp_path / "ava_train.csv")).records()
    assert records.key.to_pylist() == [*["one.mp4#t=901,903"] * 2, "one.mp4#t=902,904"]
    assert records.label.to_pylist() == ["80", "9", "12"]
