"""How to compute, who starts the processes, and what a recipe and a transfer have in common."""

import os
import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Annotated, Self  # noqa: UP035 - with the rest of pydantic's

from bsssl.config.data import LabeledData
from bsssl.config.section import Section, known_to, without
from bsssl.config.training import Train
from bsssl.errors import choices
from bsssl.registry import LAUNCHERS, LOGGERS, METRICS, STAGES


class System(Section):
    """How to compute. Of these, only `precision` counts as a change of the recipe."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one"""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """of the forward and backward pass (autocast)"""
    channels_last: bool = True
    """memory format of images: faster on recent GPUs and on CPUs (benchmarks/README.md)"""
    compile: bool = False
    """compile the network with torch.compile"""
    threads: int | None = Field(None, ge=1, le=4096)
    """CPU threads per process; default: torch's own choice, on a CPU less those that the workers need. 1 is fastest for
    tiny networks and on busy machines"""
    workers: int = Field(2, ge=0, le=4096)
    """data-loading processes per process"""
    start_method: Literal["fork", "spawn", "forkserver"] | None = None
    """how data-loading processes start; default: the platform's"""
    checkpoint_minutes: float = Field(5.0, gt=0)
    """time between resumable checkpoints"""
    checkpoint_steps: int | None = Field(None, ge=1)
    """also save every so many optimiser steps"""
    loggers: dict[Annotated[str, known_to(LOGGERS)], dict[str, Any]] = {"jsonl": {}}
    """who gets the figures of trainings while they run, and of tests, and the options of each: tensorboard, wandb,
    mlflow; any of LOGGERS. jsonl (metrics.jsonl in the stage's folder) is always one of them"""

    @field_validator("loggers")
    @classmethod
    def _with_lines(cls, loggers: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Return the loggers with the one whose file reports and ``bsssl watch`` read."""
        return {"jsonl": {}, **loggers}


class StageResources(Section):
    """Where the jobs of one kind of stage differ from the rest of `launcher`."""

    gpus_per_node: int | None = Field(None, ge=0)
    """GPUs of each node"""
    cpus_per_node: int | None = Field(None, ge=1)
    """CPU cores of each node"""
    memory_gb: float | None = Field(None, gt=0)
    """memory of each node, GB"""
    minutes: int | None = Field(None, ge=1)
    """time limit"""
    partition: str | None = None
    """queue"""


class Launcher(Section):
    """Who starts the processes of a command given `--launch`. None of this changes a result."""

    kind: Annotated[str, known_to(LAUNCHERS)] = "local"
    """local: processes on this machine, one stage after the other; slurm: a chain of jobs; or any of LAUNCHERS"""
    nodes: int = Field(1, ge=1)
    """of a training; other stages take one each"""
    gpus_per_node: int = Field(0, ge=0)
    """GPUs of each node; a task of scoring and an evaluation take one"""
    processes_per_node: int | None = Field(None, ge=1)
    """of a training; default: one for each GPU, or one"""
    cpus_per_node: int | None = Field(None, ge=1)
    """CPU cores of each node, shared by its processes; default: the cluster's"""
    memory_gb: float | None = Field(None, gt=0)
    """memory of each node, GB; default: the cluster's"""
    minutes: int = Field(1440, ge=1)
    """time limit of a job; one that reaches it is queued again and goes on where it was"""
    array_tasks: int = Field(1, ge=1)
    """jobs that share the work of scoring, and of materialising; may change from one submission to the next"""
    array_parallelism: int = Field(256, ge=1)
    """how many of these run at once"""
    partition: str | None = None
    """queue; default: the cluster's"""
    account: str | None = None
    """whom the hours are charged to"""
    qos: str | None = None
    """quality of service"""
    constraint: str | None = None
    """features that the nodes must have"""
    options: dict[str, Any] = {}
    """further arguments of a launcher that a plugin brings"""
    sbatch: dict[str, Any] = {}
    """further arguments of sbatch, e.g. {exclude: n7, exclusive: true}"""
    setup: list[str] = []
    """lines of shell before a job's processes start"""
    stages: dict[str, StageResources] = {}
    """what jobs of one kind of stage have instead, e.g. {select: {partition: cpu, memory_gb: 64}}"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        for kind in self.stages:
            if kind not in STAGES and kind != "report":
                problems.append(f"stages: unknown stage '{kind}': {choices(kind, [*STAGES.names(), 'report'])}")
        return without(problems, self)

    def own(self, kind: str) -> StageResources:
        """Return what jobs of one kind of stage have instead."""
        return self.stages.get(kind, StageResources())

    def processes(self, kind: str = "") -> int:
        """Return how many processes a stage of a ``kind`` that takes whole nodes has on each."""
        gpus = self.own(kind).gpus_per_node
        return self.processes_per_node or max(1, self.gpus_per_node if gpus is None else gpus)


class ExtraStage(Section):
    """A stage that a config adds to those of its recipe."""

    kind: Annotated[str, known_to(STAGES)]
    """what the stage does: a kind in STAGES, as plugins register them"""
    needs: dict[str, str] = {}
    """the stages whose results it reads, by the role that its kind gives each; it comes after the last of them"""
    instead_of: str | None = None
    """a stage: those of the recipe that come later and read its result read this one's in its place. Of several rounds
    it is a stage of one of them, such as select or select-2"""
    options: dict[str, Any] = {}
    """the settings of the kind (`bsssl options stages KIND`)"""


class Experiment(Section, ABC):
    """What a recipe and a transfer have in common."""

    leaves: ClassVar[str]
    """the file with its table of results"""

    output_dir: str
    """the run's folder"""
    seed: int = Field(0, ge=0)
    """of everything random; stages of different seeds live side by side"""
    seeds: int = Field(1, ge=1, le=10_000)
    """how many seeds run, from `seed` on"""
    plugins: list[str] = []
    """modules to import that register parts of your own: models, datasets, losses, stages, ... (docs/extending.md)"""
    metrics: dict[Annotated[str, known_to(METRICS)], dict[str, Any]] = {}
    """further figures of every test of a network, and the options of each; any of METRICS"""
    stages: dict[str, ExtraStage] = {}
    """stages to add to those of the recipe, by their names, which are those of their folders"""
    data: LabeledData
    system: System = System()
    launcher: Launcher = Launcher()

    @field_validator("output_dir")
    @classmethod
    def _at_home(cls, output_dir: str) -> str:
        """Return the folder, a leading ~ being the user's own."""
        return os.path.expanduser(output_dir)

    @abstractmethod
    def trainings(self) -> dict[str, Train]:
        """Every section of a training that may run, by its key."""

    @abstractmethod
    def eval_batch(self) -> int:
        """Return how many views of items a process tests at a time."""

    def _problems(self) -> list[str]:
        """Return what is wrong with the whole."""
        problems = [
            f"stages.{name}: the name of a stage has letters, digits, - and _ alone; rename it"
            for name in self.stages
            if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name)
        ]
        if "://" in self.output_dir:
            problems.append(f"output_dir: {self.output_dir} is a URL; results go to a local or mounted folder")
        return problems
