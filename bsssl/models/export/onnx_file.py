"""A network as an ONNX file, which ONNX Runtime and many other programs run."""

import os
import warnings
from typing import Any

import torch

from bsssl.errors import UserError
from bsssl.models.export.checking import leave, workshop
from bsssl.models.export.program import Form, Layout
from bsssl.models.trained import TrainedNetwork
from bsssl.registry import EXPORTERS


@EXPORTERS.register("onnx")
def onnx(model: TrainedNetwork, path: str, *, plain: bool = False, layout: Layout = "nhwc") -> float:
    """Write the network as an ONNX file, float32, from pixels to probabilities.

    The input is called ``pixels`` and the output ``probabilities``; of a plain one ``input`` and ``logits``. The
    metadata ``classes`` and ``preprocessing``, JSON, say the names of the classes and how pictures are seen. Batches
    are of any size, pictures of any one.

    Args:
        model: The network.
        path: The file to write, usually called ``*.onnx``.
        plain: Take normalised floats of a fixed size instead, and give logits.
        layout: The axes of the pixels, uint8: nhwc (clips: with frames before the height) or nchw (after the channels).

    Returns:
        The largest difference of the probabilities of examples from the network's, as ONNX Runtime computes them.

    Raises:
        UserError: A package is missing, the network cannot be exported, or the file computes something else.
    """
    runtime = _runtime()
    form = Form(model, plain, layout)
    with workshop(model, "onnx") as folder:
        file = os.path.join(folder, "network.onnx")
        _write(form, file)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a few examples need no pool of threads
        session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        if session.get_modelmeta().custom_metadata_map != form.facts():
            raise ValueError("the file does not carry the names of the classes")
        difference = form.check(lambda batch: torch.from_numpy(session.run(None, {form.input: batch.numpy()})[0]))
        leave(file, path)
    return difference


def _runtime() -> Any:
    """Return the module ``onnxruntime``.

    Raises:
        UserError: It, or what torch writes ONNX with, is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"ONNX needs the package {error.name}: pip install 'bsssl[onnx]'") from None
    return onnxruntime


def _write(form: Form, file: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of versions of operators, and of what onnxscript means to change
        program = torch.onnx.export(
            form.program(), dynamo=True, verbose=False, input_names=[form.input], output_names=[form.output]
        )
    assert program is not None
    program.model.metadata_props.update(form.facts())
    program.save(file, external_data=False)
