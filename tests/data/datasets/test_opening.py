import pytest

from bsssl.data.datasets.opening import open_source
from bsssl.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.mp4", "c.txt"):
        (tmp_path / name).touch()
    return str(tmp_path)


@pytest.mark.parametrize(
    ("options", "videos", "keys"),
    [
        ({}, False, ["a.jpg"]),
        ({}, True, ["b.mp4"]),
        ({"extensions": ["txt"]}, True, ["c.txt"]),
    ],
)
def test_what_a_source_holds(folder, options, videos, keys):
    source = open_source("folder", path=folder, options=options, videos=videos)
    assert source.records().key.to_pylist() == keys


def test_datasets_without_extensions(folder):
    assert open_source("manifest", path=f"{folder}/m.csv", options={}, videos=True).path == f"{folder}/m.csv"


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        ("foldr", {}, "unknown dataset 'foldr': did you mean 'folder'"),
        ("folder", {"extension": "any"}, "dataset 'folder' has no option 'extension': did you mean 'extensions'"),
        ("cub", {}, "dataset 'cub' needs the option 'part'"),
        ("hmdb51", {"splits": "x", "part": "test", "split": "one"}, "dataset 'hmdb51': split='one': "),
        ("folder", {"path": "elsewhere"}, "path"),
    ],
)
def test_refused(folder, dataset, options, message):
    with pytest.raises(UserError) as caught:
        open_source(dataset, path=folder, options=options, videos=False)
    assert message in str(caught.value) and "\n" not in str(caught.value)
