import pytest
import torch
from torch import nn
from torch.nn import functional

from bsssl.data import Normalize
from bsssl.engine.live import LiveTeacher, MeanOf

STUDENT, TEACHER = ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), ((0.1, 0.2, 0.6), (0.5, 0.25, 0.1))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 4, 8, 8)])
def test_the_teacher_sees_the_students_inputs_with_its_own_eyes(shape):
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    network = nn.Sequential(nn.Flatten(), nn.LazyLinear(5))
    frames = pixels.float().movedim(1, -3).reshape(-1, 3, 8, 8)
    larger = functional.interpolate(frames, size=(12, 12), mode="bicubic", antialias=True)
    larger = larger.reshape(2, -1, 3, 12, 12).movedim(1, 2) if len(shape) == 5 else larger
    expected = network(Normalize(mean=TEACHER[0], std=TEACHER[1])(larger)).div(2.0).softmax(1)
    live = LiveTeacher(network, size=12, interpolation="bicubic", student=STUDENT, teacher=TEACHER, temperature=2.0)
    said = live(Normalize(mean=STUDENT[0], std=STUDENT[1])(pixels))
    torch.testing.assert_close(said, expected.detach(), atol=1e-4, rtol=1e-3)
    assert not said.requires_grad and not any(one.requires_grad for one in network.parameters())
    torch.testing.assert_close(MeanOf([live, live])(Normalize(mean=STUDENT[0], std=STUDENT[1])(pixels)), said)
