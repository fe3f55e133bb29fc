"""`bsssl init`: it looks at data, and what it writes loads, plans and says why."""

import json
import os
import re
import shutil

import jsonschema
import pytest
import yaml

from bsssl.config import load_config
from bsssl.recipes.own import looking
from bsssl.recipes.own.choosing import Device, choose
from bsssl.recipes.own.looking import look
from bsssl.recipes.own.writing import write_config
from tests.data.videos import write_frames, write_video


@pytest.fixture
def folder(tmp_path, monkeypatch, draw):
    """The current folder, with photos/labels (5 and 4 of two classes), photos/pool (12) and photos/test (2 each)."""
    monkeypatch.chdir(tmp_path)
    for place, count, first in [
        ("labels/circle", 5, 0),
        ("labels/square", 4, 0),
        ("pool/2021", 6, 10),
        ("pool/2022", 6, 20),
        ("test/circle", 2, 30),
        ("test/square", 2, 30),
    ]:
        name = place.rpartition("/")[2] if "2" not in place else "circle"
        (tmp_path / "photos" / place).mkdir(parents=True)
        for number in range(count):
            draw(name, seed=first + number).save(tmp_path / "photos" / place / f"{number}.png")
    return tmp_path


def written(name="mine.yaml"):
    """The resolved config, which the schema beside it allows."""
    with open(name) as file:
        text = file.read()
    assert text.startswith("# yaml-language-server: $schema=bsssl.schema.json\n") and len(text.splitlines()) < 35
    assert max(map(len, text.splitlines())) <= 120
    with open("bsssl.schema.json") as file:
        jsonschema.validate(yaml.safe_load(text), json.load(file))
    return load_config(name, [])


def rows(table):
    return [re.split(r"  +", line) for line in table.splitlines()]


def test_labels_pool_and_test_set(bsssl, folder):
    outcome = bsssl("init", "photos/labels", "--pool", "photos/pool", "--test", "photos/test")
    assert outcome.status == 0, outcome.err
    seen, classes, steps = outcome.out.split("\n\n")
    assert [row[:6] for row in rows(seen)[1:]] == [
        ["labels", "photos/labels", "9", "9", "9", "0"],
        ["pool", "photos/pool", "12", "12", "12", "0"],
        ["test", "photos/test", "4", "4", "4", "0"],
    ]
    assert rows(seen)[1][6:] == ["32x32"] * 3
    assert rows(classes)[1:] == [["square", "4"], ["circle", "5"]]
    assert "\n    bsssl run mine.yaml\n    bsssl predict outputs/mine photo.jpg\n" in steps
    config = written()
    assert [source.path for source in config.data.pool] == ["photos/pool"] and config.data.pool_overlap == "exclude"
    assert config.data.labels_per_class is None and config.data.holdout is None
    assert config.select.top_k == 3  # 12 / 2 / 2
    assert config.data.transforms.size == 32 and config.data.num_classes == 2
    assert config.teacher.mode == "probe" and config.models.teacher.name.startswith("timm/")


def test_what_is_written_plans(bsssl, folder):
    assert bsssl("init", "photos/labels", "--pool", "photos/pool", "--to", "my photos.yaml").status == 0
    written("my photos.yaml")
    planned = bsssl("run", "my photos.yaml", "--plan", "models.teacher={name: small_resnet}", "teacher.mode=null")
    assert planned.status == 0, planned.err
    assert re.search(r"\nscore +12 ", planned.out) and re.search(r"\nevaluate-finetune.holdout +2 ", planned.out)


def test_a_folder_of_classes_alone_is_its_own_pool(bsssl, folder):
    assert bsssl("init", "photos/labels").status == 0
    config = written()
    # Of 4 squares one is held out; of the other three one is kept, as half of them is none too many.
    assert config.data.test is None and config.data.holdout == 0.2
    assert config.data.labels_per_class == 1 and config.data.pool == [] and config.select.top_k == 1
    planned = bsssl("run", "mine.yaml", "--plan", "models.teacher={name: small_resnet}", "teacher.mode=null")
    assert re.search(r"\nscore +5 ", planned.out), planned.err


def test_loose_pictures_beside_the_folders_of_classes_are_the_pool(bsssl, folder):
    for file in (folder / "photos" / "pool").glob("*/*"):
        shutil.copy(file, folder / "photos" / "labels" / f"{file.parent.name}-{file.name}")
    outcome = bsssl("init", "photos/labels", "--test", "photos/test")
    assert rows(outcome.out)[1][:4] == ["labels", "photos/labels", "21", "9"], outcome.err
    config = written()
    assert config.data.labels_per_class is None and config.data.pool == [] and config.select.top_k == 3
    planned = bsssl("run", "mine.yaml", "--plan", "models.teacher={name: small_resnet}", "teacher.mode=null")
    assert re.search(r"\nscore +12 ", planned.out), planned.err


def test_a_table_whose_files_have_labels_in_part(bsssl, folder):
    files = {file: file.parent.name for file in sorted((folder / "photos" / "labels").glob("*/*"))}
    files |= dict.fromkeys(sorted((folder / "photos" / "pool").glob("*/*")), "")
    (folder / "all.csv").write_text("path,label\n" + "".join(f"{file},{label}\n" for file, label in files.items()))
    assert bsssl("init", "all.csv").status == 0
    config = written()
    assert config.data.train.dataset == "manifest" and config.select.top_k == 3


def test_a_pool_that_holds_the_labels_is_counted_without_them(bsssl, folder):
    outcome = bsssl("init", "photos/labels", "--pool", "photos", "--test", "photos/test")
    assert rows(outcome.out)[2][:4] == ["pool", "photos", "12", "12"], outcome.err


def test_what_cannot_be_read_is_said_and_allowed_for(bsssl, folder):
    (folder / "photos" / "pool" / "2021" / "broken.jpg").write_bytes(b"no picture")
    outcome = bsssl("init", "photos/labels", "--pool", "photos/pool")
    assert "\ncannot read 2021/broken.jpg: not a picture, or of an unknown kind\n" in outcome.out
    config = written()
    assert config.data.max_failure_rate == config.data.max_missing_rate == 0.16  # twice 1 of 13


def test_videos(bsssl, folder):
    for place in ("left/a", "left/b", "right/c", "right/d", "e", "f"):
        (folder / "clips" / place).parent.mkdir(parents=True, exist_ok=True)
        write_video(folder / "clips" / f"{place}.mkv", frames=12)
    outcome = bsssl("init", "clips")
    assert outcome.status == 0, outcome.err
    assert rows(outcome.out)[1] == ["labels", "clips", "6", "4", "6", "0", *["64x48, 12 frames"] * 3]
    assert "bsssl predict outputs/mine clip.mp4" in outcome.out
    config = written()
    assert config.data.clips is not None and config.data.clips.stride == 1  # 8 frames of 12
    assert config.models.teacher.name == "torchvision/r2plus1d_18"


@pytest.mark.parametrize(("gigabytes", "batch"), [(8, 64), (80, 128)])
def test_a_gpu_has_larger_networks_and_batches_that_fit(folder, gigabytes, batch):
    found, device = look("photos/labels", pool=["photos/pool"], test=None), Device(8, "A GPU", gigabytes)
    assert write_config("mine.yaml", found, choose(found, device), device) == "outputs/mine"
    config = written()
    trainings = [config.teacher, config.baseline, config.pretrain, config.finetune, config.score]
    assert [section.batch_size for section in trainings] == [batch] * 5
    assert config.models.student.pretrained and config.system.workers == 4
    assert config.pretrain.length.amount == 500_000


def test_lengths_grow_with_the_selection(folder):
    found = look("photos/labels", pool=["photos/pool"], test="photos/test")
    large = type(found.train)(**{**vars(found.pool[0]), "unlabeled": 10_000})
    few, many = (choose(type(found)(**{**vars(found), "pool": pool}), Device(2)) for pool in (found.pool, (large,)))
    assert (few.top_k, few.samples) == (3, 60_000) and (many.top_k, many.samples) == (2_500, 120_000)


def test_a_config_is_not_overwritten(bsssl, folder):
    (folder / "mine.yaml").write_text("kept")
    outcome = bsssl("init", "photos/labels")
    assert outcome.errors == ["error: mine.yaml is there already; name another file by --to, or remove it"]
    assert (folder / "mine.yaml").read_text() == "kept"
    assert (
        bsssl("init", "photos/labels", "--to", "mine.txt").errors[0].startswith("error: a config is a YAML file, and")
    )


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("nowhere", "no such file or folder: nowhere; check the path"),
        ("empty", "there is nothing to learn from in empty: it has no files; check the path"),
        ("texts", "there is nothing to learn from in texts: its files (.txt) are neither pictures nor videos;"),
        ("texts/a.txt", "texts/a.txt is neither a folder nor a table of files (.csv, .jsonl, .parquet) nor tars; give"),
        ("photos/labels/circle", "photos/labels/circle has no labels; put the pictures of each class in a folder"),
        ("one", "one has a single class (circle), two at least are needed; check the path"),
        ("photos", "the folders in photos seem to be no classes but parts (labels, pool, test); give them one by one, "
                   "such as: bsssl init photos/labels --pool photos/pool --test photos/test"),
        ("photos/labels --test photos/pool", "photos/pool has classes that photos/labels has not (such as '2021');"),
        ("photos/labels --pool photos/labels/circle", "photos/labels/circle has no items but those that are in "
                                                      "photos/labels or the test set too; move them out of there, or"),
        ("photos/labels --pool broken", "none of 1 pictures of broken can be read (such as a.jpg: not a picture,"),
        ("few", "few has one item of 2 classes (such as 'circle'), of which none can be kept for a test; add"),
        ("few --test photos/test", "there is no pool; name pictures without a label by --pool"),
    ],
)  # fmt: skip
def test_bad_data_is_one_clear_line(bsssl, folder, arguments, problem):
    for name in ("empty", "texts", "one", "broken", "few"):
        os.makedirs(name)
    (folder / "texts" / "a.txt").write_text("text")
    (folder / "broken" / "a.jpg").write_bytes(b"no picture")
    shutil.copytree("photos/labels/circle", "one/circle")
    for name in ("circle", "square"):
        os.makedirs(f"few/{name}")
        shutil.copy(f"photos/labels/{name}/0.png", f"few/{name}")
    outcome = bsssl("init", *arguments.split())
    assert outcome.status == 1 and len(outcome.errors) == 1 and outcome.out == ""
    assert outcome.errors[0].startswith(f"error: {problem}")
    assert not (folder / "mine.yaml").exists() and not (folder / "bsssl.schema.json").exists()


def test_nothing_to_look_at_is_a_wrong_call(bsssl):
    outcome = bsssl("init")
    assert outcome.status == 2 and outcome.err.endswith("error: name the labeled pictures or videos, or give --list\n")


def test_the_list_has_every_config_of_the_package(bsssl):
    listed = rows(bsssl("init", "--list").out)
    what = (
        "A teacher without training: a pre-trained network, frozen, with a classifier fitted to ten labels per class."
    )
    assert ["image/pretrained", what] in listed
    names = [row[0] for row in listed if re.match(r"(image|video)/", row[0])]
    assert len(names) > 30 and all(len(row) == 2 and row[1].endswith(".") for row in listed[1 : len(names)])


def test_what_comes_from_data_stays_in_its_line(bsssl, folder):
    """Of the names of classes and folders the terminal gets neither line breaks nor codes nor thousands of letters."""
    with open("long.csv", "w") as file:
        places = sorted((folder / "photos" / "labels").rglob("*.png"))
        file.write("path,label\n")
        file.writelines(f'"{path}",{name * 5000}\n' for path, name in zip(places, "ababababa", strict=True))
    outcome = bsssl("init", "long.csv", "--to", "long.yaml")
    assert outcome.status == 0, outcome.err
    assert max(map(len, outcome.out.splitlines())) < 200
    os.rename("photos/labels/circle", "photos/labels/two\nlines \x1b[31m")
    os.rename("photos/labels", "photos/my\nlabels: 'a' #1.csv")  # a folder, whatever its name ends in
    outcome = bsssl("init", "photos/my\nlabels: 'a' #1.csv")
    assert outcome.status == 0, outcome.err
    assert "two\\nlines \\x1b[31m" in outcome.out and "\x1b" not in outcome.out
    assert written().data.train.path == "photos/my\nlabels: 'a' #1.csv"


def test_a_config_with_an_equals_sign_is_no_override(bsssl, folder):
    assert bsssl("init", "photos/labels", "--to", "size=32.yaml").status == 0
    planned = bsssl("run", "size=32.yaml", "--plan", "models.teacher={name: small_resnet}", "teacher.mode=null")
    assert planned.status == 0, planned.err


def test_a_name_that_breaks_its_line_is_refused(bsssl, folder):
    outcome = bsssl("init", "photos/labels", "--to", "a\nb.yaml")
    assert outcome.errors == ["error: a\\nb.yaml has line breaks or codes in its name; name another file by --to"]
    assert not list(folder.glob("*.yaml"))


def test_names_that_are_not_utf_8_and_pipes(bsssl, folder):
    os.mkfifo("photos/labels/circle/pipe.png")
    assert "cannot read circle/pipe.png: " in bsssl("init", "photos/labels").out
    os.mkfifo("pipe.csv")
    assert bsssl("init", "pipe.csv", "--to", "other.yaml").errors == [
        f"error: {folder}/pipe.csv is a pipe, not a file; give a file"
    ]
    os.rename(b"photos/labels/circle/0.png", b"photos/labels/circle/\xff.png")
    outcome = bsssl("init", "photos/labels", "--to", "other.yaml")
    assert outcome.errors == [
        f"error: the name {folder}/photos/labels/circle/\\udcff.png is not UTF-8; rename the file or folder"
    ]


def test_folders_of_frames_of_which_the_last_is_listed_in_part(bsssl, tmp_path, monkeypatch):
    """In the order of texts, 1, 10, 11, 2, the first names of a folder have gaps between their numbers."""
    monkeypatch.chdir(tmp_path)
    for video in ("cat/v0", "cat/v1", "dog/v2"):
        write_frames(tmp_path / "train" / video, range(1, 31), name="{}.png")
    monkeypatch.setattr(looking, "_LISTED", 75)
    assert "pictures in cat/v0 and other folders are numbered" in bsssl("init", "train").err


def test_folders_of_frames(bsssl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in range(8):
        write_frames(tmp_path / "train" / ("cat", "dog")[place % 2] / f"v{place}", range(place, place + 10))
        write_frames(tmp_path / "pool" / f"v{place}", range(20 + place, 32 + place))
    as_pictures = bsssl("init", "train", "--pool", "pool", "--to", "pictures.yaml")
    assert as_pictures.status == 0 and "pictures  in" in as_pictures.out
    assert "train: the pictures in cat/v0 and other folders are numbered as the frames of videos" in as_pictures.err
    outcome = bsssl("init", "train", "--pool", "pool", "--frames", 12.5)
    assert outcome.status == 0, outcome.err
    assert "numbered" not in outcome.err and "videos  in" in outcome.out
    assert [row[:6] for row in rows(outcome.out.split("\n\n")[0])[1:]] == [
        ["labels", "train", "8", "8", "8", "0"],
        ["pool", "pool", "8", "0", "8", "0"],
    ]
    config = written()
    assert (config.data.train.dataset, config.data.train.options) == ("frames", {"fps": 12.5})
    assert [(source.dataset, source.options) for source in config.data.pool] == [("frames", {"fps": 12.5})]
    assert bsssl("run", "--config", "mine.yaml", "--plan").status == 0
    assert "fps is 0; give" in bsssl("init", "train", "--frames", 0, "--to", "other.yaml").err
