"""Saving a training in progress and going on from there.

A checkpoint holds the network, the optimiser, the gradient scaler, what the loss remembers and the averaged weights:
the step alone fixes the schedule, the sampler and all random numbers, see ``bsssl.engine.train``. A checkpoint is
complete or absent, and loading one never unpickles code.
"""

import io
from pathlib import Path
from typing import Any

import torch

from bsssl import storage
from bsssl.runtime import distributed
from bsssl.runtime.console import logger

KEPT = 2
"""The number of checkpoints of a training that are kept: one may be damaged."""


class Checkpoints:
    """The resumable checkpoints of one training; those of other trainings in the same folder are left alone.

    Only the main process of a run saves and clears.

    Args:
        folder: The folder of the stage.
        fingerprint: Tells this training from others, by its settings and inputs; a part of the files' names.
    """

    def __init__(self, *, folder: str, fingerprint: str) -> None:
        self._folder = Path(folder)
        self._fingerprint = fingerprint

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save ``state`` (tensors, numbers, strings, lists and dicts) as of the start of ``step``; drop older ones."""
        buffer = io.BytesIO()
        torch.save({"step": step, "state": state}, buffer)
        with storage.atomic_write(str(self._folder / f"checkpoint-{self._fingerprint}-{step:09d}.pt")) as file:
            file.write(buffer.getbuffer())
        for path in self._own()[KEPT:]:
            path.unlink(missing_ok=True)

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Return the newest checkpoint of this training that can be read, as (step, state), or None.

        Every process of a run calls this; the main one chooses, and all load the same.
        """
        path, saved = self._newest() if distributed.is_main() else (None, None)
        path = distributed.from_main(lambda: path)
        if path is not None and saved is None:
            saved = _load(path)
        return None if saved is None else (saved["step"], saved["state"])

    def clear(self) -> None:
        """Remove the checkpoints of this training, which is done."""
        for path in self._own():
            path.unlink(missing_ok=True)

    def others(self) -> list[Path]:
        """Return the checkpoints of other trainings in the folder, sorted by name."""
        return sorted(set(self._folder.glob("checkpoint-*.pt")) - set(self._own()))

    def _newest(self) -> tuple[Path | None, dict[str, Any] | None]:
        """Return path and content of the newest checkpoint that can be read; a warning names those that cannot."""
        for path in self._own():
            try:
                return path, _load(path)
            except FileNotFoundError:
                continue  # another copy of this training has replaced it
            except Exception:
                logger.warning("%s is damaged; going on from the one before it, or from the start", path)
        return None, None

    def _own(self) -> list[Path]:
        """Return the checkpoints of this training, newest first."""
        paths = self._folder.glob(f"checkpoint-{self._fingerprint}-*.pt")
        return sorted(paths, key=lambda path: int(path.stem.rsplit("-", 1)[1]), reverse=True)


def _load(path: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if not {"step", "state"} <= saved.keys():
        raise ValueError(f"{path} is no checkpoint")
    return saved
