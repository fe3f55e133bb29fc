import io
import os

import numpy as np
import pytest

from bsssl.data.datasets import generated
from bsssl.data.datasets.generated import MOTIONS, Digits, MovingDigits, moving_digit
from bsssl.data.decoding.pictures import decode_image
from bsssl.data.hashtags.tags import normalize
from bsssl.errors import UserError
from bsssl.registry import DATASETS


def _rows(records):
    return [key.rsplit("/")[-1].split(".")[0] for key in records.key.to_pylist()]


def test_registered():
    assert DATASETS.get("digits") is Digits and DATASETS.get("moving_digits") is MovingDigits


def test_digits(tmp_path):
    train = Digits(path=str(tmp_path), split="train").records()
    stamp = os.stat(tmp_path / "digits-train.tar").st_mtime_ns
    test = Digits(path=str(tmp_path), split="test").records()
    Digits(path=str(tmp_path), split="train").records()
    assert os.stat(tmp_path / "digits-train.tar").st_mtime_ns == stamp
    assert (len(train), len(test)) == (1297, 500)
    assert train.class_names() == test.class_names() == list("0123456789")
    assert np.unique(test.label.to_numpy(), return_counts=True)[1].min() >= 48
    assert len(set(_rows(train) + _rows(test))) == 1797
    image = decode_image(train[0].read())
    assert image.shape == (3, 8, 8) and image.max() == 239  # 15 of 16 grey levels
    Digits(path=str(tmp_path / "again"), split="test").records()
    assert (tmp_path / "again/digits-test.tar").read_bytes() == (tmp_path / "digits-test.tar").read_bytes()
    some = Digits(path=str(tmp_path), split="train", classes=[7, 3]).records()
    assert some == train.filter([label in "37" for label in train.label.to_pylist()])
    with pytest.raises(UserError, match="digits has no split 'val'; valid: test, train"):
        Digits(path=str(tmp_path), split="val")


def test_tags_of_digits(tmp_path):
    plain = Digits(path=str(tmp_path), split="train").records()
    tagged = Digits(path=str(tmp_path), split="train", tags=True).records()
    assert plain.tags.null_count == len(plain) and tagged.with_tags([None] * len(tagged)) == plain
    assert tagged == Digits(path=str(tmp_path), split="train", tags=True).records()
    tags = [[normalize(tag) for tag in row] for row in tagged.tags.to_pylist()]
    assert sum(not row for row in tags) / len(tags) == pytest.approx(0.1, abs=0.03)
    sevens = [row for row, label in zip(tags, tagged.label.to_pylist(), strict=True) if label == "7" and row]
    named = [bool({"seven", "sieben", "siete", "sevens"} & set(row)) for row in sevens]
    assert np.mean(named) == pytest.approx(0.82, abs=0.1)  # 0.8, and one in ten of the wrong ones by chance


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """The folder that the test split was written to."""
    folder = tmp_path_factory.mktemp("moving")
    MovingDigits(path=str(folder), split="test").records()
    return folder


def test_moving_digits(moving, tmp_path):
    assert os.listdir(moving) == ["moving_digits-test.tar"]
    stamp = os.stat(moving / "moving_digits-test.tar").st_mtime_ns
    by_digit = MovingDigits(path=str(moving), split="test").records()
    by_motion = MovingDigits(path=str(moving), split="test", label="motion").records()
    assert os.stat(moving / "moving_digits-test.tar").st_mtime_ns == stamp
    assert len(by_digit) == 500
    assert by_digit.with_labels(by_motion.label) == by_motion
    assert by_digit.class_names() == list("0123456789") and by_motion.class_names() == sorted(MOTIONS)
    assert np.unique(by_motion.label.to_numpy(), return_counts=True)[1].min() >= 65
    still = Digits(path=str(tmp_path), split="test").records()
    assert _rows(by_digit) == _rows(still) and by_digit.label == still.label


def test_motion_does_not_tell_the_digit(moving):
    digits, motions = (
        MovingDigits(path=str(moving), split="test", label=label).records().label.to_numpy()
        for label in ("digit", "motion")
    )
    together = np.array([[np.sum((digits == d) & (motions == m)) for m in MOTIONS] for d in "0123456789"])
    assert together.min() >= 2 and together.max() <= 18


def test_moving_digits_as_videos(moving):
    import av

    record = MovingDigits(path=str(moving), split="test").records()[7]
    with av.open(io.BytesIO(record.read())) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.frames, float(stream.average_rate)) == (16, 15.0)
        decoded = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(stream)])
    tar, _digit, motion, name = record.key.split("/")
    row = int(name.removesuffix(".mp4"))
    from sklearn.datasets import load_digits

    drawn = moving_digit(load_digits().images[row], motion=motion, generator=np.random.default_rng([1, row]))
    assert tar == "moving_digits-test.tar" and decoded.shape == drawn.shape == (16, 32, 32)
    assert np.abs(decoded.astype(float) - drawn).mean() < 8  # the noise itself outlives the compression


def test_content_is_always_the_same():
    image = np.full((8, 8), 16.0)
    one, same, other = (
        moving_digit(image, motion="up", generator=np.random.default_rng(seed)) for seed in ([1, 5], [1, 5], [1, 6])
    )
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert generated._encode_video(one) == generated._encode_video(same)


@pytest.mark.parametrize("motion", MOTIONS)
def test_motions(motion, monkeypatch):
    monkeypatch.setattr(generated, "_NOISE_DEVIATION", 0.0)
    for seed in range(20):
        frames = moving_digit(np.full((8, 8), 16.0), motion=motion, generator=np.random.default_rng(seed))
        lit = frames > 100
        assert (lit.sum(axis=(1, 2)) == 16 * 16).all()  # never over the edge
        centres = np.array([np.argwhere(frame).mean(axis=0) for frame in lit])
        y, x = (centres[-1] - centres[0]).round()
        if motion in ("clockwise", "anticlockwise"):
            steps = np.diff(centres, axis=0)
            turn = np.sum(steps[:-1, 1] * steps[1:, 0] - steps[:-1, 0] * steps[1:, 1])  # y points down
            assert (turn > 0) == (motion == "clockwise") and abs(y) + abs(x) <= 4
        else:
            along = {"left": -x, "right": x, "up": -y, "down": y}[motion]
            assert along in (11, 12) and abs(x) + abs(y) == along


def test_moving_digits_refused(tmp_path):
    with pytest.raises(UserError, match="moving_digits has no split 'val'; valid: test, train"):
        MovingDigits(path=str(tmp_path), split="val")
    with pytest.raises(UserError, match="moving_digits has no label 'motions': did you mean 'motion'"):
        MovingDigits(path=str(tmp_path), split="test", label="motions")
