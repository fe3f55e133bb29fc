"""What a recipe would do, before it does it: ``--plan``."""

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from bsssl import storage
from bsssl.config import Config, Experiment, Model, Transfer
from bsssl.errors import UserError, shortened
from bsssl.pipeline.run import Run
from bsssl.pipeline.stage import Stage
from bsssl.recipes.runs import all_runs, networks
from bsssl.reports.seen import preprocessing
from bsssl.reports.tables import Table
from bsssl.runtime.console import printable


@dataclass(frozen=True, repr=False)
class Plan:
    """What a recipe would do: it prints as text, and a notebook shows it as tables."""

    title: str
    """the config, the output folder and the seeds"""
    networks: Table
    """the networks with their exact costs"""
    stages: Table
    """every stage with its sizes and whether it is done"""
    remark: str = ""
    """what to know before it runs, in lines"""
    missing: tuple[str, ...] = ()
    """what a run would stop at, beside the stages too"""

    def __repr__(self) -> str:
        remark = "\n".join(map(printable, self.remark.splitlines()))
        return "\n\n".join(filter(None, [self.title, self.networks.text(), self.stages.text(), remark]))

    def _repr_html_(self) -> str:
        title, remark = (f"<p>{html.escape(text)}</p>" if text else "" for text in (self.title, self.remark))
        return "\n".join(filter(None, [title, self.networks.html(), self.stages.html(), remark]))


def plan(config: Experiment, *, config_path: str, wanted: Callable[[Stage[Any]], bool], launched: bool = False) -> Plan:
    """Return what ``config`` would do.

    Data or a file that is not there does not hinder the plan, which says so beside the stage and in ``missing``; what
    depends on the size of such data is unknown.

    Args:
        config: The recipe or the transfer.
        config_path: The file of the config, as the plan shows it.
        wanted: Whether to show a stage.
        launched: Whether the stages will have the processes of the `launcher` section, not those of this run.
    """
    from bsssl.recipes.check import check_settings, missing  # imports torch

    check_settings(config, launched=launched)
    runs, lacking = all_runs(config, config_path=config_path), missing(config, here=not launched)
    sizes, remarks, unreadable = looked(runs[0])
    lacking |= unreadable
    classes = sizes.get("classes", config.data.num_classes)
    known = sizes if classes is None else {"classes": classes, **sizes}
    header = ["stage", "rows", "batch", "steps", "samples processed", "highest rate", "state"]
    shown = [stage for stage in runs[0].stages.values() if wanted(stage)]
    reasons = {
        stage.name: reason
        for stage in shown
        if (reason := lacking.get(stage.name) or lacking.get("" if stage.follows else stage.section))
        and any(run.pending(stage.name) is not None for run in runs)
    }
    rows = [
        (stage.name, *astuple(stage.plan_row(runs[0], known)), _state(runs, stage.name, reasons.get(stage.name)))
        for stage in shown
    ]
    title = f"{config_path} -> {config.output_dir}, seeds {', '.join(str(run.seed) for run in runs)}"
    costs = Table(
        ["network", "name", "parameters", "multiply-adds", "starts from", "sees"], [*_networks(config, classes)]
    )
    return Plan(
        title=title,
        networks=costs,
        stages=Table(header, rows),
        remark="\n".join(filter(None, remarks)),
        missing=tuple(dict.fromkeys([*reasons.values(), *_unwritable(config, runs, shown)])),
    )


def _unwritable(config: Experiment, runs: Sequence[Run], shown: Sequence[Stage[Any]]) -> Iterable[str]:
    """Yield why the output folder cannot be written, where something is to do that would."""
    if any(run.pending(stage.name) is not None for stage in shown for run in runs):
        try:
            storage.require_writable(config.output_dir)
        except UserError as error:
            yield str(error)


def looked(run: Run) -> tuple[dict[str, int], list[str], dict[str, str]]:
    """Return what the stages of a run tell of sizes, what they say, and which cannot work, with the reason."""
    sizes: dict[str, int] = {}
    remarks, reasons = [], {}
    for name, stage in run.stages.items():
        try:
            own, remark = stage.sizes(run)
        except (UserError, OSError) as error:
            reasons[name] = str(error)
        else:
            sizes |= own
            remarks.append(remark)
    return sizes, remarks, reasons


def _networks(config: Experiment, classes: int | None) -> Iterable[tuple[str, ...]]:
    from bsssl.models import profile  # imports torch

    for key, model in networks(config, seed=config.seed).items():
        view, costs = model.view_of(config.data), ("unknown", "unknown (set data.num_classes)")
        if classes is not None:
            shape = view.input_shape
            cost = profile(model.name, num_classes=classes, input_shape=shape, **model.options)
            costs = f"{cost.parameters:,}", f"{cost.multiply_adds:,} at {'x'.join(map(str, shape[1:]))}"
        yield key.split(".")[1], model.name, *costs, _origin(config, key, model), preprocessing(view)


def _origin(config: Experiment, key: str, model: Model) -> str:
    """Return the file, the stage or the weights that the network at ``key`` starts from, and their licence if known."""
    from bsssl.models import is_named, named_weights  # imports torch

    name, start = key.split(".")[1], None
    if isinstance(config, Transfer) and (path := config.checkpoints[name].init_from) is not None:
        start = path.replace("{seed}", str(config.seed))
    elif isinstance(config, Config):
        start = config.pretrain.init_from if name == "student" else config.teacher.init_from
    if start is not None:
        return start
    if model.weights is None:
        return "scratch"
    licence = named_weights(model.weights).licence if is_named(model.weights) else None
    return model.weights if licence is None else f"{model.weights} ({licence})"


def _state(runs: Sequence[Run], name: str, lacking: str | None) -> str:
    if lacking is not None:
        return f"cannot run: {shortened(lacking.partition('; ')[0], most=100)}"
    reasons = {run.seed: run.pending(name) for run in runs}
    waiting = {seed: reason for seed, reason in reasons.items() if reason is not None}
    if not waiting:
        first = next(filter(None, (run.awaits(name) for run in runs)), None)
        return "done" if first is None else f"done, unless {first} comes out differently"
    reason = next(iter(waiting.values()))
    return f"to do ({reason})" if len(runs) == 1 else f"to do for {len(waiting)} of {len(runs)} seeds ({reason})"
