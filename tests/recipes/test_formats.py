"""The same items in files of another kind make the same run."""

import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


@pytest.fixture
def packed(recipe, tmp_path, monkeypatch):
    """The config of the recipe with its data in Parquet, compressed tars and a list as a spreadsheet writes it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={
            "huggingface": json.dumps({"info": {"features": {"label": {"names": ["square", "circle", "triangle"]}}}})
        },
    )
    names = ["square", "circle", "triangle"]
    for part in ("train", "test"):
        files = sorted((recipe.folder / part).glob("*/*.jpg"))
        rows = [{"image": {"bytes": file.read_bytes()}, "label": names.index(file.parent.name)} for file in files]
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / f"{part}.parquet")
    for name, folder in (("loose", recipe.folder / "loose"), ("listed", recipe.folder / "manifest" / "listed")):
        with tarfile.open(tmp_path / f"{name}.tar.gz", "w:gz") as tar:
            for file in sorted(folder.iterdir()):
                tar.add(file, file.name)
    lines = [f'"{recipe.folder}/manifest/listed/{number:02d}.jpg";x\r\n' for number in range(15)]
    (tmp_path / "pool.csv").write_text("path;note\r\n" + "".join(lines), encoding="utf-16", newline="")
    data = {
        "train": {"dataset": "parquet", "path": str(tmp_path / "train.parquet")},
        "test": {"dataset": "parquet", "path": str(tmp_path / "test.parquet")},
        "pool": [
            {"dataset": "tars", "path": str(tmp_path / "loose.tar.gz")},
            {"dataset": "manifest", "path": str(tmp_path / "pool.csv")},
            *recipe.values["data"]["pool"][2:],
        ],
    }
    return recipe.write(tmp_path / "packed.yaml", {"data": data})


def test_the_same_items_in_other_files_make_the_same_run(packed, finished_once, bsssl, tmp_path):
    outcome = bsssl("run", packed, f"output_dir={tmp_path / 'run'}")
    assert outcome.status == 0, outcome.err
    assert "its columns are separated by semicolons" in outcome.err

    def rows(folder, names):
        table = pq.read_table(folder / "seed-0" / "select" / "selection.parquet")
        return table.select(names).to_pylist()

    same = ["class", "rank", "score"]
    assert rows(tmp_path / "run", same) == rows(finished_once, same)
    results, others = (
        json.loads((folder / "results.json").read_text()) for folder in (tmp_path / "run", finished_once)
    )
    for one in (results, others):
        del one["contents"][0]["parts"]  # the files are others
    assert results == others
