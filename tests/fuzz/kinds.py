"""The kinds of input that are damaged, each with whole files and what the program makes of a file of its kind."""

import functools
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import safetensors.torch
import torch
import yaml
from PIL import Image

import bsssl
from bsssl.config import Config, Experiment, Length, Reproduction, Transfer, bundled_configs, load_config, located
from bsssl.config.reading import read_yaml
from bsssl.data import Manifest, Records, open_source, selected_training_set
from bsssl.data.decoding.pictures import DecodeError, decode_image, open_image
from bsssl.data.decoding.readers import open_video
from bsssl.data.records import RECORD_SCHEMA
from bsssl.models import build_model, load_weights
from bsssl.models.weights.files import read_checkpoint, save_model
from bsssl.models.weights.folder import describe
from bsssl.recipes.runs import as_yaml
from bsssl.selection import (
    read_exclusions,
    read_parquet,
    read_sample_scores,
    read_selection,
    select_samples,
    write_parquet,
    write_selection,
)
from tests.data.videos import write_video
from tests.fuzz import mutators as damage
from tests.fuzz.configs import override, yaml_text
from tests.fuzz.mutators import BYTES, Mutator
from tests.fuzz.trial import Kind
from tests.selection.pools import make_pool, write_pool

_SCHEMAS = {"models": Config, "checkpoints": Transfer, "recipe": Reproduction}
Original = tuple[str, bytes, Sequence[Mutator]]


def _config() -> Kind:
    originals: list[Original] = []
    for name in bundled_configs():
        path = Path(located(name))
        content = yaml.safe_load(path.read_text())
        # A file that builds on another is written out: its folder is another, and more of it can be damaged.
        content = content if "_BASE_" not in content else read_yaml(str(path))
        originals.append((f"{path.stem}.yaml", yaml.safe_dump(content, sort_keys=False).encode(), [yaml_text]))

    def read(path: Path) -> None:
        content = read_yaml(str(path))
        schema = next((_SCHEMAS[key] for key in _SCHEMAS if key in content), Config)
        config = load_config(str(path), [], schema)
        text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        again = as_yaml(config) if isinstance(config, Experiment) else text
        # NaN is not itself, so that the texts are compared.
        assert repr(schema.model_validate(yaml.safe_load(again))) == repr(config), again

    return Kind("config", originals, read)


def _override() -> Kind:
    path = located("image/quickstart")
    values = load_config(path, []).model_dump(mode="json")
    sections = {name: inner for name, inner in values.items() if isinstance(inner, dict)}
    keys = [f"{name}.{key}={json.dumps(value)}" for name, inner in sections.items() for key, value in inner.items()]

    def read(file: Path) -> None:
        text = file.read_bytes().decode(errors="surrogateescape")
        config = load_config(path, [text])
        assert isinstance(config.pretrain.length, Length)

    return Kind("override", [("override.txt", key.encode(), [override]) for key in keys], read, names_file=False)


def _tables(table: pa.Table, name: str) -> list[Original]:
    """The same table as CSV, as lines of JSON and as Parquet."""
    text, sink = io.BytesIO(), io.BytesIO()
    pq.write_table(table, sink)
    flat = [n for n in table.column_names if pa.types.is_list(table[n].type)]
    pa.csv.write_csv(table.drop_columns(flat), text)
    lines = "".join(f"{json.dumps(row)}\n" for row in table.to_pylist()).encode()
    return [
        (f"{name}.csv", text.getvalue(), BYTES),
        (f"{name}.jsonl", lines, [*BYTES, damage.json_line, damage.json_line]),
        (f"{name}.parquet", sink.getvalue(), [*BYTES, *[damage.parquet_table] * 8]),
    ]


def _check_records(records: Records) -> None:
    assert records.table.schema.names == RECORD_SCHEMA.names
    assert all(isinstance(record.key, str) and isinstance(record.path, str) for record in records)


_ROWS = {
    "path": ["a.jpg", "b/ü.jpg", "/c,d.jpg", "https://host/e.jpg", 'q"uote.jpg', "f.mp4"],
    "label": ["cat", "007", None, "dog", "a;b", "  "],
    "tags": [["x", "y"], None, [], ["z"], [""], ["x"]],
    "offset": [0, 512, 0, 0, 10, 0],
    "size": [-1, 100, None, -1, 5, -1],
    "start": [None, None, None, None, None, 0.5],
    "end": [None, None, None, None, None, 2.0],
}


def _manifest() -> Kind:
    schema = pa.schema(
        [
            *(("path", pa.string()), ("label", pa.string()), ("tags", pa.list_(pa.string()))),
            *(("offset", pa.int64()), ("size", pa.int64()), ("start", pa.float64()), ("end", pa.float64())),
        ]
    )
    rows = pa.table(_ROWS, schema=schema)

    def read(path: Path) -> None:
        _check_records(Manifest(path=str(path)).records())

    return Kind("manifest", [*_tables(rows, "manifest"), *_tables(rows.select(["path", "label"]), "short")], read)


def _records() -> Kind:
    rows = len(_ROWS["path"])
    columns = {name: _ROWS[name] for name in ("path", "label", "tags", "offset")}
    records = Records.from_columns(key=[f"key {row}" for row in range(rows)], **columns)
    originals: list[Original] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, mutators in (("records.csv", BYTES), ("records.parquet", [*BYTES, *[damage.parquet_table] * 8])):
            records.write(f"{folder}/{name}")
            originals.append((name, Path(folder, name).read_bytes(), mutators))

    def read(path: Path) -> None:
        _check_records(Records.read(str(path)))

    return Kind("records", originals, read)


@functools.cache
def _scored() -> tuple[str, ...]:
    folder = Path(_KEPT.name, "scores")
    folder.mkdir()
    return tuple(write_pool(folder, make_pool(0, records=200), cuts=[90]))


_KEPT = tempfile.TemporaryDirectory()  # as long as the process


def _scores() -> Kind:
    first, second = _scored()
    with tempfile.TemporaryDirectory() as folder:
        others = [Path(first), *map(Path, write_pool(Path(folder), make_pool(1, records=200), cuts=[90]))]
        contents = [path.read_bytes() for path in others]

    def of_others(content: bytes, generator: np.random.Generator) -> bytes:
        """The file of another shard, or of another pool."""
        chosen: bytes = damage.pick(generator, contents)
        return chosen

    mutators = [*BYTES, of_others, *[damage.safetensors_header, damage.safetensors_facts, damage.safetensors_kind] * 4]

    def read(path: Path) -> None:
        for variant in ("balanced", "unbalanced", "random"):
            chosen = select_samples([first, str(path)], top_k=9, variant=variant)
            assert chosen.score.min() >= 0 and chosen.score.max() <= 1
            assert chosen.to_table().num_rows == len(chosen.sample)
        positions, classes, scores = read_sample_scores(str(path))
        assert len(positions) == len(classes) == len(scores)
        with tempfile.TemporaryDirectory() as folder:
            write_parquet([first, str(path)], f"{folder}/scores.parquet")

    return Kind("scores", [("000001.scores", Path(second).read_bytes(), mutators)], read)


def _scores_of_others() -> Kind:
    with tempfile.TemporaryDirectory() as folder:
        write_parquet(list(_scored()), f"{folder}/scores.parquet")
        content = Path(folder, "scores.parquet").read_bytes()
    keys, names = pa.array([f"key-{row}" for row in range(200)]), [f"c{number}" for number in range(7)]

    def read(path: Path) -> None:
        rows, classes, scores = read_parquet(str(path), keys=keys, class_names=names, top_p=2)
        assert classes.shape == scores.shape == (len(rows), 2) and scores.min() >= 0 and scores.max() <= 1

    return Kind("scores of others", [("scores.parquet", content, [*BYTES, *[damage.parquet_table] * 8])], read)


def _selection() -> Kind:
    with tempfile.TemporaryDirectory() as folder:
        write_selection(f"{folder}/selection.parquet", select_samples(list(_scored()), top_k=9))
        content = Path(folder, "selection.parquet").read_bytes()

    def read(path: Path) -> None:
        selected = read_selection(str(path))
        assert selected.num_samples <= len(selected)
        for mode in ("per_pair", "multi"):
            selected_training_set(str(path), mode=mode)
        selected_training_set(str(path), mode="soft", scores=_scored())

    originals = [("selection.parquet", content, [*BYTES, *[damage.parquet_table, damage.parquet_facts] * 4])]
    return Kind("selection", originals, read, beside=".scores")


def _exclusions() -> Kind:
    table = pa.table({"key": ["key-1", "key-2", None], "class": ["c1", None, "c2"]})

    def read(path: Path) -> None:
        select_samples(list(_scored()), top_k=5, exclude=read_exclusions(str(path)))

    return Kind("exclusions", _tables(table, "exclude"), read)


def _tar() -> Kind:
    originals: list[Original] = []
    for name, kind in (
        ("ustar.tar", tarfile.USTAR_FORMAT),
        ("gnu.tar", tarfile.GNU_FORMAT),
        ("pax.tar", tarfile.PAX_FORMAT),
    ):
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=kind) as tar:
            long = "long/" * 30 if kind != tarfile.USTAR_FORMAT else "ü/"
            files = {"cat/0.jpg": b"x" * 700, f"{long}1.jpg": b"y" * 20, "2.jpg": b"", "2.json": b'{"label": 3}'}
            for path, content in {**files, "2.cls": b"7", "2.txt": b"a caption"}.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        originals.append((name, sink.getvalue(), [*BYTES, _tar_header, _tar_header]))

    def read(path: Path) -> None:
        source = open_source("tars", path=str(path), options={}, videos=False)
        for _, records in source.shards():  # type: ignore[attr-defined]
            _check_records(records)
            for record in records:
                try:
                    record.read()
                except OSError as error:  # an item that cannot be read
                    assert str(error)
        source.records()

    return Kind("tar", originals, read)


def _tar_header(content: bytes, generator: np.random.Generator) -> bytes:
    """A tar with another value in a field of a member's header, whose checksum is right."""
    heads = [place for place in range(0, len(content), 512) if content[place + 257 : place + 262] == b"ustar"]
    if not heads:
        return content
    place = damage.pick(generator, heads)
    head = bytearray(content[place : place + 512])
    start, size = damage.pick(generator, ((0, 100), (124, 12), (136, 12), (156, 1), (157, 100), (345, 155)))
    values = (
        b"",
        b"7" * size,
        b"\x80" + b"\xff" * 11,
        b"\x80" + b"\0" * 3 + b"\x10" + b"\0" * 7,
        b"-1",
        b"\xff",
        b"\xff" * 10 + b"\xfe\0",
        b" ",
    )
    value = damage.pick(generator, (*values, b"x", b"g", b"L", b"K", b"S", b"V", b"1", b"2", b"5", b"6"))
    head[start : start + size] = value[:size].ljust(size, b"\0")
    head[148:156] = b"%06o\0 " % (256 + sum(head[:148]) + sum(head[156:]))
    return content[:place] + bytes(head) + content[place + 512 :]


_NETWORK = {"name": "small_resnet", "options": {"width": 4, "blocks": [1]}}
_CLASSES = ["circle", "square", "triangle"]


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(_NETWORK["name"], num_classes=3, **_NETWORK["options"])  # type: ignore[arg-type]


def _weights() -> Kind:
    state = _network().state_dict()
    plain, sink, wrapped, old = safetensors.torch.save(state), io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(state, sink)
    torch.save({"epoch": 3, "model": {f"module.{name}": value for name, value in state.items()}}, wrapped)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    with tempfile.TemporaryDirectory() as folder:
        save_model(f"{folder}/a.safetensors", state, name="small_resnet", classes=_CLASSES)
        ours = Path(folder, "a.safetensors").read_bytes()
    headers = [*BYTES, *[damage.safetensors_header, damage.safetensors_facts, damage.safetensors_kind] * 4]
    originals: list[Original] = [
        ("plain.safetensors", plain, [*BYTES, *[damage.safetensors_header, damage.safetensors_kind] * 4]),
        ("ours.safetensors", ours, headers),
        ("state.pth", sink.getvalue(), BYTES),
        ("wrapped.pth", wrapped.getvalue(), BYTES),
        ("old.pth", old.getvalue(), BYTES),
    ]
    network = _network()

    def read(path: Path) -> None:
        assert read_checkpoint(str(path)).state
        load_weights(network, str(path), classes=_CLASSES)

    return Kind("weights", originals, read)


@functools.cache
def _model_folder() -> dict[str, bytes]:
    transforms = {"size": 16, "resize": None, "mean": [0.5] * 3, "std": [0.2] * 3}
    testing = {"precision": "float32", "max_pixels": 10**6}
    config = describe(_NETWORK["name"], _NETWORK["options"], classes=_CLASSES, transforms=transforms, testing=testing)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        facts = {"options": _NETWORK["options"]}
        save_model(f"{folder}/a", _network().state_dict(), name="small_resnet", classes=_CLASSES, **facts)
        return {"model.safetensors": Path(folder, "a").read_bytes(), "config.json": json.dumps(config).encode()}


def _model() -> Kind:
    files = _model_folder()
    headers = [damage.safetensors_header, damage.safetensors_facts, damage.safetensors_kind]
    ways = {"model.safetensors": [*BYTES, *headers * 4],
            "config.json": [*BYTES, *[damage.json_text] * 20]}  # fmt: skip
    picture = np.zeros((20, 20, 3), np.uint8)

    def read(path: Path) -> None:
        others = [name for name in files if name != path.name]
        with tempfile.TemporaryDirectory() as folder:
            for name in others:
                Path(folder, name).write_bytes(files[name])
            os.link(path, Path(folder, path.name))
            model = bsssl.load(folder, device="cpu")
            (prediction,) = model.predict([picture])
            assert set(prediction.classes) <= set(model.classes)

    return Kind("model folder", [(name, files[name], ways[name]) for name in files], read, names_file=False)


def _pictures() -> Kind:
    pixels = np.random.default_rng(0).integers(0, 255, (37, 50, 4), dtype=np.uint8)
    image = Image.fromarray(pixels[:, :, :3])
    exif = Image.Exif()
    exif[0x0112] = 6
    saved: tuple[tuple[str, str, Image.Image, dict[str, object]], ...] = (
        ("jpg", "JPEG", image, {"exif": exif}),
        ("jpg", "JPEG", image, {"progressive": True}),
        ("jpg", "JPEG", image.convert("CMYK"), {}),
        ("png", "PNG", Image.fromarray(pixels), {"exif": exif}),
        ("png", "PNG", image.convert("P"), {"transparency": 3}),
        ("png", "PNG", Image.fromarray(pixels[:, :, :2].copy().view(np.uint16)[:, :, 0]), {}),
        ("gif", "GIF", image, {"save_all": True, "append_images": [image.rotate(90)]}),
        ("webp", "WEBP", image, {}),
        ("webp", "WEBP", Image.fromarray(pixels), {"lossless": True}),
        ("bmp", "BMP", image, {}),
        ("tif", "TIFF", image, {"compression": "tiff_lzw"}),
        ("tif", "TIFF", image.convert("1"), {"compression": "group4"}),
        ("tif", "TIFF", image, {"compression": "jpeg"}),
        ("ppm", "PPM", image, {}),
    )
    originals: list[Original] = []
    for ending, kind, one, options in saved:
        sink = io.BytesIO()
        one.save(sink, kind, **options)
        mutators = BYTES if kind != "PNG" else [*BYTES, *[damage.png_header] * 4]
        originals.append((f"picture.{ending}", sink.getvalue(), mutators))

    def read(path: Path) -> None:
        content = path.read_bytes()
        decoded = decode_image(content, max_pixels=10**7)
        assert decoded.dtype == torch.uint8 and decoded.ndim == 3 and len(decoded) == 3 and decoded.numel()
        assert open_image(content, max_pixels=10**7, about=16).size

    return Kind("picture", originals, read, refusal=DecodeError, names_file=False)


def _videos() -> Kind:
    originals: list[Original] = []
    with tempfile.TemporaryDirectory() as folder:
        for ending, codec in (
            ("mp4", "libx264"),
            ("mkv", "libx264"),
            ("webm", "libvpx"),
            ("avi", "mpeg4"),
            ("mpg", "mpeg2video"),
        ):
            path = write_video(Path(folder, f"video.{ending}"), codec=codec, frames=12, options={"g": "5"})
            originals.append((path.name, path.read_bytes(), BYTES))

    def read(path: Path) -> None:
        with open_video(str(path), deadline=20, max_pixels=10**7) as video:
            times = video.seconds()
            assert len(times) == video.num_frames
            frames = video.get([video.num_frames - 1, 0, video.num_frames // 2])
            assert frames.dtype == np.uint8 and frames.ndim == 4 and len(frames) == 3

    return Kind("video", originals, read, refusal=DecodeError, names_file=False)


KINDS: dict[str, Callable[[], Kind]] = {
    "config": _config,
    "override": _override,
    "manifest": _manifest,
    "records": _records,
    "scores": _scores,
    "scores of others": _scores_of_others,
    "selection": _selection,
    "exclusions": _exclusions,
    "tar": _tar,
    "weights": _weights,
    "model folder": _model,
    "picture": _pictures,
    "video": _videos,
}


@functools.cache
def kind(name: str) -> Kind:
    """Return the kind of input called ``name``, made once per process."""
    return KINDS[name]()
