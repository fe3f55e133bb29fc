"""A first config for data of one's own, and what was seen of the data, as text: ``bsssl init``."""

import os
import shlex
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING

from bsssl import storage
from bsssl.config import bundled_configs, load_config
from bsssl.config.bundled import PROJECTS
from bsssl.errors import UserError, shortened
from bsssl.reports.tables import Table
from bsssl.runtime.console import printable

if TYPE_CHECKING:
    from bsssl.recipes.own.choosing import Device
    from bsssl.recipes.own.looking import Findings, Items

_CLASSES = 12
"""how many classes are listed"""
_UNREADABLE = 3
"""how many of the items of each source that cannot be read are listed"""


def list_configs() -> str:
    """Return the names of the configs that come with the package, and what each is for."""
    notes = [f"bsssl run NAME key=value ...; the files, which open with their commands, are in {PROJECTS}"]
    return Table(["name", ""], [*bundled_configs().items()], ["", *notes]).text()


def first_config(train: str, *, pool: Sequence[str], test: str | None, to: str, frames: float | None = None) -> str:
    """Look at data, write a config for it, and return what was seen and what to do next.

    Args:
        train: Labeled items: a folder with a folder per class, a table of files, or tars.
        pool: Where there are items without a label, likewise.
        test: Labeled items for the test; None has some set aside.
        to: The file to write.
        frames: The rate of the videos whose frames the pictures in each folder are; None where they are none.

    Raises:
        UserError: The file is there already, or no recipe can be made of the data.
    """
    if not to.endswith((".yaml", ".yml")):
        raise UserError(f"a config is a YAML file, and {to} is not called like one; name it by --to, such as mine.yaml")
    if printable(to) != to:
        raise UserError(f"{to} has line breaks or codes in its name; name another file by --to")
    if os.path.lexists(to):
        raise UserError(f"{to} is there already; name another file by --to, or remove it")
    for path in (train, *pool, *([] if test is None else [test])):
        storage.require(path)
    from bsssl.recipes.own.choosing import choose  # import torch
    from bsssl.recipes.own.looking import look
    from bsssl.recipes.own.writing import write_config

    findings, device = look(train, pool=pool, test=test, frames=frames), _device()
    output_dir = write_config(to, findings, choose(findings, device), device)
    load_config(to, [])
    item = "clip.mp4" if findings.videos else "photo.jpg"
    steps = [
        f"{to} has been written, for {device}. Look at it; then",
        f"    bsssl run {shlex.quote(to)}",
        f"    bsssl predict {shlex.quote(output_dir)} {item}",
    ]
    return "\n\n".join([_seen(findings).text(), _classes(findings.train).text(), "\n".join(steps)])


def _device() -> "Device":
    """Return where this machine computes."""
    import torch

    from bsssl.recipes.own.choosing import Device
    from bsssl.runtime.distributed import own_cores

    if not torch.cuda.is_available():
        return Device(own_cores())
    gpu = torch.cuda.get_device_properties(0)
    return Device(own_cores(), gpu.name, gpu.total_memory / 2**30)


def _seen(findings: "Findings") -> Table:
    header = [findings.kind, "in", "items", "with a label", "opened", "unreadable", "smallest", "middle", "largest"]
    roles = ["labels", *["pool"] * len(findings.pool), *(["test"] if findings.test else [])]
    rows = [
        [role, part.source.path, *(f"{number:,}" for number in _counts(part)), *_sizes(part, videos=findings.videos)]
        for role, part in zip(roles, findings.parts, strict=True)
    ]
    unreadable = [
        f"cannot read {name}: {reason}" for part in findings.parts for name, reason in part.unreadable[:_UNREADABLE]
    ]
    return Table(header, rows, unreadable, right=range(2, len(header)))


def _counts(part: "Items") -> list[int]:
    return [part.total, part.total - part.unlabeled, part.opened, len(part.unreadable)]


def _sizes(part: "Items", *, videos: bool) -> list[str]:
    """Return the smallest, a middling and the largest size, by the shorter side."""
    extents = sorted(part.extents, key=lambda extent: (extent.side, extent.width * extent.height))
    shown = [extents[0], extents[len(extents) // 2], extents[-1]]
    return [f"{one.width}x{one.height}" + (f", {one.frames} frames" if videos else "") for one in shown]


def _classes(part: "Items") -> Table:
    """Return the classes with the fewest items, fewest first, or all of few."""
    ordered = sorted(part.counts.items(), key=lambda pair: pair[1])
    left = len(ordered) - _CLASSES
    notes = [f"... and {left:,} with more; {median(part.counts.values()):,g} in the middle"] if left > 0 else []
    rows = [(shortened(name), f"{count:,}") for name, count in ordered[:_CLASSES]]
    return Table(["class", "items"], rows, notes, right=[1])
