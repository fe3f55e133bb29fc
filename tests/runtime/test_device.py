import pytest
import torch
from torch import nn

from bsssl.errors import UserError
from bsssl.runtime import distributed
from bsssl.runtime.device import make_compute

SETTINGS = {"device": "cpu", "precision": "float32", "channels_last": False, "compile": False}


@pytest.fixture(autouse=True)
def threads():
    """As many threads as a process has at first, whatever the machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(6)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("given", "cores", "workers", "expected"),
    [(3, 8, 7, 3), (None, 8, 0, 6), (None, 8, 2, 6), (None, 8, 5, 3), (None, 8, 12, 1), (None, 4, 0, 4)],
)
def test_threads_leave_the_workers_their_cores(monkeypatch, given, cores, workers, expected):
    monkeypatch.setattr(distributed, "own_cores", lambda: cores)
    compute = make_compute(**SETTINGS, threads=given, workers=workers)
    assert torch.get_num_threads() == expected and compute.device == torch.device("cpu")


def test_a_gpu_is_taken_where_there_is_one_and_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    for name, expected in (("auto", "cuda:1"), ("cuda", "cuda:1"), ("cpu", "cpu")):
        compute = make_compute(**{**SETTINGS, "device": name}, threads=None, workers=100)
        assert str(compute.device) == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(make_compute(**{**SETTINGS, "device": "auto"}, threads=1, workers=0).device) == "cpu"
    with pytest.raises(UserError, match="device is cuda, but no GPU is usable"):
        make_compute(**{**SETTINGS, "device": "cuda"}, threads=1, workers=0)


def test_memory_formats():
    last = make_compute(**{**SETTINGS, "channels_last": True}, threads=1, workers=0)
    clips = last.place(torch.rand(2, 3, 4, 5, 6))
    assert clips.is_contiguous(memory_format=torch.channels_last_3d)
    layer = last.place_model(nn.Conv2d(3, 4, 3))
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    first = make_compute(**SETTINGS, threads=1, workers=0)
    assert first.place(torch.rand(2, 5, 6, 3).movedim(-1, 1)).is_contiguous()
