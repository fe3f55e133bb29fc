"""A stage in the abstract: what it is called, what decides its result, what it reads and leaves, and its work."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol

from typing_extensions import Self, TypeVar

from bsssl import storage
from bsssl.config import Section, validated
from bsssl.errors import UserError
from bsssl.pipeline.record import Parts, Record, Work

S = TypeVar("S", bound=Section, covariant=True, default=Section)


@dataclass(frozen=True)
class Task:
    """One of the tasks that share the independent parts of a stage: part i belongs to task i % count."""

    number: int
    count: int


@dataclass(frozen=True)
class Resources:
    """What the job of a stage wants of a cluster."""

    whole_nodes: bool = False
    """every process of every node of the launcher; otherwise one process on a share of one node"""
    gpu: bool = False
    """of one process: a GPU where the nodes have some"""


@dataclass(frozen=True)
class PlanRow:
    """What ``--plan`` shows of a stage, as text."""

    rows: str = ""
    batch: str = ""
    steps: str = ""
    samples: str = ""
    rate: str = ""


class Context(Protocol):
    """The run that a stage belongs to, as far as the stage may know it (``bsssl.pipeline.run.Run``)."""

    seed: int
    stages: dict[str, "Stage[Any]"]
    """all of them by name, each after those it needs"""
    config: str
    """the resolved config as YAML"""

    def folder(self, name: str) -> Path:
        """Return where the stage ``name`` leaves its results."""

    def input(self, stage: "Stage[Any]", role: str) -> Path:
        """Return the folder of the stage that has ``role`` for ``stage``."""

    def stage(self, name: str) -> "Stage[Any]":
        """Return the stage called ``name``."""

    def work(self, name: str) -> Work:
        """Return what identifies the work of a stage with the results that its inputs have by now."""

    def identity(self, name: str) -> str:
        """Return the fingerprint of ``work(name)``."""

    def digest(self, name: str) -> str:
        """Return the digest of all that a finished stage left."""

    def record(self, name: str) -> Record | None:
        """Return what a stage wrote when it was done last, whatever the settings then; None if it never was."""

    def result(self, name: str) -> dict[str, Any]:
        """Return the figures that a finished stage left."""

    def pending(self, name: str) -> str | None:
        """Return why a stage has to run; None when its result, with these settings and inputs, is there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stage(ABC, Generic[S]):
    """One step of a run. Each kind of stage is one sub-class, which knows everything about that kind.

    A kind is registered with ``bsssl.registry.STAGES``. Its ``version`` rises when the same settings and inputs give
    another result than before: finished stages of the kind then run again.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    outputs: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """the files that the stage leaves, by the names under which other stages read them"""
    inputs: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """the outputs that are read of each of the stages that this one needs, by role"""
    settings_type: ClassVar[type[Section] | None] = None
    """the class of the settings, for kinds that a config can add to a recipe"""
    in_parts: ClassVar[bool] = False
    """whether the work has independent parts, which any number of tasks may share"""
    shared: ClassVar[bool] = False
    """whether every process of a run takes part in the work; otherwise the main process works alone"""
    prepares: ClassVar[bool] = False
    """whether the stage is cheap and runs together with any stage that needs it"""
    follows: ClassVar[bool] = False
    """whether the stage is cheap and runs together with any stage whose result it tests"""
    copies: ClassVar[str | None] = None
    """the role of the stage whose result this one leaves in another form, so that its figures are of both"""
    joined_later: ClassVar[bool] = False
    """whether recipes had no stage of this kind at first: a run in which a stage that needs it was done without it goes
    on without it, and at its defaults it changes no fingerprint"""
    earlier_outputs: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """the outputs as records of format 1 have them, where they are others"""

    name: str
    """unique in a run: teacher, score, select-2, evaluate-finetune, ..."""
    section: str
    """the key of the config that sets the stage; of an evaluation, that of the trained stage"""
    settings: S
    """everything that decides the result, but for what is read: exactly this is hashed, and exactly this is used"""
    needs: Mapping[str, str] = field(default_factory=dict)
    """the names of the stages whose results are read, by role"""
    after: tuple[str, ...] = ()
    """the names of stages that are done before this one begins although nothing of them is read, so that they decide
    nothing of its result; those that a run does not have are passed over"""
    command: tuple[str, ...] = ("run",)
    """the command line that runs the stage, less the config"""

    @property
    def resources(self) -> Resources:
        """What the job of the stage wants; a kind for which that is always the same has it as an attribute."""
        return Resources()

    @classmethod
    def from_options(
        cls, *, name: str, options: Mapping[str, Any], needs: Mapping[str, str], seed: int, execution: Any
    ) -> Self:
        """Return the stage that a config adds under ``stages``.

        Args:
            name: The name of the stage.
            options: What the config gives: the fields of ``settings_type``, but for ``seed``.
            needs: The names of the stages whose results are read, by role.
            seed: The seed of the run, for settings with a field ``seed``.
            execution: How to compute (``bsssl.stages.computing.Execution``), for kinds with a field ``execution``.

        Raises:
            UserError: A config cannot add stages of this kind, or the options are wrong: a line for each problem.
        """
        if cls.settings_type is None:
            raise UserError(
                f"stages.{name}.kind: '{cls.kind}' is set by the recipe's own sections; no config can add it"
            )
        what, own = f"stages.{name}.options", {}
        if "seed" in cls.settings_type.model_fields:
            if "seed" in options:
                raise UserError(f"{what}: the seed is that of the run; take it out")
            own = {"seed": seed}
        settings: Any = validated(cls.settings_type, {**options, **own}, what=what)
        computing = {"execution": execution} if "execution" in {one.name for one in fields(cls)} else {}
        return cls(name=name, section=f"stages.{name}", settings=settings, needs=dict(needs), **computing)

    @abstractmethod
    def work(self, run: Context) -> dict[str, Any]:
        """Do the work and return the figures to remember, which anything JSON can hold may be.

        Every process of the run calls this where the kind is ``shared``, the main one alone where it is not. What the
        stage leaves goes into ``run.folder(self.name)``.
        """

    def work_part(self, run: Context, task: Task) -> None:
        """Do the share of ``task`` of the work; only of a kind whose work is ``in_parts``."""
        raise TypeError(f"the work of '{self.kind}' has no parts")

    def clean_up(self, run: Context) -> None:
        """Remove what only the unfinished stage needs, and tell others that the stage is done, as it then is."""

    def summary(self, run: Context) -> str:
        """Return what the stage has done, in a line of Markdown, for the card of a network that came of it.

        It names no place on this machine, and is empty where there is nothing to tell. Of the network's own stage it is
        asked for before the stage is done.
        """
        return ""

    def leaves(self) -> Mapping[str, tuple[str, ...]]:
        """Return the files that the stage leaves, by output."""
        return self.outputs

    def reads(self, role: str) -> tuple[str, ...]:
        """Return the outputs that are read of the stage that has ``role``."""
        return self.inputs[role]

    def files(self, run: Context, result: Mapping[str, Any]) -> Iterable[str]:
        """Return the names of all files that the finished stage, whose figures are ``result``, must have."""
        return [name for names in self.leaves().values() for name in names]

    def digest(self, run: Context, output: str) -> str:
        """Return the digest of an output that the stage has left: equal ones are the same to every reader."""
        return storage.digest(str(run.folder(self.name) / name) for name in self.leaves()[output])

    def outside(self) -> dict[str, Any]:
        """Return something cheap that changes when files outside the run do which the stage reads, by their key."""
        return {}

    def require_outside(self) -> None:
        """Refuse files outside the run that are not there, all at once and without reading one.

        Raises:
            UserError: Some are not there: a line for each.
        """

    def settings_of(self, outputs: Iterable[str]) -> Any:
        """Return, as JSON, the settings that decide these ``outputs``."""
        return identifying(self.settings)

    def key_of(self, setting: str) -> str:
        """Return the key of the config that a setting comes from, as far as it is another than the setting."""
        return setting

    def continues(self, run: Context, there: Work) -> bool:
        """Return whether the work can go on in a folder that holds work of other settings or inputs.

        Otherwise what is there is kept aside.
        """
        return False

    def is_unaffected(self, run: Context, role: str, output: str) -> bool:
        """Return whether the finished stage would come out the same although an output that it read has changed."""
        return False

    def num_parts(self, run: Context) -> Parts | None:
        """Return the parts of the work, once they are known; None for work in one piece."""
        return None

    def check_processes(self, count: int) -> None:
        """Refuse to share the work among ``count`` processes.

        Raises:
            UserError: They cannot share it evenly.
        """

    def sizes(self, run: Context) -> tuple[Mapping[str, int], str]:
        """Return what the stage tells of sizes, for ``plan_row``, and what to say before it runs, in lines.

        Raises:
            UserError: What the stage reads from outside the run is not there, or cannot be used.
        """
        return {}, ""

    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        """Return the row of ``--plan``, ``sizes`` being what is known of the data (labeled, rest, test, pool, ...)."""
        return PlanRow()

    @classmethod
    def earlier(cls, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the settings in a record of format 1 as today's settings, and what was noted of outside files."""
        return settings, {}


def identifying(settings: Section) -> Any:
    """Return the settings that differ from their defaults, as JSON: a new option that is off changes nothing."""
    return settings.model_dump(mode="json", exclude_defaults=True)
