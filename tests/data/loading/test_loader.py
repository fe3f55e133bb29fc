import itertools
import multiprocessing
import re
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bsssl.config import plugins
from bsssl.data.datasets.sources import Folder
from bsssl.data.decoding import plugins as plugins_of_pictures
from bsssl.data.loading import loader as loader_module
from bsssl.data.loading.dataset import Failure, ItemDataset
from bsssl.data.loading.loader import EvalBatches, TrainBatches, make_loader, permutation
from bsssl.data.records import Records
from bsssl.data.views.transforms import test_transform as make_test_transform
from bsssl.data.views.transforms import train_transform
from bsssl.data.views.views import ClipViews, ImageViews
from bsssl.errors import UserError
from bsssl.registry import VIDEO_READERS
from bsssl.storage.retries import Unreachable
from tests import processes


def test_every_epoch_has_every_row_once():
    drawn = list(itertools.chain(*TrainBatches(10, batch_size=4, num_batches=10, seed=1)))
    assert [draw for _, draw in drawn] == list(range(40))
    rows = [row for row, _ in drawn]
    for epoch in range(4):
        assert sorted(rows[10 * epoch : 10 * epoch + 10]) == list(range(10))
    assert rows[:10] != rows[10:20]


def test_resumes_anywhere():
    whole = list(TrainBatches(7, batch_size=6, num_batches=20, seed=3))
    for start in (0, 1, 5, 13, 20):
        rest = TrainBatches(7, batch_size=6, num_batches=20, start=start, seed=3)
        assert list(rest) == whole[start:] and len(rest) == 20 - start


def test_ranks_share_each_batch():
    whole = list(TrainBatches(11, batch_size=8, num_batches=5, seed=2))
    parts = [list(TrainBatches(11, batch_size=8, num_batches=5, seed=2, rank=rank, world_size=4)) for rank in range(4)]
    for batch, shares in zip(whole, zip(*parts, strict=True), strict=True):
        assert batch == list(itertools.chain(*shares)) and {len(share) for share in shares} == {2}


def test_endless():
    batches = TrainBatches(3, batch_size=5)
    assert len(list(itertools.islice(batches, 100))) == 100
    with pytest.raises(TypeError):
        len(batches)


def test_seeds_differ():
    assert list(TrainBatches(50, batch_size=50, num_batches=1, seed=0)) != list(
        TrainBatches(50, batch_size=50, num_batches=1, seed=1)
    )
    assert permutation(1000, seed=0, epoch=0).dtype == np.uint32


def test_weighted_rows_come_as_often_as_their_share():
    weights = np.array([1, 2, 0.5, 4, 0.25, 1], np.float32)
    shares = 6 * weights / weights.sum()
    counts = np.array([np.bincount(permutation(6, seed=0, epoch=n, weights=weights), minlength=6) for n in range(4000)])
    assert np.all(counts.sum(axis=1) == 6)  # an epoch is as long as without
    assert np.all(counts >= np.floor(shares)) and np.all(counts <= np.ceil(shares))
    assert counts.mean(axis=0) == pytest.approx(shares, abs=0.03)
    # Rows of equal weights do not take turns, wherever they lie.
    halves = np.array(
        [permutation(8, seed=0, epoch=n, weights=np.array([1, 1, 1, 1, 0.01, 0.01, 0.01, 0.01])) for n in range(9)]
    )
    assert len({tuple(row) for row in halves.tolist()}) == 9


def test_weighted_rows_resume_anywhere_and_are_shared():
    weights = np.arange(1, 8)
    whole = list(TrainBatches(7, batch_size=6, num_batches=20, seed=3, weights=weights))
    assert list(TrainBatches(7, batch_size=6, num_batches=20, start=5, seed=3, weights=weights)) == whole[5:]
    alike = TrainBatches(7, batch_size=7, num_batches=1, weights=np.ones(7))
    assert sorted(row for row, _ in next(iter(alike))) == list(range(7))


def test_refused():
    with pytest.raises(UserError, match="training set is empty"):
        TrainBatches(0, batch_size=4)
    with pytest.raises(UserError, match="batch of 6 samples does not divide evenly over 4 processes"):
        TrainBatches(10, batch_size=6, world_size=4)


def test_eval_batches():
    assert list(EvalBatches(7, batch_size=3)) == [[0, 1, 2], [3, 4, 5], [6]]
    parts = [list(EvalBatches(7, batch_size=2, rank=rank, world_size=2)) for rank in range(2)]
    assert parts == [[[0, 1], [4, 5]], [[2, 3], [6]]]
    assert len(EvalBatches(7, batch_size=2, rank=1, world_size=2)) == 2
    assert list(EvalBatches(0, batch_size=2)) == []


@pytest.mark.parametrize(("workers", "context"), [(2, "fork"), (1, "spawn")])
def test_workers_change_nothing(picture_folder, workers, context):
    missing = Records.from_columns(key=["gone"], path=[str(picture_folder / "gone.jpg")])
    records = Records.concat([Folder(path=str(picture_folder)).records(), missing])
    dataset = ItemDataset(
        records, targets=np.arange(16), views=ImageViews(train_transform(size=16)), seed=5, hash_content=True
    )

    def load(**options):
        batches = TrainBatches(len(dataset), batch_size=6, num_batches=8, start=2, seed=4)
        return list(make_loader(dataset, batches, **options))

    alone, together = load(workers=0), load(workers=workers, context=context)
    assert len(alone) == len(together) == 6
    for one, other in zip(alone, together, strict=True):
        assert one["hash"] == other["hash"] and one["failures"] == other["failures"]
        for name in ("input", "target", "index", "view"):
            assert torch.equal(one[name], other[name])
    assert sum(len(batch["failures"]) for batch in alone) >= 2


@pytest.mark.parametrize("workers", [0, 1])
def test_remote_files(picture_folder, memory, workers):
    local = Folder(path=str(picture_folder)).records()
    for key, path in zip(local.key.to_pylist(), local.path.to_pylist(), strict=True):
        with open(path, "rb") as file:
            memory.pipe(f"/pictures/{key}", file.read())
    remote = Folder(path="memory://pictures").records()
    assert remote.key == local.key
    remote = Records.concat([remote, Records.from_columns(key=["gone"], path=["memory://pictures/gone.jpg"])])

    def load(records, context=None):
        dataset = ItemDataset(records, views=ImageViews(train_transform(size=16)))
        batches = TrainBatches(15, batch_size=6, num_batches=5)
        return list(make_loader(dataset, batches, workers=workers, context=context))

    for one, other in zip(load(local), load(remote, context="fork" if workers else None), strict=True):
        assert torch.equal(one["input"], other["input"]) and torch.equal(one["index"], other["index"])
    failing = ItemDataset(remote, views=ImageViews(train_transform(size=16))).__getitems__([14, 15])
    assert failing[0][0]["index"] == 14 and "gone.jpg" in failing[1][0].reason


LEFT_BEHIND = []


def load_and_leave(context: str) -> None:
    items = [[Failure(row, "cut short")] for row in range(100)]
    LEFT_BEHIND.append(iter(make_loader(items, EvalBatches(100, batch_size=1), workers=1, context=context)))
    next(LEFT_BEHIND[0])  # from here on, the process is at work and deaf to SIGTERM


def end_while_loading(context: str) -> None:
    load_and_leave(context)
    raise SystemExit(3)


@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_a_program_ends_though_a_loader_is_left_behind(tmp_path, context):
    process = processes.start(end_while_loading, context, folder=tmp_path)
    process.join(processes.PATIENCE)
    ended = process.exitcode
    process.kill()
    assert ended == 3


def wait_while_loading(context: str) -> None:
    load_and_leave(context)
    Path("worker").write_text(str(multiprocessing.active_children()[0].pid))
    Path("worker").rename("at_work")
    time.sleep(processes.PATIENCE)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_no_worker_outlives_a_program_that_is_killed(tmp_path, context):
    process = processes.start(wait_while_loading, context, folder=tmp_path)
    processes.wait_until((tmp_path / "at_work").exists)
    worker = Path("/proc", (tmp_path / "at_work").read_text())
    process.kill()
    process.join()
    processes.wait_until(lambda: not worker.exists() or (worker / "cmdline").read_bytes() == b"")  # gone, or a zombie


def has_taken(pid: int, number: signal.Signals) -> bool:
    """Whether a signal that was sent to a process does not wait to be dealt with any more."""
    status = Path(f"/proc/{pid}/status").read_text()
    return not int(re.search(r"ShdPnd:\t(\w+)", status)[1], 16) >> (number - 1) & 1


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="Slurm is for Linux")
def test_a_worker_heeds_its_parents_signals_alone():
    item = {"input": torch.zeros(1), "target": 0, "index": 0, "view": 0}
    loader = DataLoader([item] * 1000, batch_size=1, num_workers=1, worker_init_fn=partial(loader_module._begin, ()))
    stream = iter(loader)
    next(stream)
    [worker] = stream._workers
    # When it takes a signal it has dealt with the one before.
    for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
        subprocess.run(
            ["kill", f"-{number.value}", str(worker.pid)], check=True
        )  # from a process that is not its parent
        processes.wait_until(lambda number=number: not worker.is_alive() or has_taken(worker.pid, number))
    for _ in range(20):  # more than there were before the signals
        next(stream)
    assert worker.is_alive()
    worker.terminate()
    worker.join(processes.PATIENCE)
    assert worker.exitcode == 0


class Broken(Dataset):
    """Raises what it holds."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, item):
        raise self.error


class Odd(Exception):
    """Cannot be made of a text alone."""

    def __init__(self, name, number):
        super().__init__(f"{name}: {number}")

    def __reduce__(self):
        return Odd, ("odd", 3)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (UserError("damaged: fetch it\nand mend it"), UserError, "damaged: fetch it\nand mend it"),
        (Unreachable("cannot read s3://x"), Unreachable, "cannot read s3://x"),
        (ValueError("no such codec: ValueError: X"), ValueError, "no such codec: ValueError: X"),
        (RuntimeError(), RuntimeError, ""),
        (Odd("odd", 3), (Odd, RuntimeError), "odd: 3"),
    ],
)
def test_errors_of_workers_are_those_of_their_cause(workers, error, kind, message):
    with pytest.raises(kind) as caught:
        list(make_loader(Broken(error), EvalBatches(1, batch_size=1), workers=workers))
    assert str(caught.value).removeprefix("Odd: ") == message


PLUGIN = """
import numpy as np
from bsssl.registry import VIDEO_READERS

@VIDEO_READERS.register("still")
class Still:
    num_frames = 5

    def __init__(self, source, *, deadline, max_pixels, level=0):
        if level > 255:
            raise ValueError(f"no such level: {level}")
        self.level = level

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def get(self, indices, each=None):
        pictures = np.full((len(indices), 4, 4, 3), self.level, np.uint8)
        return pictures if each is None else each(pictures)
"""


def test_spawned_workers_know_the_parts_of_plugins(tmp_path, monkeypatch):
    (tmp_path / "still_reader.py").write_text(PLUGIN)
    (tmp_path / "a.mp4").write_bytes(b"film")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(VIDEO_READERS, "_parts", dict(VIDEO_READERS._parts))
    monkeypatch.setattr(plugins, "_loaded", [])
    plugins.load_plugins(["still_reader"])

    def load(level):
        views = ClipViews(
            make_test_transform(size=4), frames=2, stride=1, count=1, reader="still", reader_options={"level": level}
        )
        dataset = ItemDataset(Records.from_columns(key=["a"], path=[str(tmp_path / "a.mp4")]), views=views)
        return list(make_loader(dataset, EvalBatches(1, batch_size=1), workers=1, context="spawn"))

    assert load(level=9)[0]["input"].unique().tolist() == [9]
    with pytest.raises(ValueError, match=r"^no such level: 300$"):
        load(level=300)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_the_pictures_that_take_packages(tmp_path, context):
    plugins_of_pictures.register_heif()
    plugins_of_pictures.register_jxl()
    for number, ending in enumerate(("heic", "jxl", "avif", "jp2")):
        Image.new("RGB", (16, 16), (number, 0, 200)).save(tmp_path / f"{number}.{ending}")
    dataset = ItemDataset(Folder(path=str(tmp_path)).records(), views=ImageViews(make_test_transform(size=8)))
    [batch] = make_loader(dataset, EvalBatches(4, batch_size=4), workers=1, context=context)
    assert batch["index"].tolist() == [0, 1, 2, 3] and not batch["failures"]
    assert (batch["input"].float().mean((2, 3))[:, 2] - 200).abs().max() < 4
