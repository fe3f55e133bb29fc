"""Data sets that are made on the spot, for runs without a download."""

import io
import tarfile
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bsssl import storage
from bsssl.data.datasets.sources import Source, Tars
from bsssl.data.decoding.readers.pyav import require_av
from bsssl.data.members import add_member
from bsssl.data.records import Records
from bsssl.errors import UserError, choices
from bsssl.registry import DATASETS
from bsssl.runtime.console import progress

DIGITS_TEST_ITEMS = 500
MOTIONS = ("left", "right", "up", "down", "clockwise", "anticlockwise")
_VIDEO_SIDE = 32  # pixels
_DIGIT_SIDE = 16  # pixels
_VIDEO_FRAMES = 16
_FRAME_RATE = 15  # frames per second
_SPEED = 0.75  # pixels per frame
_RADIUS = 4.0  # of the circles, pixels; one turn takes the whole video
_NOISE_MEAN, _NOISE_DEVIATION = 90.0, 30.0  # grey levels of the background
_CONTRAST = 120.0  # grey levels that the strongest stroke adds
_H264 = {"preset": "veryfast", "tune": "zerolatency", "crf": "18"}  # zerolatency: looks ahead in no further threads


_WORDS = {  # for each label, the most frequent first
    "0": ("zero", "null", "cero", "zeros"),
    "1": ("one", "eins", "uno", "ones"),
    "2": ("two", "zwei", "dos", "twos"),
    "3": ("three", "drei", "tres", "threes"),
    "4": ("four", "vier", "cuatro", "fours"),
    "5": ("five", "f\u00fcnf", "cinco", "fives"),
    "6": ("six", "sechs", "seis", "sixes"),
    "7": ("seven", "sieben", "siete", "sevens"),
    "8": ("eight", "acht", "ocho", "eights"),
    "9": ("nine", "neun", "nueve", "nines"),
    "left": ("left", "to the left", "links", "izquierda"),
    "right": ("right", "to the right", "rechts", "derecha"),
    "up": ("up", "upwards", "hinauf", "arriba"),
    "down": ("down", "downwards", "hinab", "abajo"),
    "clockwise": ("clockwise", "clock-wise", "im Uhrzeigersinn", "horario"),
    "anticlockwise": ("anticlockwise", "counterclockwise", "gegen den Uhrzeigersinn", "antihorario"),
}
_IDLE_WORDS = ("love", "instagood", "handwriting", "nofilter", "photo of the day", "math", "school", "cute", "monday")


class _Written(Source):
    """Two splits of scikit-learn's 1,797 digits, each written to a tar in the folder ``path`` when first asked for.

    With ``tags``, most items have hashtags that tell of the label, see ``noisy_tags``.
    """

    makes_files = True
    name: str
    unit: str

    def __init__(self, *, path: str, split: str, tags: bool = False) -> None:
        if split not in ("train", "test"):
            raise UserError(f"{self.name} has no split '{split}'; valid: test, train")
        self._split = split
        self._tags = tags
        self._tar = storage.join(path, f"{self.name}-{split}.tar")

    @abstractmethod
    def members(self, rows: np.ndarray, images: np.ndarray, digits: np.ndarray) -> Iterable[tuple[str, bytes]]:
        """Name and content of the tar's members.

        Args:
            rows: the digits of this split, int64 (n,), as rows of the other two.
            images: all of scikit-learn's digits, float64 (1797, 8, 8), 0 to 16.
            digits: what they show, int64 (1797,).
        """

    def batches(self) -> Iterator[Records]:
        """See ``Source``; writes the tar first if it is not there."""
        if not storage.exists(self._tar):
            self._write()
        for records in Tars(path=self._tar, extensions="any").batches():
            labeled = self.with_labels(records)
            if self._tags:
                names = [key.rsplit("/", 1)[-1].split(".")[0] for key in labeled.key.to_pylist()]
                pairs = zip(labeled.label.to_pylist(), names, strict=True)
                labeled = labeled.with_tags(
                    [noisy_tags(str(label), generator=np.random.default_rng([2, int(name)])) for label, name in pairs]
                )
            yield labeled

    def with_labels(self, records: Records) -> Records:
        """Return the tar's records with the labels asked for; by default its outermost folders."""
        return records

    def _write(self) -> None:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        loaded = load_digits()
        train, test = train_test_split(
            np.arange(len(loaded.target)), test_size=DIGITS_TEST_ITEMS, stratify=loaded.target, random_state=0
        )
        rows = np.sort(train if self._split == "train" else test)
        members = self.members(rows, loaded.images, loaded.target)
        with storage.atomic_write(self._tar) as file, tarfile.open(fileobj=file, mode="w") as tar:
            for name, content in progress(members, total=len(rows), unit=self.unit, title=f"writing {self._tar}"):
                add_member(tar, name, content)


@DATASETS.register("digits")
class Digits(_Written):
    """scikit-learn's 1,797 handwritten digits (8x8, grey), written once as PNGs into a tar per split in ``path``.

    ``split`` is ``train`` (1,297 items) or ``test`` (500, stratified, the same ones always); ``classes`` are the digits
    to have, all by default.
    """

    name = "digits"
    unit = "pictures"

    def __init__(self, *, path: str, split: str, classes: Sequence[int] = range(10), tags: bool = False) -> None:
        super().__init__(path=path, split=split, tags=tags)
        self._labels = pa.array([str(digit) for digit in classes])

    def batches(self) -> Iterator[Records]:
        """See ``Source``; writes the tar first if it is not there."""
        for records in super().batches():
            yield records.filter(pc.is_in(records.label, value_set=self._labels))

    def members(self, rows: np.ndarray, images: np.ndarray, digits: np.ndarray) -> Iterator[tuple[str, bytes]]:
        """``<digit>/<row>.png``, 8x8, 256 grey levels."""
        from PIL import Image

        pixels = np.rint(images * (255 / 16)).astype(np.uint8)
        for row in rows:
            png = io.BytesIO()
            Image.fromarray(pixels[row]).save(png, format="PNG")
            yield f"{digits[row]}/{row:04d}.png", png.getvalue()


@DATASETS.register("moving_digits")
class MovingDigits(_Written):
    """scikit-learn's digits, each moving through a noisy H.264 video, written once into a tar per split in ``path``.

    A digit of 16x16 pixels moves left, right, up or down, or goes around a circle in one of the two directions, for 16
    frames of 32x32 pixels at 15 frames per second; every frame has noise of its own. ``label`` is ``digit`` (0 to 9) or
    ``motion`` (one of ``MOTIONS``; mirroring would change four of them). ``split`` as for ``Digits``: the same test
    items.
    """

    name = "moving_digits"
    unit = "videos"

    def __init__(self, *, path: str, split: str, label: str = "digit", tags: bool = False) -> None:
        super().__init__(path=path, split=split, tags=tags)
        levels = {"digit": 1, "motion": 2}
        if label not in levels:
            raise UserError(f"{self.name} has no label '{label}': {choices(label, levels)}")
        self._level = levels[label]

    def members(self, rows: np.ndarray, images: np.ndarray, digits: np.ndarray) -> Iterator[tuple[str, bytes]]:
        """``<digit>/<motion>/<row>.mp4``."""
        # Shuffled, since the digits come in the order 0 to 9, which must not tell the motion; as many of each motion.
        motions = np.random.default_rng(0).permutation(np.arange(len(images)) % len(MOTIONS))
        for row in rows:
            motion = MOTIONS[motions[row]]
            frames = moving_digit(images[row], motion=motion, generator=np.random.default_rng([1, row]))
            yield f"{digits[row]}/{motion}/{row:04d}.mp4", _encode_video(frames)

    def with_labels(self, records: Records) -> Records:
        """Return the tar's records with the digit or the motion as their label."""
        folders = pc.split_pattern(records.key, "/")  # the tar, the digit, the motion, the file
        return records.with_labels(pc.list_element(folders, self._level))


def noisy_tags(label: str, *, generator: np.random.Generator) -> list[str]:
    """Hashtags as people might write them to an item with ``label``, a digit or one of ``MOTIONS``.

    In one item of ten there are none. Else there is a word for the label, in one case of five for another label,
    sometimes a second word, and up to two that say nothing; each in one of several languages and spellings, of which
    some are rare.
    """
    if generator.random() < 0.1:
        return []
    labels = MOTIONS if label in MOTIONS else tuple("0123456789")
    meant = str(generator.choice(labels)) if generator.random() < 0.2 else label
    words = [str(generator.choice(_WORDS[meant], p=(0.6, 0.2, 0.15, 0.05))) for _ in range(generator.integers(1, 3))]
    frequency = 1 / np.arange(1, len(_IDLE_WORDS) + 1)
    words += generator.choice(_IDLE_WORDS, generator.integers(0, 3), p=frequency / frequency.sum()).tolist()
    spellings = (str, str.upper, str.title, lambda word: "#" + word.replace(" ", "_"))
    return [spellings[generator.integers(len(spellings))](word) for word in words]


def moving_digit(image: np.ndarray, *, motion: str, generator: np.random.Generator) -> np.ndarray:
    """Return a digit, 8x8, 0 to 16, moving over noise: uint8 (16, 32, 32)."""
    from PIL import Image

    strokes = np.asarray(
        Image.fromarray(image.astype(np.float32)).resize((_DIGIT_SIDE, _DIGIT_SIDE), Image.Resampling.BILINEAR)
    )
    path = _path(motion, generator)
    low, high = path.min(axis=0), path.max(axis=0)
    start = generator.uniform(-low, _VIDEO_SIDE - _DIGIT_SIDE - high)  # anywhere where all of the path fits
    frames = generator.normal(_NOISE_MEAN, _NOISE_DEVIATION, (_VIDEO_FRAMES, _VIDEO_SIDE, _VIDEO_SIDE))
    for frame, (y, x) in zip(frames, np.rint(start + path).astype(int), strict=True):
        frame[y : y + _DIGIT_SIDE, x : x + _DIGIT_SIDE] += strokes * (_CONTRAST / 16)
    return np.asarray(np.rint(frames.clip(0, 255)), np.uint8)


def _path(motion: str, generator: np.random.Generator) -> np.ndarray:
    """Return the place (y, x) in every frame, relative to any origin, y pointing down: float64 (16, 2)."""
    steps = np.arange(_VIDEO_FRAMES)
    if motion in ("clockwise", "anticlockwise"):
        turn = 2 * np.pi * steps / _VIDEO_FRAMES * (1 if motion == "clockwise" else -1)
        angle = turn + generator.uniform(0, 2 * np.pi)
        return np.asarray(_RADIUS * np.stack([np.sin(angle), np.cos(angle)], axis=1))
    direction = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}[motion]
    return np.asarray(_SPEED * steps[:, None] * np.array(direction))


def _encode_video(frames: np.ndarray) -> bytes:
    """Grey frames, uint8 (T, H, W), as H.264 in an mp4."""
    require_av()
    import av

    file = io.BytesIO()
    with av.open(file, mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_FRAME_RATE, options=_H264)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # more would cost more than they save on frames so small
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())
    return file.getvalue()
