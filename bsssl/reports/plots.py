"""The one way to draw a picture."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

from bsssl import storage


@contextlib.contextmanager
def picture(path: str, *, size: tuple[float, float], columns: int = 1) -> Iterator[Any]:
    """Give Matplotlib's axes to draw on, then write the picture to ``path`` as PNG, complete or not at all.

    Args:
        path: The file to write.
        size: Width and height in inches, at 120 dots each.
        columns: The number of axes beside each other; several come as an array.
    """
    from matplotlib.figure import Figure  # not pyplot, whose figures and backend belong to the user's own program

    figure = Figure(figsize=size, layout="constrained")
    yield figure.subplots(1, columns)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    with storage.atomic_write(path) as file:
        file.write(drawn.getbuffer())
