"""A network as a program of torch.export, which PyTorch runs without the code of the network."""

import copy
import io
import json

import torch
from torch import Tensor, nn

from bsssl import storage
from bsssl.errors import UserError
from bsssl.models.trained import TrainedNetwork
from bsssl.registry import EXPORTERS

CLASSES, PREPROCESSING = "classes.json", "preprocessing.json"
"""The extra files of a program."""


@EXPORTERS.register("torch-export")
def torch_export(model: TrainedNetwork, path: str) -> None:
    """Write the network as a program of torch.export for the CPU, float32, and batches of any size.

    ``torch.export.load(path, extra_files={"classes.json": "", "preprocessing.json": ""})`` gives it back, with the
    names of the classes, and with the shape of an input, the mean and the standard deviation. The program is loaded and
    its logits are compared with the network's before it is written.

    Args:
        model: The network.
        path: The file to write, usually called ``*.pt2``.

    Raises:
        UserError: The network cannot be exported, or the program computes something else.
    """
    network = copy.deepcopy(model.network).cpu().float().eval()
    network.to(memory_format=torch.contiguous_format)  # of weights that are not, torch warns as of a danger
    preprocessing = {"input_shape": model.input_shape, "mean": model.mean, "std": model.std}
    extra_files = {CLASSES: json.dumps(model.classes), PREPROCESSING: json.dumps(preprocessing)}
    file = io.BytesIO()
    try:
        with torch.no_grad():
            dynamic = ({0: torch.export.Dim("batch")},)
            program = torch.export.export(network, (_batch(model, 2),), dynamic_shapes=dynamic)
            torch.export.save(program, file, extra_files=extra_files)
            file.seek(0)
            _compare(torch.export.load(file).module(), network, _batch(model, 3))
    except Exception as error:  # tracing runs any code of the network, and has exceptions of its own
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"model '{model.name}' cannot be exported by torch-export ({reason}); choose another exporter or network"
        ) from None
    with storage.atomic_write(path) as target:
        target.write(file.getbuffer())


def _batch(model: TrainedNetwork, size: int) -> Tensor:
    return torch.randn(size, *model.input_shape, generator=torch.Generator().manual_seed(size))


def _compare(program: nn.Module, network: nn.Module, batch: Tensor) -> None:
    """Refuse a ``program`` whose logits of ``batch`` are not those of ``network``."""
    difference = float((program(batch) - network(batch)).abs().max())
    if not difference <= 1e-4:
        raise ValueError(f"the program's logits differ from the network's by {difference:.2g}")
