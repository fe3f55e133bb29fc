import io
import logging
import tarfile
from collections.abc import Callable

import fsspec
import numpy as np
import pytest
from PIL import Image

from bsssl.runtime.console import logger


def _encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def _make_tar(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def encode() -> Callable[..., bytes]:
    return _encode


@pytest.fixture
def make_tar() -> Callable[[dict[str, bytes]], bytes]:
    return _make_tar


@pytest.fixture
def smooth() -> np.ndarray:
    """uint8 (48, 64, 3), the same in every test, that JPEG keeps within a few grey levels."""
    y, x = np.mgrid[:48, :64]
    return np.stack([4 * x, 5 * y, 2 * (x + y)], axis=-1).astype(np.uint8)


@pytest.fixture
def memory():
    """fsspec's file system in memory, emptied afterwards."""
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


@pytest.fixture
def picture_folder(tmp_path, smooth):
    """Three classes of 4, 5 and 6 JPEGs, one of them in a folder within its class's."""
    for label, count in (("ant", 4), ("bee", 5), ("cat", 6)):
        folder = tmp_path / "pictures" / label
        (folder / "deep").mkdir(parents=True)
        for number in range(count):
            place = folder / "deep" if number == 0 else folder
            Image.fromarray(np.roll(smooth, number * 7 + count, axis=1)).save(place / f"{number}.jpg", quality=95)
    return tmp_path / "pictures"


@pytest.fixture
def said(caplog):
    """What was logged: a function that returns the lines."""
    logger.propagate = True
    with caplog.at_level(logging.INFO, logger=logger.name):
        yield lambda: [record.getMessage() for record in caplog.records]
    logger.propagate = False
