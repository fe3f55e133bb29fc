"""What a config can name: the registries of the project, which anyone can add to.

A part is added by decorating its factory or class in a module that the config lists under ``plugins``, or that a
package announces as an entry point of the group ``bsssl.plugins``::

    @MODELS.register("my_net")
    def my_net(*, num_classes: int, width: int = 16) -> nn.Module: ...

The options of a part are the arguments of its own signature, less those that the program gives (here ``num_classes``),
of which it names those that it needs.
The names of the parts that come with the project are known without importing them, so that a config is checked in no
time; a part is imported when it is first looked up.
"""

import importlib
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from typing import Any, get_type_hints

from pydantic import ValidationError, validate_call

from bsssl.errors import UserError, choices


@dataclass(frozen=True)
class PartOption:
    """An argument of a registered part that a config can set."""

    name: str
    type: str
    default: str
    """as Python writes it; ``(required)`` where there is none"""
    meaning: str
    """what the docstring of the part says of it"""


class Registry:
    """Parts of one sort by name.

    Args:
        sort: What the parts are, for messages: ``model``, ``dataset``, ...
        given: The arguments that the program gives to every part; all others are options.
        built_in: The parts of the project: their names by the module whose import registers them.
    """

    def __init__(
        self, sort: str, *, given: Sequence[str] = (), built_in: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self.sort = sort
        self._given = frozenset(given)
        self._built_in = {name: module for module, names in (built_in or {}).items() for name in names}
        self._parts: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[Any], Any]:
        """Return a decorator that makes a part known as ``name``.

        Raises:
            UserError: Another part has that name.
        """

        def decorate(part: Any) -> Any:
            taken = self._parts.get(name)
            other = self._built_in.get(name) or (None if taken is None else _module(taken))
            # A module that is imported again changes nothing.
            is_same = other == _module(part) and (taken is None or _qualname(taken) == _qualname(part))
            if other is not None and not is_same:
                raise UserError(
                    f"{self.sort} '{name}' of {_module(part)} has the name of one of {other}; register it under another"
                )
            self._parts[name] = part
            return part

        return decorate

    def names(self) -> list[str]:
        """Return all registered names, sorted."""
        return sorted({*self._built_in, *self._parts})

    def __contains__(self, name: str) -> bool:
        """Return whether there is a part called ``name``."""
        return name in self._built_in or name in self._parts

    def get(self, name: str) -> Any:
        """Return the part called ``name``.

        Raises:
            UserError: There is none; the message lists the valid names.
        """
        if name not in self:
            raise UserError(f"unknown {self.sort} '{name}': {choices(name, self.names())}")
        if name not in self._parts:
            importlib.import_module(self._built_in[name])
        return self._parts[name]

    def build(self, name: str, options: Mapping[str, Any], **given: Any) -> Any:
        """Return what the part called ``name`` makes of the ``options`` and of the arguments of the program.

        The part gets those of the arguments ``given`` that its signature names: it need not name them all.

        Raises:
            UserError: There is no such part or option, or a value is of the wrong type or missing.
        """
        chosen, part = self.check(name, options), self.get(name)
        named = inspect.signature(part).parameters
        return part(**{key: value for key, value in given.items() if key in named or _takes_any(part)}, **chosen)

    def check(self, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``options`` as the part called ``name`` types them, with its defaults, without making the part.

        Raises:
            UserError: There is no such part or option, or a value is of the wrong type or missing.
        """
        part = self.get(name)
        if taken := sorted(self._given & options.keys()):
            raise UserError(f"{self.sort} '{name}': the program itself gives {', '.join(taken)}; take it out")
        try:
            return _validated(part, options, besides=self._given)
        except ValidationError as error:
            raise UserError(self._explain(error, name)) from None
        except NameError as error:  # an annotation that is imported for type checkers alone
            raise UserError(
                f"{self.sort} '{name}': its annotations cannot be read ({error}); import their names"
            ) from None

    def summary(self, name: str) -> str:
        """Return the first paragraph of what the part called ``name`` says of itself."""
        return " ".join((inspect.getdoc(self.get(name)) or "").partition("\n\n")[0].split())

    def options(self, name: str) -> list[PartOption]:
        """Return the options of the part called ``name``: the fields of its settings class, or of its signature."""
        part = self.get(name)
        if hasattr(part, "settings_type"):
            return _fields(part.settings_type, besides=self._given)
        meanings = _meanings(inspect.getdoc(part) or "") | _meanings(inspect.getdoc(part.__init__) or "")
        hints = _hints(part)
        return [
            PartOption(
                name=one.name,
                type=_shown(hints.get(one.name, one.annotation)),
                default="(required)" if one.default is Parameter.empty else as_yaml(one.default),
                meaning=meanings.get(one.name, ""),
            )
            for one in inspect.signature(part).parameters.values()
            if one.kind in _BY_NAME and one.name not in self._given
        ]

    def _explain(self, error: ValidationError, name: str) -> str:
        """Return everything that is wrong with the options of a part, in one line."""
        part, valid, problems = f"{self.sort} '{name}'", [option.name for option in self.options(name)], []
        for problem in error.errors(include_url=False):
            option = ".".join(map(str, problem["loc"]))
            if problem["type"] == "unexpected_keyword_argument":
                problems.append(f"{part} has no option '{option}': {choices(option, valid)}")
            elif problem["type"] == "missing_keyword_only_argument":
                problems.append(f"{part} needs the option '{option}'; give it under its options")
            else:
                problems.append(f"{part}: {option}={problem['input']!r}: {problem['msg']}")
        return "; ".join(problems)


_BY_NAME = (Parameter.KEYWORD_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def _takes_any(part: Any) -> bool:
    return any(one.kind is Parameter.VAR_KEYWORD for one in inspect.signature(part).parameters.values())


def _validated(part: Any, options: Mapping[str, Any], *, besides: Collection[str]) -> dict[str, Any]:
    """Return ``options`` as the signature of ``part``, a function or a class, types them, with its defaults.

    Raises:
        ValidationError: A value is of the wrong type or missing, or there is no such option ``besides`` those.
    """

    def collect(**chosen: Any) -> dict[str, Any]:
        return chosen

    parameters = inspect.signature(part).parameters.values()
    open_to_options = [
        one.replace(kind=Parameter.KEYWORD_ONLY) if one.kind in _BY_NAME else one
        for one in parameters
        if one.kind in (*_BY_NAME, Parameter.VAR_KEYWORD) and one.name not in besides
    ]
    # Pydantic checks the arguments of functions alone, not of classes.
    collect.__signature__ = inspect.Signature(open_to_options)  # type: ignore[attr-defined]
    hints = _hints(part, include_extras=True)
    collect.__annotations__ = {one.name: hints[one.name] for one in open_to_options if one.name in hints}
    chosen: dict[str, Any] = validate_call(config={"arbitrary_types_allowed": True})(collect)(**options)
    return chosen


def _hints(part: Any, *, include_extras: bool = False) -> dict[str, Any]:
    """Return the types of the arguments of a function or a class; ``include_extras``: with their bounds."""
    return get_type_hints(part.__init__ if inspect.isclass(part) else part, include_extras=include_extras)


def as_yaml(default: Any) -> str:
    """Return a default as a config has it: null and true, where Python has other words for them."""
    return json.dumps(default) if default is None or isinstance(default, bool) else str(default)


def _shown(annotation: Any) -> str:
    if annotation is Parameter.empty:
        return "any"
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\bNone\b", "null", re.sub(r"\b(?:typing|collections\.abc)\.", "", text))


def _fields(settings: Any, *, besides: Collection[str]) -> list[PartOption]:
    """Return the fields of a settings class, a pydantic model; none for None."""
    return [
        PartOption(
            name=name,
            type=_shown(field.annotation),
            default="(required)" if field.is_required() else as_yaml(field.get_default(call_default_factory=True)),
            meaning=" ".join((field.description or "").split()),
        )
        for name, field in (settings.model_fields.items() if settings is not None else ())
        if name not in besides
    ]


def _meanings(docstring: str) -> dict[str, str]:
    """Return what the section ``Args:`` of a docstring in Google's style says of each argument."""
    section = re.search(r"^( *)Args:\n((?:\1 +.*\n?|\n)*)", docstring, re.MULTILINE)
    if section is None:
        return {}
    lines = textwrap.dedent(section[2])
    entries = re.findall(r"^\*{0,2}(\w+)(?: \([^)]*\))?:(.*(?:\n(?: .*)?)*)", lines, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _qualname(part: Any) -> str:
    return getattr(part, "__qualname__", type(part).__qualname__)


def _module(part: Any) -> str:
    return getattr(part, "__module__", type(part).__module__)


MODELS = Registry(
    "model",
    given=("num_classes",),
    built_in={
        "bsssl.models.zoo.image": (
            "resnet18",
            "resnet34",
            "resnet50",
            "resnet101",
            "resnext50_32x4d",
            "resnext101_32x4d",
            "resnext101_32x8d",
            "resnext101_32x16d",
            "resnext101_32x48d",
            "small_resnet",
            "wide_resnet",
        ),
        "bsssl.models.zoo.video": ("r2plus1d_18", "r2plus1d_34", "small_r2plus1d"),
    },
)
"""Factories ``(*, num_classes: int, **options) -> nn.Module`` of networks that map a float batch (B, 3, H, W), or
(B, 3, T, H, W) for video, to logits (B, num_classes). A method ``group_matcher``, as timm's have, says what the layers
of ``layer_decay`` are; without it they are the network's modules in their order."""

DATASETS = Registry(
    "dataset",
    given=("path",),
    built_in={
        "bsssl.data.datasets.sources": ("folder", "manifest", "tars"),
        "bsssl.data.datasets.frames": ("frames", "frame_tars"),
        "bsssl.data.datasets.parquet": ("parquet",),
        "bsssl.data.datasets.cub": ("cub",),
        "bsssl.data.datasets.generated": ("digits", "moving_digits"),
        "bsssl.data.datasets.video_sets": ("kinetics", "ucf101", "hmdb51"),
        "bsssl.data.datasets.activitynet": ("activitynet",),
    },
)
"""Factories ``(*, path: str, **options) -> Source`` (``bsssl.data.datasets.sources``): where the records of a labeled
set, a test set or a pool come from, in batches (``bsssl.data.Records``, which ``Records.from_columns`` makes)."""

LOSSES = Registry(
    "loss",
    given=("num_classes", "rows", "class_counts"),
    built_in={"bsssl.optim.losses": ("cross_entropy", "symmetric_kl")},
)
"""Factories ``(*, num_classes: int, rows: int, class_counts: Callable[[], np.ndarray], **options) -> nn.Module``, or
modules with such a constructor. The module is called with logits (B, C), the target (int64 (B,), or float32 (B, C) that
sums to 1) and the rows of the training set that they are of, int64 (B,), and returns the mean loss; what it remembers
from call to call belongs in its ``state_dict``, which checkpoints keep. ``class_counts()`` counts the rows of each
class, float (C,)."""

OPTIMIZERS = Registry(
    "optimizer", given=("params", "lr", "weight_decay"), built_in={"bsssl.optim.optimizers": ("sgd", "adamw")}
)
"""Factories ``(params, *, lr: float, weight_decay: float, **options) -> torch.optim.Optimizer``: the classes of
``torch.optim`` are such. ``params`` are parameters or, where a training has ``layer_decay`` or no
``decay_norms``, groups of them. The rate of every group is set anew before each step, times its ``lr_scale`` if it has
one."""

SCHEDULES = Registry(
    "schedule", given=("peak", "steps"), built_in={"bsssl.optim.schedules": ("step", "cosine", "constant")}
)
"""Factories ``(*, peak: float, steps: int, **options) -> Callable[[float], float]``: from the share of the
training that is done, in [0, 1), to the learning rate; warm-up replaces the beginning."""

AUGMENTATIONS = Registry(
    "augmentation",
    given=("size", "flip"),
    built_in={"bsssl.data.views.transforms": ("random_resized", "short_side", "padded", "affine", "none")},
)
"""Factories ``(*, size: int, flip: bool, **options) -> Callable``: from a picture, uint8 (3, H, W), or the frames of a
clip, uint8 (T, 3, H, W), all alike, to ``size`` x ``size`` pixels, at random by torch's default generator, half of them
mirrored if ``flip``. It must be possible to pickle what comes back, for the loader's processes."""

SELECTION_RULES = Registry(
    "selection rule",
    given=("pool", "top_k", "seed"),
    built_in={"bsssl.selection.rules": ("balanced", "unbalanced", "random")},
)
"""Functions ``(*, pool: PoolScores, top_k: int, seed: int, **options) -> Picks`` (``bsssl.selection``) that choose the
samples of every class. ``pool.first`` follows any order of rows, exactly, whatever the shards, in bounded memory::

    @SELECTION_RULES.register("worst")
    def worst(*, pool: PoolScores, top_k: int, seed: int) -> Picks:
        return pool.first(lambda rows: rows.scores.view(np.uint32), top_k=top_k)
"""

VIDEO_READERS = Registry(
    "video reader",
    given=("source", "deadline", "max_pixels"),
    built_in={"bsssl.data.decoding.readers": ("av", "decord", "torchcodec")},
)
"""Factories ``(source: str | bytes, *, deadline: float, max_pixels: int, **options) -> VideoReader``
(``bsssl.data.decoding.readers``)."""

STAGES = Registry(
    "kind of stage",
    given=("seed",),
    built_in={
        f"bsssl.stages.{kind}": (kind,)
        for kind in (
            "data",
            "contents",
            "tags",
            "train",
            "score",
            "near",
            "open_set",
            "given",
            "select",
            "choose",
            "materialise",
            "views",
            "features",
            "probe",
            "zeroshot",
            "evaluate",
        )
    },
)
"""Sub-classes of ``bsssl.pipeline.stage.Stage``, by their kind. A config adds stages of a kind with a ``settings_type``
under ``stages``."""

LAUNCHERS = Registry(
    "launcher", given=("settings",), built_in={"bsssl.launch.local": ("local",), "bsssl.launch.slurm": ("slurm",)}
)
"""Sub-classes of ``bsssl.launch.base.Launcher``: who starts the processes of a command given ``--launch``."""

EXPORTERS = Registry(
    "exporter",
    given=("model", "path"),
    built_in={
        "bsssl.models.export.program": ("torch-export",),
        "bsssl.models.export.onnx_file": ("onnx",),
        "bsssl.models.export.folders": ("timm", "torchvision", "hub-folder", "hub"),
    },
)
"""Functions ``(model, path: str, **options) -> float | None`` that write a ``bsssl.models.TrainedNetwork`` for another
program. One that has the other program compute the probabilities of ``model.examples`` returns by how much they differ
from the network's at most."""

METRICS = Registry("metric", given=("probabilities", "targets"))
"""Functions ``(*, probabilities: np.ndarray, targets: np.ndarray, **options) -> float`` of a test: the mean softmax of
each item over its views, float32 (N, C), zeros where it cannot be read; and its true class, int64 (N,). The figure
stands beside top-1 in the records of the test and in tables, which show one decimal: percent fit best."""

LOGGERS = Registry(
    "metric logger",
    given=("folder", "step", "steps", "stage", "seed", "config"),
    built_in={"bsssl.engine.metrics": ("jsonl",), "bsssl.engine.loggers": ("tensorboard", "wandb", "mlflow")},
)
"""Factories ``(*, folder: str, step: int, steps: int, stage: str, seed: int, config: Mapping[str, Any], **options) ->
MetricLogger`` (``bsssl.engine.metrics``), an object with ``write(step, scalars)`` and ``close()``. ``folder`` is that
of the ``stage``, a training or a test of a network; ``step`` is where the training goes on: what was logged of later
steps is of an interrupted run, and comes again. ``steps`` is the length of the training; ``config`` is the resolved
config, values by their keys as in overrides. A factory with a method ``check()`` is asked before anything runs whether
it can be used, and raises a ``UserError`` if not."""

REGISTRIES = {
    "models": MODELS,
    "datasets": DATASETS,
    "losses": LOSSES,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "augmentations": AUGMENTATIONS,
    "selection_rules": SELECTION_RULES,
    "video_readers": VIDEO_READERS,
    "stages": STAGES,
    "launchers": LAUNCHERS,
    "exporters": EXPORTERS,
    "metrics": METRICS,
    "loggers": LOGGERS,
}
"""All of them by the name under which ``bsssl options`` shows their parts."""
