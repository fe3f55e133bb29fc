"""A network as a program of torch.export, which PyTorch runs without the code of the network."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bsssl.models.export.checking import check, leave, portable, workshop
from bsssl.models.export.pixels import FromPixels
from bsssl.models.trained import Example, TrainedNetwork
from bsssl.registry import EXPORTERS

Layout = Literal["nhwc", "nchw"]
"""the order of the axes of pixels: (B, H, W, 3) or (B, 3, H, W); of clips (B, T, H, W, 3) or (B, 3, T, H, W)"""


@dataclass(frozen=True)
class Form:
    """What the program of a network takes and gives."""

    model: TrainedNetwork
    plain: bool
    """whether it takes normalised floats (B, *input_shape) and gives logits, instead of pixels and probabilities"""
    layout: Layout
    """the order of the axes of pixels"""

    @property
    def input(self) -> str:
        """What the program calls its input."""
        return "input" if self.plain else "pixels"

    @property
    def output(self) -> str:
        """What the program calls its output."""
        return "logits" if self.plain else "probabilities"

    def facts(self) -> dict[str, str]:
        """Return what the program carries with it, JSON by name: the classes, and the preprocessing."""
        preprocessing = {
            "input": self.input,
            "output": self.output,
            **({} if self.plain else {"layout": self.layout}),
            "input_shape": self.model.input_shape,
            **dataclasses.asdict(self.model.preprocessing),
        }
        return {"classes": json.dumps(self.model.classes), "preprocessing": json.dumps(preprocessing)}

    def program(self) -> torch.export.ExportedProgram:
        """Return the program, for batches of any size and, unless it is plain, pictures of any size."""
        network, preprocessing = portable(self.model.network), self.model.preprocessing
        axes = {0: torch.export.Dim("batch")}
        if self.plain:
            batch = torch.zeros(2, *self.model.input_shape)
        else:
            network = FromPixels(network, preprocessing, channels_last=self.layout == "nhwc").eval()
            frames = () if preprocessing.frames is None else (preprocessing.frames,)
            sides = preprocessing.size + 5, preprocessing.size + 12  # like no other number of the network
            batch = self._laid_out(torch.zeros(2, *frames, *sides, 3, dtype=torch.uint8))
            height = batch.ndim - (3 if self.layout == "nhwc" else 2)
            axes |= {height: torch.export.Dim("height"), height + 1: torch.export.Dim("width")}
        with torch.no_grad():
            return torch.export.export(network, (batch,), dynamic_shapes=(axes,))

    def check(self, run: Callable[[Tensor], Tensor]) -> float:
        """Return the largest difference of the probabilities of what was exported, see ``check``.

        Args:
            run: Returns what was exported makes of a batch.
        """
        return check(self.model, self._batches(), lambda batch: run(batch).softmax(1) if self.plain else run(batch))

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield each example alone, and the last three times in a batch, as the network and as the program see them."""
        for example in self.model.examples:
            yield self._batch(example, 1)
        yield self._batch(example, 3)

    def _batch(self, example: Example, size: int) -> tuple[Tensor, Tensor]:
        inputs = torch.stack([example.input] * size)
        return inputs, inputs if self.plain else self._laid_out(torch.stack([example.pixels] * size))

    def _laid_out(self, pixels: Tensor) -> Tensor:
        return pixels if self.layout == "nhwc" else pixels.movedim(-1, 1).contiguous()


@EXPORTERS.register("torch-export")
def torch_export(model: TrainedNetwork, path: str, *, plain: bool = False, layout: Layout = "nhwc") -> float:
    """Write the network as a program of torch.export for the CPU, float32, from pixels to probabilities.

    ``torch.export.load(path, extra_files={"classes.json": "", "preprocessing.json": ""})`` gives it back, with the
    names of the classes, and with how pictures are seen. Batches are of any size, pictures of any one.

    Args:
        model: The network.
        path: The file to write, usually called ``*.pt2``.
        plain: Take normalised floats of a fixed size instead, and give logits.
        layout: The axes of the pixels, uint8: nhwc (clips: with frames before the height) or nchw (after the channels).

    Returns:
        The largest difference of the probabilities of examples from the network's.

    Raises:
        UserError: The network cannot be exported, or the program computes something else.
    """
    form = Form(model, plain, layout)
    with workshop(model, "torch-export") as folder:
        file = os.path.join(folder, "program.pt2")
        facts = {f"{name}.json": text for name, text in form.facts().items()}
        torch.export.save(form.program(), file, extra_files=facts)
        carried = dict.fromkeys(facts, "")
        program = torch.export.load(file, extra_files=carried).module()
        if carried != facts:
            raise ValueError("the program does not carry the names of the classes")
        difference = form.check(program)
        leave(file, path)
    return difference
