"""Who starts the processes of a command given ``--launch``, in the abstract."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bsssl.config import Experiment
from bsssl.config import Launcher as Settings
from bsssl.pipeline.run import Run
from bsssl.pipeline.stage import Resources, Stage

REPORT = "report"
"""the name and kind of the job that writes the results at the end"""
PREDICTION = "predict"
"""the name of jobs that predict files"""


@dataclass(frozen=True)
class Order:
    """What a command given ``--launch`` asks for."""

    command: Sequence[str]
    """the command itself without ``--launch``, program first"""
    output_dir: str
    runs: Sequence[tuple[Experiment, Run]]
    """each run with the config it comes from"""
    wanted: Callable[[Stage[Any]], bool]
    prepare: Callable[[], None] = lambda: None
    """called once it is certain that the runs can be submitted, before the first of them is"""
    last: "Callable[[str], Job] | None" = None
    """makes the job that writes the results at the end, given the file of the first config"""
    leaves: str = ""
    """a file in ``output_dir`` that ``last`` leaves"""
    redo: bool = False
    debug: bool = False

    @property
    def configs(self) -> list[Experiment]:
        """The configs of the runs, each once."""
        return [*{id(config): config for config, _ in self.runs}.values()]


class Job(ABC):
    """Something to do in processes of its own; it is pickled, and started again as often as it takes."""

    name: str
    """the name by which people find the job"""

    @abstractmethod
    def __call__(self) -> None:
        """Do the work."""


class Launcher:
    """Starts the processes of a command. A kind of launcher is registered with ``bsssl.registry.LAUNCHERS``.

    Args:
        settings: The `launcher` section of the config.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings


class ProcessLauncher(Launcher):
    """A launcher that starts processes and waits for them."""

    @abstractmethod
    def start(self, order: Order) -> None:
        """Start the processes that do what is ordered, and end this one when they have ended.

        A launcher that returns leaves it to this very process.
        """


class QueueLauncher(Launcher):
    """A launcher that hands jobs to a queue, which runs them later, each after others."""

    @abstractmethod
    def submit(self, jobs: Sequence[Job], *, kind: str, resources: Resources, folder: str, after: Sequence[str]) -> str:
        """Submit a job, or several as an array; return its id.

        Args:
            jobs: What to do.
            kind: The kind of the stage, as in ``launcher.stages``.
            resources: What the stage wants.
            folder: Where the job keeps its files and logs.
            after: The ids of jobs that must have succeeded first.

        Raises:
            UserError: The queue does not take the job.
        """

    @classmethod
    @abstractmethod
    def states(cls, job_ids: Sequence[str]) -> Mapping[str, str]:
        """Return the state of each job, and of each task of an array as ``<job>_<task>``, as far as it is known.

        A state begins with one of Slurm's words, such as PENDING, RUNNING, COMPLETED or FAILED.
        """

    @classmethod
    @abstractmethod
    def active(cls) -> Mapping[str, str]:
        """Return the state of each of the user's jobs and tasks that are still to be run, or are running."""

    @classmethod
    @abstractmethod
    def cancel(cls, job_ids: Sequence[str]) -> None:
        """End jobs; UserError when that fails."""
