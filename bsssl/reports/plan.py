"""What a recipe or a transfer would do, before it does it: ``--plan``."""

from collections.abc import Callable, Iterable, Sequence

from bsssl import config as configs
from bsssl import storage
from bsssl.errors import UserError
from bsssl.pipeline.run import Run, Stage, all_seeds, networks
from bsssl.registry import DATASETS
from bsssl.reports.tables import Table
from bsssl.runtime.distributed import world_size


def plan(
    config: configs.Experiment, *, config_path: str, wanted: Callable[[str], bool], processes: int | None = None
) -> str:
    """Return the networks with their exact costs, then every stage with its sizes and whether it is done, as text.

    Data that is not there yet does not hinder the plan when the config says ``data.num_classes``; what depends on the
    size of such data is then shown as unknown.

    Args:
        config: The recipe or the transfer.
        config_path: The file of the config, as the plan shows it.
        wanted: Whether to show the stage of a name.
        processes: The number that a training will have; by default those of this run.
    """
    from bsssl.recipes.check import check_settings  # imports torch

    check_settings(config, processes=processes)
    runs = all_seeds(config, config_path=config_path)
    sizes, remark = _sizes(config, runs[0])
    classes = sizes.get("classes", config.data.num_classes)
    costs = Table(["network", "name", "parameters", "multiply-adds"], [*_networks(config, classes)])
    header = ["stage", "rows", "batch", "steps", "samples processed", "highest rate", "state"]
    names = [name for name in runs[0].stages if wanted(name)]
    stages = Table(header, [(*_row(config, runs[0], name, sizes), _state(runs, name)) for name in names])
    title = f"{config_path} -> {config.output_dir}, seeds {', '.join(str(run.seed) for run in runs)}"
    return "\n\n".join([title, costs.text(), stages.text(), *([remark] if remark else [])])


def _networks(config: configs.Experiment, classes: int | None) -> Iterable[tuple[str, ...]]:
    from bsssl.models import profile  # imports torch

    for key, model in networks(config, seed=config.seed).items():
        role = key.split(".")[1]
        if classes is None:
            yield role, model.name, "unknown", "unknown (set data.num_classes)"
            continue
        shape = model.view_of(config.data).input_shape
        cost = profile(model.name, num_classes=classes, input_shape=shape, **model.options)
        yield role, model.name, f"{cost.parameters:,}", f"{cost.multiply_adds:,} at {'x'.join(map(str, shape[1:]))}"


def _sizes(config: configs.Experiment, run: Run) -> tuple[dict[str, int], str]:
    """Return how many items there are, by the data stage's result, else by looking; and a remark when that fails."""
    from bsssl.stages.data import pool_sources, split  # imports torch

    if run.pending("data") is None:
        return run.result("data"), ""
    settings = config.data
    try:
        labeled, rest, test, classes = split(settings, seed=run.seed)
        sizes = {"labeled": len(labeled), "rest": len(rest), "test": len(test), "classes": len(classes)}
        if isinstance(settings, configs.Data):
            pool = sum(len(records) for source in pool_sources(settings, None) for records in source.batches())
            pool += len(rest) if settings.rest_in_pool else 0
            sizes["pool"] = round(pool * settings.pool_fraction)
    except (UserError, OSError) as error:
        sources = settings.sources()
        if all(DATASETS.get(source.dataset).makes_files or storage.exists(source.path) for source in sources):
            raise  # the data is there: something else is wrong
        return {}, f"sizes are unknown until the data is there: {error}"
    return sizes, ""


def _row(config: configs.Experiment, run: Run, name: str, sizes: dict[str, int]) -> tuple[str, ...]:
    stage = run.stages[name]
    if stage.kind == "train":
        return _training_row(config, run, stage, sizes)
    rows: int | None = sizes.get("test")
    if stage.kind == "score":
        rows = sizes.get("pool")
        return name, _number(rows), str(config.eval_batch()), "", _number(rows), ""
    if stage.kind in ("select", "materialise"):
        return name, _selected(config, run, name, sizes), "", "", "", ""
    if stage.kind == "probe":
        rows = sizes.get("labeled")
    if stage.kind == "tags":
        return name, _number(_tagged(run)), "", "", "", ""
    if stage.kind == "data":
        rows = sizes["labeled"] + sizes["test"] + sizes.get("pool", 0) if sizes else None
    return name, _number(rows), "", "", "", ""


def _training_row(config: configs.Experiment, run: Run, stage: Stage, sizes: dict[str, int]) -> tuple[str, ...]:
    settings: configs.Train = getattr(config, stage.section)
    shown = _number(sizes.get("labeled"))
    rows = sizes.get("labeled")
    if stage.section == "ceiling" and sizes:
        rows = sizes["labeled"] + sizes["rest"]
        shown = _number(rows)
    if stage.section == "weak":
        rows = _tagged(run)
        shown = _number(rows)
    if stage.section == "pretrain":
        selected = next(need for need in stage.needs if need.startswith(("select", "materialise")))
        shown = _selected(config, run, selected, sizes)
        rows = run.result(selected)["pairs"] if run.pending(selected) is None else None
    rate = settings.base_lr * settings.batch_size / 256
    if settings.length.unit == "epochs" and rows is None:
        return stage.name, shown, str(settings.batch_size), str(settings.length), "unknown", f"{rate:g}"
    steps = settings.length.steps(batch_size=settings.batch_size, rows=rows or 0)
    _check_warmup(stage.section, settings, steps, rows)
    processes = f" over {world_size()} processes" if world_size() > 1 else ""
    batch = f"{settings.batch_size}{processes}"
    return stage.name, shown, batch, f"{steps:,}", f"{steps * settings.batch_size:,}", f"{rate:g}"


def _tagged(run: Run) -> int | None:
    """Return the number of samples with tags to train on; None before the tags stage has counted them."""
    return run.result("tags")["samples"] if run.pending("tags") is None else None


def _check_warmup(section: str, settings: configs.Train, steps: int, rows: int | None) -> None:
    if rows is None and settings.warmup.unit == "epochs":
        return
    warmup = settings.warmup.steps(batch_size=settings.batch_size, rows=rows or 0)
    configs.check_warmup(section, settings, steps=steps, warmup_steps=warmup)


def _selected(config: configs.Experiment, run: Run, name: str, sizes: dict[str, int]) -> str:
    if run.pending(name) is None:
        return f"{run.result(name)['pairs']:,}"
    classes = sizes.get("classes", config.data.num_classes)
    stage = run.stages[name]
    select = stage if stage.kind == "select" else run.stages[stage.needs[0]]
    return "unknown" if classes is None else f"at most {classes * select.settings['top_k']:,}"


def _state(runs: Sequence[Run], name: str) -> str:
    reasons = {run.seed: run.pending(name) for run in runs}
    waiting = {seed: reason for seed, reason in reasons.items() if reason is not None}
    if not waiting:
        return "done"
    reason = next(iter(waiting.values()))
    return f"to do ({reason})" if len(runs) == 1 else f"to do for {len(waiting)} of {len(runs)} seeds ({reason})"


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"
