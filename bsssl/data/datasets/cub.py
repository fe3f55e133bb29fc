"""CUB-200-2011 as it is distributed, and data sets in its layout (Wah et al. 2011, CNS-TR-2011-001)."""

import re
from collections.abc import Container, Iterator

from bsssl import storage
from bsssl.data.datasets.sources import Source
from bsssl.data.records import Records
from bsssl.errors import UserError
from bsssl.registry import DATASETS

_PARTS = {"train": "1", "test": "0"}  # in train_test_split.txt


@DATASETS.register("cub")
class Cub(Source):
    """``path`` is the folder of ``images.txt``, ``image_class_labels.txt``, ``classes.txt``, ``train_test_split.txt``
    and ``images/``; ``part`` is ``train`` or ``test``.

    The lines of these files are an id and a value: the image's path below ``images/``, the id of its class, the class's
    name, and 1 for training. The key is the path, the label the name.
    """

    def __init__(self, *, path: str, part: str) -> None:
        if part not in _PARTS:
            raise UserError(f"cub has no part '{part}'; valid: test, train")
        self.path = storage.absolute(path)
        self._part = part

    def batches(self) -> Iterator[Records]:
        """See ``Source``, all at once; UserError for files that are missing, malformed or disagree about the ids."""
        images = self._read("images.txt")
        if not images:
            raise UserError(f"{self._file('images.txt')} lists no images; check the path")
        names = self._read("classes.txt")
        classes = self._of_every_image("image_class_labels.txt", images)
        parts = self._of_every_image("train_test_split.txt", images)
        self._check_values("image_class_labels.txt", classes, names, "a class of classes.txt")
        self._check_values("train_test_split.txt", parts, set(_PARTS.values()), "0 (test) or 1 (train)")
        root = self._file("images")
        present = set(storage.walk(root))
        missing = [image for image in images.values() if image not in present]
        if missing:
            raise UserError(
                f"{len(missing)} of the {len(images)} images that {self._file('images.txt')} lists are not in {root} "
                f"(such as {missing[0]}); unpack them there"
            )
        chosen = [number for number in images if parts[number] == _PARTS[self._part]]
        if not chosen:
            raise UserError(
                f"{self._file('train_test_split.txt')} puts no image into the {self._part} part; correct it"
            )
        keys = [images[number] for number in chosen]
        labels = [names[classes[number]] for number in chosen]
        yield Records.from_columns(key=keys, path=[storage.join(root, key) for key in keys], label=labels)

    def _file(self, name: str) -> str:
        return storage.join(self.path, name)

    def _read(self, name: str) -> dict[str, str]:
        """Return the values in a file, by their ids."""
        found: dict[str, str] = {}
        with storage.open_read(self._file(name)) as file:
            for number, line in enumerate(file, start=1):
                text = line.decode(errors="replace").strip()
                match = re.fullmatch(r"(\d+)\s+(\S.*)", text)
                if match is None and text:
                    raise UserError(f"{self._file(name)}: line {number} is not an id and a value: {text}")
                if match is not None and found.setdefault(match[1], match[2]) != match[2]:
                    raise UserError(f"{self._file(name)}: line {number} gives {match[1]} a second value; keep one")
        return found

    def _of_every_image(self, name: str, images: dict[str, str]) -> dict[str, str]:
        values = self._read(name)
        problems = {
            "lacks ids of images.txt": images.keys() - values,
            "has ids that images.txt lacks": values.keys() - images,
        }
        for problem, ids in problems.items():
            if ids:
                raise UserError(
                    f"{self._file(name)} {problem} ({len(ids)}, first: {min(ids, key=int)}); both must have the same"
                )
        return values

    def _check_values(self, name: str, values: dict[str, str], valid: Container[str], what: str) -> None:
        for number, value in values.items():
            if value not in valid:
                raise UserError(f"{self._file(name)}: image {number} has '{value}', which is not {what}; correct it")
