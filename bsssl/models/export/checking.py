"""What an exporter does around its own work: check what it has made, and only then leave it."""

import contextlib
import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from bsssl import storage
from bsssl.errors import UserError
from bsssl.models.trained import TrainedNetwork

TOLERANCE = 1e-3
"""the largest difference of a probability. Where torchvision resizes bytes as bytes (AVX2, 64-bit ARM) it is about
1e-6; elsewhere bilinear resizing gives other bytes, by 1 in a tenth of the pixels, and probabilities that differ by up
to 2e-2: there only a plain export, of the network without the resizing, can be checked"""
ANY = ("hub-folder", "onnx", "torch-export")
"""the exporters that take any network"""


@contextlib.contextmanager
def workshop(model: TrainedNetwork, exporter: str) -> Iterator[str]:
    """Yield a folder that exists as long as the context; whatever goes wrong there becomes a UserError of one line.

    Args:
        model: What is exported.
        exporter: The name of the exporter.
    """
    with tempfile.TemporaryDirectory(prefix="bsssl-") as folder:
        try:
            yield folder
        except UserError:
            raise
        except Exception as error:  # the libraries run any code of the network, and have exceptions of their own
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"model '{model.name}' cannot be exported by {exporter} ({reason}); choose another exporter or network"
            ) from None


def leave(file: str, path: str) -> None:
    """Copy a ``file`` that has been checked to ``path``, local or remote, complete or not at all."""
    with open(file, "rb") as source, storage.atomic_write(path) as target:
        shutil.copyfileobj(source, target)


def leave_folder(folder: str, path: str) -> None:
    """Copy the files of a ``folder`` that has been checked to the folder ``path``, local or remote."""
    for name in sorted(os.listdir(folder)):
        leave(os.path.join(folder, name), storage.join(path, name))


def portable(network: nn.Module) -> nn.Module:
    """Return a copy of the ``network`` for the CPU, float32, in eval mode."""
    copied = copy.deepcopy(network).cpu().float().eval()
    return copied.to(memory_format=torch.contiguous_format)  # of weights that are not, torch warns as of a danger


def check_network(model: TrainedNetwork, loaded: nn.Module) -> float:
    """Return the largest difference between the probabilities of the model and those of a network that was ``loaded``.

    Raises:
        ValueError: The difference is above the tolerance.
    """
    inputs = ((example.input[None], example.input[None]) for example in model.examples)
    return check(model, inputs, lambda batch: loaded.eval()(batch).softmax(1))


def check(
    model: TrainedNetwork, batches: Iterable[tuple[Tensor, Tensor]], exported: Callable[[Tensor], Tensor]
) -> float:
    """Return the largest difference between the probabilities of the model and those of what was ``exported``.

    Args:
        model: The model.
        batches: For each batch the normalised inputs of the network, and what ``exported`` is given.
        exported: Returns the probabilities (B, number of classes).

    Raises:
        ValueError: The difference is above the tolerance, or the shape is another.
    """
    network, largest = portable(model.network), 0.0
    with torch.inference_mode():
        for inputs, given in batches:
            outcome, expected = exported(given), network(inputs).softmax(1)
            if outcome.shape != expected.shape:
                raise ValueError(
                    f"it gives {[*outcome.shape]} for a batch of which the network gives {[*expected.shape]}"
                )
            difference = float((outcome - expected).abs().max())
            if not difference <= TOLERANCE:
                raise ValueError(f"its probabilities differ from the network's by {difference:.2g}")
            largest = max(largest, difference)
    return largest
