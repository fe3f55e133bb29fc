import subprocess
import sys

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


GRADIENTS = """
import torch
from bsssl.models import build_model
from bsssl.runtime.device import Compute

found = []
for channels_last in (True, False):
    torch.manual_seed(0)
    compute = Compute(torch.device("cpu"), channels_last=channels_last)
    network = compute.place_model(build_model("small_resnet", num_classes=4, width=8, blocks=[1, 1, 1]))
    inputs = compute.place(torch.randn(16, 3, 64, 64))
    for _ in range(3):
        network(inputs).square().mean().backward()
    found.append([parameter.grad for parameter in network.parameters()])
print(all(torch.allclose(one, other, rtol=1e-2, atol=1e-3) for one, other in zip(*found)))
"""


def test_narrow_strided_convolutions_on_a_cpu():
    """In a process of its own, which the fault of oneDNN ends."""
    done = subprocess.run([sys.executable, "-c", GRADIENTS], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
