import os
from pathlib import Path

import pytest

from bsssl.data import Cub
from bsssl.errors import UserError
from bsssl.registry import DATASETS

FILES = {
    "images.txt": "1 001.Wren/a.jpg\n2 001.Wren/b c.jpg\n\n3 002.Tern/a.jpg\n",
    "image_class_labels.txt": "3 2\n1 1\n2 1\n",
    "classes.txt": "1 001.Wren\n2 002.Tern\n",
    "train_test_split.txt": "1 1\n2 0\n3 1\n",
}


@pytest.fixture
def cub(tmp_path):
    """Writes a folder in CUB's layout, some files with other contents (None: without them); a part of it."""

    def make(part="train", **contents):
        for name, text in FILES.items():
            text = contents.get(name.removesuffix(".txt"), text)
            if text is not None:
                (tmp_path / name).write_text(text)
        for name in ("001.Wren/a.jpg", "001.Wren/b c.jpg", "002.Tern/a.jpg"):
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return Cub(path=str(tmp_path), part=part)

    return make


def test_the_two_parts(cub, tmp_path):
    assert DATASETS.get("cub") is Cub
    train = list(cub().records())
    assert [record.key for record in train] == ["001.Wren/a.jpg", "002.Tern/a.jpg"]
    assert [record.label for record in train] == ["001.Wren", "002.Tern"]
    assert train[0].path == os.path.join(tmp_path, "images", "001.Wren/a.jpg")
    assert [(record.key, record.label) for record in cub("test").records()] == [("001.Wren/b c.jpg", "001.Wren")]


@pytest.mark.parametrize("name", ["images", "image_class_labels", "classes", "train_test_split"])
def test_a_missing_file(cub, tmp_path, name):
    with pytest.raises(UserError, match=f"^no such file: {tmp_path / name}.txt; check the path$"):
        cub(**{name: None}).records()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("images", "1 001.Wren/a.jpg\nx\n", "images.txt: line 2 is not an id and a value: x"),
        ("images", "1 001.Wren/a.jpg\n1 002.Tern/a.jpg\n", "images.txt: line 2 gives 1 a second value; keep one"),
        ("images", "", "images.txt lists no images; check the path"),
        ("images", FILES["images.txt"] + "9 b.jpg\n", "image_class_labels.txt lacks ids of images.txt (1, first: 9); "),
        ("image_class_labels", "1 1\n2 1\n3 2\n4 2\n", "has ids that images.txt lacks (1, first: 4); both must have "),
        ("image_class_labels", "1 1\n2 1\n3 3\n", "labels.txt: image 3 has '3', which is not a class of classes.txt; "),
        ("train_test_split", "1 1\n2 1\n", "train_test_split.txt lacks ids of images.txt (1, first: 3); both must "),
        ("train_test_split", "1 1\n2 2\n3 1\n", "image 2 has '2', which is not 0 (test) or 1 (train); correct it"),
        ("train_test_split", "1 0\n2 0\n3 0\n", "train_test_split.txt puts no image into the train part; correct it"),
    ],
)
def test_files_that_are_malformed_or_disagree(cub, name, text, message):
    with pytest.raises(UserError) as caught:
        cub(**{name: text}).records()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_image_that_is_not_there(cub, tmp_path):
    source = cub()
    Path(tmp_path / "images" / "002.Tern" / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"^1 of the 3 images that .*images.txt lists are not in .*\(such as 002.Tern"):
        source.records()


def test_an_unknown_part(tmp_path):
    with pytest.raises(UserError, match=r"^cub has no part 'val'; valid: test, train$"):
        Cub(path=str(tmp_path), part="val")
