"""Where and how the forward and backward passes run."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bsssl.errors import UserError
from bsssl.runtime import distributed

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Compute:
    """Device, precision and memory format of a run."""

    device: torch.device
    precision: str = "float32"
    channels_last: bool = False
    compile: bool = False

    def autocast(self) -> torch.autocast:
        """Return the context of a forward pass."""
        enabled = self.precision != "float32"
        return torch.autocast(self.device.type, dtype=DTYPES[self.precision] if enabled else None, enabled=enabled)

    def place(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` (B, C, H, W or B, C, T, H, W) on the device, in the memory format asked for."""
        moved = tensor.to(self.device, non_blocking=True)
        memory_format = CHANNELS_LAST[moved.ndim] if self.channels_last else torch.contiguous_format
        return moved.contiguous(memory_format=memory_format)

    def place_model(self, model: nn.Module) -> nn.Module:
        """Return ``model`` on the device, in the memory format asked for."""
        model = model.to(self.device)
        if self.channels_last:
            spared = _spared(model) if self.device.type == "cpu" else []
            for module in spared:
                module.register_forward_pre_hook(_contiguous)
            weights = {module.weight for module in spared}
            for parameter in model.parameters():
                if parameter.ndim in CHANNELS_LAST and parameter not in weights:  # that of a 2-D or a 3-D convolution
                    parameter.data = parameter.data.contiguous(memory_format=CHANNELS_LAST[parameter.ndim])
        return model


def _spared(model: nn.Module) -> list[nn.Conv2d | nn.Conv3d]:
    """Return the convolutions that a CPU must not be given with channels last.

    The gradient of the weights of a strided 1x1 convolution with few input channels is written past its memory, which
    ends the process or goes unseen: https://github.com/uxlfoundation/oneDNN/issues/6035, in PyTorch 2.14 and others.
    """
    found = (module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    return [
        module
        for module in found
        if max(module.kernel_size) == 1 and max(module.stride) > 1 and module.in_channels < 16 * module.groups
    ]


def _contiguous(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in inputs)


def check_device(device: str) -> None:
    """Refuse a device that is not there.

    Raises:
        UserError: A GPU is asked for and there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "system.device is cuda, but no GPU is usable; set system.device=cpu or auto, or check the driver"
        )


def make_compute(
    *, device: str, precision: str, channels_last: bool, compile: bool, threads: int | None, workers: int
) -> Compute:
    """Return where and how to compute, and set how many CPU threads torch takes.

    Args:
        device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
        precision: A name in ``DTYPES``.
        channels_last: Whether the channels of images lie last in memory.
        compile: Whether the network is compiled with torch.compile.
        threads: CPU threads of this process; None for torch's own choice, on a CPU less those that the workers need.
        workers: Processes that load data for this one.

    Raises:
        UserError: A GPU is asked for and there is none.
    """
    check_device(device)
    on_gpu = torch.cuda.is_available() and device != "cpu"
    torch.set_num_threads(threads or _free_threads(on_gpu=on_gpu, workers=workers))
    place = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    return Compute(device=place, precision=precision, channels_last=channels_last, compile=compile)


@contextlib.contextmanager
def torch_as_it_was(device: str) -> Iterator[None]:
    """Give torch its number of threads and its random state back afterwards; ``device``: where there is work."""
    gpus = [torch.cuda.current_device()] if device != "cpu" and torch.cuda.is_available() else []
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=gpus):
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _free_threads(*, on_gpu: bool, workers: int) -> int:
    """Return the threads that torch would take, but on a CPU not the cores that the loader's processes need.

    Torch's threads wait for each other busily: one that has to share its core makes a step many times longer.
    """
    all_threads = torch.get_num_threads()
    return all_threads if on_gpu else max(1, min(all_threads, distributed.own_cores() - workers))
