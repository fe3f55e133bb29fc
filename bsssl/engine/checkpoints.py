"""Saving and resuming. What is saved is complete or absent; what is loaded is never unpickled as code.

Two kinds of files: resumable checkpoints of a training in progress (model, optimiser, gradient scaler, what the loss
remembers, averaged weights; the step alone fixes the schedule, the sampler and all random numbers, see
``bsssl.engine.train``), and the final weights of a stage as safetensors with the network's name and classes.
"""

import io
from pathlib import Path
from typing import Any

import torch

from bsssl import storage
from bsssl.runtime import distributed
from bsssl.runtime.console import logger

KEPT = 2


class Checkpoints:
    """The resumable checkpoints of one training.

    Only the main process of a run saves and clears.

    Args:
        folder: where they lie.
        fingerprint: of the stage's settings and inputs, part of the files' names: others are of another training.
    """

    def __init__(self, *, folder: str, fingerprint: str) -> None:
        self._folder = Path(folder)
        self._fingerprint = fingerprint

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save ``state`` (tensors, numbers, strings, lists and dicts) as of the start of ``step``; drop old ones."""
        buffer = io.BytesIO()
        torch.save({"step": step, "state": state}, buffer)
        with storage.atomic_write(str(self._folder / f"checkpoint-{self._fingerprint}-{step:09d}.pt")) as file:
            file.write(buffer.getbuffer())
        kept = self._own()[:KEPT]
        for path in self._all():
            if path not in kept:
                path.unlink(missing_ok=True)

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest checkpoint of this training that can be read, as (step, state), or None.

        Every process of a run calls this; the main one chooses, and all load the same.
        """
        path, saved = self._newest() if distributed.is_main() else (None, None)
        path = distributed.from_main(lambda: path)
        if path is not None and saved is None:
            saved = _load(path)
        return None if saved is None else (saved["step"], saved["state"])

    def _newest(self) -> tuple[Path | None, dict[str, Any] | None]:
        """Path and content of the newest checkpoint that can be read; a warning names those that cannot."""
        for path in self._own():
            try:
                return path, _load(path)
            except FileNotFoundError:
                continue  # another copy of this training has replaced it
            except Exception:
                logger.warning("%s is damaged; going on from the one before it, or from the start", path)
        return None, None

    def clear(self) -> None:
        """Remove all checkpoints of the folder: the stage is done."""
        for path in self._all():
            path.unlink(missing_ok=True)

    def _own(self) -> list[Path]:
        """Those of this training, newest first."""
        found = self._folder.glob(f"checkpoint-{self._fingerprint}-*.pt")
        return sorted(found, key=lambda path: int(path.stem.rsplit("-", 1)[1]), reverse=True)

    def _all(self) -> list[Path]:
        return list(self._folder.glob("checkpoint-*.pt"))


def _load(path: Path) -> dict[str, Any]:
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if not {"step", "state"} <= saved.keys():
        raise ValueError(f"{path} is no checkpoint")
    return saved
