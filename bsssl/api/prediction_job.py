"""Prediction of files as a job, which a launcher can start: in this process, in several, or in a cluster's queue."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from typing_extensions import override

from bsssl import storage
from bsssl.config import Launcher, validated
from bsssl.config.plugins import load_plugins
from bsssl.config.reading import parse_overrides
from bsssl.errors import UserError
from bsssl.launch.base import PREDICTION, Job, Order
from bsssl.launch.jobs import errors_in_a_line
from bsssl.launch.submission import launch_jobs
from bsssl.pipeline.stage import Resources, Task
from bsssl.runtime import console
from bsssl.runtime.distributed import is_main

if TYPE_CHECKING:
    from bsssl.api.predicting import Outcome

_LIKE = "score"
"""the kind of stage whose resources in ``launcher.stages`` are those of a prediction"""


@dataclass(frozen=True)
class PredictionJob(Job):
    """Predicts files, see ``bsssl.api.predicting.predict_files``, whose arguments these are."""

    name = PREDICTION
    model: str
    paths: tuple[str, ...]
    to: str | None
    top: int
    batch_size: int
    workers: int
    device: Literal["auto", "cpu", "cuda"]
    task: Task | None = None
    strict: bool = False
    """whether it fails if anything cannot be read, instead of if nothing can"""
    plugins: tuple[str, ...] = ()
    debug: bool = False

    @override
    def __call__(self) -> None:
        with errors_in_a_line(debug=self.debug):
            self.predict()

    def predict(self) -> None:
        """Predict, and say what came of it.

        Raises:
            UserError: See ``predict_files`` and ``Outcome.tell``.
        """
        from bsssl.api.predicting import predict_files  # imports torch

        console.setup(debug=self.debug)
        load_plugins(self.plugins)
        outcome: Outcome = predict_files(
            self.model,
            self.paths,
            to=self.to,
            top=self.top,
            batch_size=self.batch_size,
            workers=self.workers,
            device=self.device,
            task=self.task,
        )
        if is_main():
            outcome.tell(strict=self.strict)


def launch_prediction(job: PredictionJob, keys: Sequence[str], *, command: Sequence[str]) -> str | None:
    """Have a prediction done as the ``launcher.`` keys say; return what to tell the user.

    None means that it is left to this very process.

    Args:
        job: The prediction of everything; in a queue, an array of ``launcher.array_tasks`` tasks shares it.
        keys: Such as ``launcher.kind=slurm``.
        command: The command line without the launching, program first.

    Raises:
        UserError: The keys are wrong, there is no table to write, or the launcher refuses.
    """
    if other := next((key for key in keys if not key.startswith("launcher.")), None):
        raise UserError(f"--launch is followed by keys of launcher, such as launcher.kind=slurm, not by '{other}'")
    load_plugins(job.plugins)
    settings = validated(Launcher, parse_overrides([*keys]).get("launcher", {}), what="launcher")
    if job.to is None and settings.array_tasks > 1:
        raise UserError("each of launcher.array_tasks writes a table of its own; name it with --to")
    stem = PREDICTION if job.to is None else job.to.rpartition(".")[0]
    folder = os.path.abspath(f"{os.path.basename(stem) if storage.is_remote(stem) else stem}.jobs")
    tasks = [Task(number, settings.array_tasks) for number in range(settings.array_tasks)]
    jobs = [replace(job, task=task) for task in tasks] if len(tasks) > 1 else [job]
    order = Order(command=command, output_dir=folder, runs=[], wanted=lambda stage: True)
    return launch_jobs(settings, jobs, order, kind=_LIKE, resources=Resources(gpu=True), plugins=job.plugins)
