"""The whole recipe on folders of frames, in folders and in tars, as users run it."""

import csv
import re
import tarfile

import pyarrow.parquet as pq
import pytest
import yaml

from bsssl.data.datasets.sources import Tars
from bsssl.data.decoding.readers import open_video
from bsssl.data.records import read_bytes
from tests.data.videos import pack_folder, read_numbers, write_frames
from tests.recipes.test_video_recipe import NETWORK


@pytest.fixture
def frames(tmp_path):
    """Folders train and test of frames, two classes of 5 and 2 videos, and a tar of 8 videos, as a pool."""
    for number in range(10):
        write_frames(
            tmp_path / "train" / ("cat", "dog")[number % 2] / f"v{number}", range(10 * number, 10 * number + 8)
        )
    for number in range(4):
        write_frames(tmp_path / "test" / ("cat", "dog")[number % 2] / f"v{number}", range(100 + number, 109 + number))
    for number in range(8):
        write_frames(tmp_path / "pool" / f"v{number}", range(120 + 8 * number, 130 + 8 * number), name="{}.png")
    pack_folder(tmp_path / "pool", tmp_path / "pool.tar")
    return tmp_path


@pytest.fixture
def config(frames):
    short = {"length": "2 steps", "batch_size": 4, "warmup": "0 steps"}
    options = {"dataset": "frames", "options": {"fps": 10}}
    values = {
        "output_dir": str(frames / "run"),
        "data": {
            "train": {**options, "path": str(frames / "train")},
            "test": {**options, "path": str(frames / "test")},
            "pool": [{"dataset": "frame_tars", "path": str(frames / "pool.tar"), "options": {"fps": 10}}],
            "num_classes": 2,
            "transforms": {"size": 16, "train_crop": "short_side", "flip": False},
            "clips": {"frames": 4, "stride": 2, "fps": 10, "test_clips": 2, "score_clips": 1},
        },
        "models": {"teacher": NETWORK, "student": NETWORK},
        "teacher": short,
        "baseline": short,
        "score": {"top_p": 2, "batch_size": 16},
        "select": {"top_k": 3},
        "materialise": {"samples_per_tar": 4},
        "pretrain": short,
        "finetune": short,
        "system": {"device": "cpu", "threads": 1, "workers": 0},
    }
    path = frames / "frames.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def executed(outcome):
    """The stages that a call ran, in order."""
    return re.findall(r"seed \d+: (\S+) \((?!.*kept in)", outcome.err)


def where(row, frames):
    """The place of a row of a selection, whose paths are relative to it."""
    path = str(frames / "run/seed-0/materialise" / row["path"])
    return {"path": path, "offset": row["offset"], "size": row["size"]}


def test_from_folders_and_tars_to_predictions(bsssl, config, frames, monkeypatch):
    run = bsssl("run", "--config", config)
    assert run.status == 0, run.err
    assert "done already" in bsssl("run", "--config", config).err
    # The copies are whole videos, by themselves and in a pool of other tars.
    selection = pq.read_table(frames / "run/seed-0/materialise/selection.parquet").to_pylist()
    with tarfile.open(frames / "run/seed-0/materialise/000000.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith(".frames")]
        with open_video(tar.extractfile(names[0]).read()) as video:
            numbers = read_numbers(video.get(range(video.num_frames)))
            assert len(numbers) > 7 and video.seconds()[1] == 0.1
    assert {row["key"].partition("/")[0] for row in selection} <= {"pool.tar", "cat", "dog"} and names
    copies = Tars(path=str(frames / "run/seed-0/materialise/*.tar"), extensions="videos").records()
    assert {record.read() for record in copies} == {read_bytes(**where(row, frames)) for row in selection}
    inspected = bsssl("data", "inspect", "--config", config)
    assert inspected.status == 0 and re.search(r"frames", inspected.out), inspected.err
    monkeypatch.chdir(frames)
    predicted = bsssl("predict", "run", "test", "train/cat/v0", "--to", "said.csv")
    assert predicted.status == 0, predicted.err
    with (frames / "said.csv").open() as file:
        paths = [row["path"] for row in csv.DictReader(file)]
    assert paths == ["test/cat/v0", "test/cat/v2", "test/dog/v1", "test/dog/v3", "train/cat/v0"]
    by_fragment = bsssl("predict", "run", "train/cat/v0#fps=10", "train/cat/v0#fps=10&names=img_*")
    assert by_fragment.status == 0 and "train/cat/v0#fps=10&names=img_*" in by_fragment.out, by_fragment.err
    missing = bsssl("predict", "run", "train/cat/nosuch#fps=10")
    assert missing.status == 1 and len(missing.errors) == 1
    assert "train/cat/nosuch: No such file or directory" in missing.errors[0]


def test_frames_that_are_added_are_noticed(bsssl, config, frames):
    assert bsssl("run", "--config", config).status == 0
    write_frames(frames / "train/cat/v0", [8])
    again = bsssl("run", "--config", config)
    assert again.status == 0, again.err
    assert executed(again)[:3] == ["data", "contents", "teacher"]
    (frames / "test/cat/v0/img_00103.png").unlink()
    lost = bsssl("run", "--config", config)
    assert lost.status == 1
    assert "frames are missing between img_00102.png and img_00104.png" in lost.err
