"""The paper's stages in order: what each needs and leaves, what is already done, and why something runs again.

    data -> teacher -> score -> select (-> materialise) -> pretrain -> finetune     (more rounds: from score on again)
      \\-> tags -> weak, before teacher
      \\-> baseline, ceiling                    evaluate-* after every trained network

and of a transfer, for each of its checkpoints:

    data -> full_ft-NAME, fc_only-NAME         evaluate-* after each of them

Each stage of each seed has a folder; its ``done.json`` appears last, with the fingerprint of the stage's settings and
inputs and digests of what it read and left. A stage whose fingerprint is what the config asks for is not run again,
unless something it read has been made anew and come out differently.
"""

import datetime
import os
import subprocess
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, cast

import yaml
from typing_extensions import TypeVar

from bsssl import data as data  # registers the datasets
from bsssl import selection, storage
from bsssl.config import TRAIN_STAGES, Config, Data, Experiment, Model, Purpose, Source, Transfer, Weak
from bsssl.errors import UserError
from bsssl.recipes.origins import DONE as DONE
from bsssl.recipes.origins import WEIGHTS, origin
from bsssl.registry import DATASETS
from bsssl.runtime import console as log
from bsssl.runtime import distributed
from bsssl.runtime.console import logger

C = TypeVar("C", bound=Experiment, covariant=True, default=Experiment)
E = TypeVar("E", bound=Experiment)
HELD = "held.hashes"  # of the contents of labeled and test items, which the pool must not hold
SELECTION, POOL = "selection.parquet", "pool"
CLASSES, TAGGED = "classes.json", "tagged.parquet"
RESULTS: dict[str, dict[str, tuple[str, ...]]] = {
    "data": {
        "items": (CLASSES, "test.csv"),
        "labels": ("labeled.csv", "rest.csv"),
        "pool": (f"{POOL}/pool.json", HELD),
    },
    "tags": {"tagged": (TAGGED, CLASSES, "tags.csv")},
    "train": {"weights": (WEIGHTS,)},
    "probe": {"weights": (WEIGHTS,)},
    "score": {"scores": ()},  # one file per shard of the pool, of what is read alone
    "select": {"selection": (SELECTION,)},
    "materialise": {"selection": (SELECTION,)},  # and the tars that it names
    "evaluate": {"figures": ("metrics.json", "predictions.parquet")},
}
"""The files that each kind of stage leaves, by the parts in which others read them."""
COMMANDS = {
    "train": "train_net.py",
    "score": "score_pool.py",
    "select": "select_samples.py",
    "materialise": "materialise_samples.py",
    "evaluate": "test_net.py",
}
PACKAGES = ("bsssl", "torch", "torchvision", "timm", "numpy", "pyarrow")


@dataclass(frozen=True)
class Stage:
    """One step of the recipe."""

    name: str
    """unique in a run: teacher, score, select-2, evaluate-finetune, ..."""
    kind: str
    """data, tags, train, score, select, materialise, probe or evaluate"""
    section: str
    """the config's section that sets it: teacher, score, ... ; of an evaluation, the trained stage's"""
    needs: tuple[str, ...]
    """names of the stages whose results it reads"""
    settings: dict[str, Any]
    """everything in the config that decides its result, apart from what it needs"""


@dataclass(frozen=True)
class Task:
    """One of the tasks that share the independent parts of a stage: part i is of task i % count."""

    number: int
    count: int


def stages(config: Experiment, *, seed: int) -> list[Stage]:
    """All stages of ``config`` for one seed, each after those it needs."""
    if isinstance(config, Transfer):
        return _transfer_stages(config, seed)
    return _recipe_stages(cast(Config, config), seed)


def networks(config: Experiment, *, seed: int) -> dict[str, Model]:
    """Every network of ``config``, by the key that sets it."""
    if isinstance(config, Transfer):
        named = config.checkpoints.items()
        return {f"checkpoints.{name}.model": origin(name, checkpoint, seed=seed).model for name, checkpoint in named}
    models = cast(Config, config).models
    return {"models.teacher": models.teacher, "models.student": models.student}


def _recipe_stages(config: Config, seed: int) -> list[Stage]:
    planned = [Stage("data", "data", "data", (), _data_settings(config, seed))]
    if config.weak is not None:
        planned.append(Stage("tags", "tags", "weak", ("data",), _tags_settings(config.weak, config.data)))
        planned += _trained(config, seed, "weak", sources=("tags",))
    planned += _trained(config, seed, "teacher")
    teacher = "teacher"
    for round_number in range(1, config.rounds + 1):
        suffix = f"-{round_number}" if round_number > 1 else ""
        score, select = f"score{suffix}", f"select{suffix}"
        model = config.models.teacher if round_number == 1 else config.models.student
        score_settings = {"top_p": config.score.top_p, "pool_overlap": config.data.pool_overlap}
        score_settings |= _seen_by(model, config, "score")
        planned.append(Stage(score, "score", "score", ("data", teacher), score_settings))
        chosen_by = config.select.model_dump(exclude={"grow"})
        chosen_by |= {"top_k": config.select.top_k_of(round_number, rounds=config.rounds), "seed": seed}
        planned.append(Stage(select, "select", "select", (score,), chosen_by))
        chosen = select
        if config.materialise is not None:
            chosen = f"materialise{suffix}"
            copied = {**config.materialise.model_dump(), "seed": seed}
            planned.append(Stage(chosen, "materialise", "materialise", (select,), copied))
        sources = (chosen, score) if config.pretrain.targets == "soft" else (chosen,)
        planned += _trained(config, seed, "pretrain", suffix, sources)
        planned += _trained(config, seed, "finetune", suffix)
        teacher = f"finetune{suffix}"
    planned += _trained(config, seed, "baseline")
    if config.ceiling is not None:
        planned += _trained(config, seed, "ceiling")
    return planned


def _trained(config: Config, seed: int, section: str, suffix: str = "", sources: tuple[str, ...] = ()) -> list[Stage]:
    """A training and, where its classes are those of the test set, the evaluation of its result."""
    train = getattr(config, section)
    model = config.models.teacher if section in ("weak", "teacher") else config.models.student
    needs = ("data", *sources)
    settings = {section: train.model_dump(exclude={"sources", "tags"}), "model": model.model_dump(), "seed": seed}
    settings |= {**model.view_of(config.data).preprocessing("train"), "precision": config.system.precision}
    if train.init_from in TRAIN_STAGES:
        needs += (train.init_from + (suffix if train.init_from in ("pretrain", "finetune") else ""),)
    elif train.init_from is not None:
        settings["init_from"] = storage.state(train.init_from)
    stage = Stage(section + suffix, "train", section, needs, settings)
    is_tested = not isinstance(train, Weak) or train.is_tested
    return [stage, _evaluation(config, stage, model)] if is_tested else [stage]


def _reads(stage: Stage, part: str) -> bool:
    """Whether ``stage`` depends on this part of the data stage."""
    return part == "items" or stage.kind == "score" or (part == "labels" and stage.section != "weak")


def _evaluation(config: Experiment, stage: Stage, model: Model) -> Stage:
    tested = {**_seen_by(model, config, "test"), "max_missing_rate": config.data.max_missing_rate}
    return Stage(f"evaluate-{stage.name}", "evaluate", stage.section, ("data", stage.name), tested)


def _transfer_stages(config: Transfer, seed: int) -> list[Stage]:
    planned = [Stage("data", "data", "data", (), _labels_settings(config, seed))]
    for name, checkpoint in config.checkpoints.items():
        start = origin(name, checkpoint, seed=seed)
        common = {"model": start.model.model_dump(), "seed": seed, "precision": config.system.precision}
        common["init_from"] = start.path and storage.state(start.path)
        seen = start.model.view_of(config.data)
        for section, kind, purpose in (("full_ft", "train", "train"), ("fc_only", "probe", "test")):
            if getattr(config, section) is None:
                continue
            own = {**getattr(config, section).model_dump(), "init_from": start.path}
            settings = {section: own, **common, **seen.preprocessing(cast(Purpose, purpose))}
            stage = Stage(f"{section}-{name}", kind, section, ("data",), settings)
            planned += [stage, _evaluation(config, stage, start.model)]
    return planned


def _labels_settings(config: Experiment, seed: int) -> dict[str, Any]:
    data = config.data
    items = data.model_dump(include={"train", "test", "num_classes"})
    items |= {"videos": data.clips is not None, "files": _files_state([data.train, data.test])}
    labels = data.model_dump(include={"labels_per_class", "imbalance"})
    return {"items": items, "labels": labels | ({"seed": seed} if data.labels_per_class else {})}


def _data_settings(config: Config, seed: int) -> dict[str, Any]:
    """In the parts that others read: another pool does not change the teacher, nor other labels what tags taught."""
    data = config.data
    pool = data.model_dump(include={"pool", "rest_in_pool", "shard_size", "pool_overlap"})
    if data.pool_fraction < 1:
        pool |= {"fraction": data.pool_fraction, "seed": seed}
    return {**_labels_settings(config, seed), "pool": pool | {"files": _files_state(data.pool)}}


def _tags_settings(weak: Weak, data: Data) -> dict[str, Any]:
    tags = weak.tags
    named = [path for path in (tags.file, tags.map, tags.spelling) if isinstance(path, str)]
    return {
        **weak.model_dump(include={"sources", "tags"}),
        "videos": data.clips is not None,
        "overlap": data.pool_overlap,
        "files": [*_files_state(weak.sources), *map(storage.state, named)],
    }


def _files_state(sources: Sequence[Source]) -> list[Any]:
    return [storage.state(source.path) for source in sources if not DATASETS.get(source.dataset).makes_files]


def _seen_by(model: Model, config: Experiment, purpose: Purpose) -> dict[str, Any]:
    """What decides the scores that a trained ``model`` gives."""
    seen = model.view_of(config.data).preprocessing(purpose)
    return {"model": model.model_dump(), "precision": config.system.precision, **seen}


class Run(Generic[C]):
    """One seed of a recipe or of a transfer, in ``output_dir/seed-<seed>``.

    Args:
        config: the recipe, or the transfer.
        seed: of this run.
        config_path: the file the config came from and its overrides, as in the commands that errors name.
        only: names of the stages of interest; all when empty.
    """

    def __init__(self, config: C, *, seed: int, config_path: str, only: Container[str] = ()) -> None:
        self.config = config
        self.seed = seed
        self.config_path = config_path
        self.path = Path(config.output_dir) / f"seed-{seed}"
        self.stages = {stage.name: stage for stage in stages(config, seed=seed) if not only or stage.name in only}
        self._fingerprints: dict[str, str] = {}

    def folder(self, name: str) -> Path:
        """Where stage ``name`` leaves its results."""
        return self.path / name

    def fingerprint(self, name: str) -> str:
        """Of the settings and inputs that the config gives stage ``name``."""
        if name not in self._fingerprints:
            stage = self.stages[name]
            self._fingerprints[name] = storage.fingerprint([stage.settings, self._input_fingerprints(stage)])
        return self._fingerprints[name]

    def identity(self, name: str) -> str:
        """Of stage ``name`` with the results that its inputs have by now: equal ones compute the same."""
        return storage.fingerprint([self.fingerprint(name), self._read(name)])

    def digest(self, name: str) -> str:
        """Of what the finished stage ``name`` left."""
        return storage.fingerprint(self._finished(name)["digests"])

    def _input_fingerprints(self, stage: Stage) -> dict[str, str]:
        found = {need: self.fingerprint(need) for need in stage.needs}
        if "data" in found:
            parts = self.stages["data"].settings
            found["data"] = storage.fingerprint([settings for part, settings in parts.items() if _reads(stage, part)])
        return found

    def _read(self, name: str) -> dict[str, dict[str, str]]:
        """Digests of what stage ``name`` reads of those of its inputs that are done, by input and part."""
        stage = self.stages[name]
        records = {need: record for need in stage.needs if (record := self.record(need)) is not None}
        return {
            need: {part: digest for part, digest in record["digests"].items() if need != "data" or _reads(stage, part)}
            for need, record in records.items()
        }

    def record(self, name: str) -> dict[str, Any] | None:
        """What stage ``name`` wrote when it was done last, whatever the settings then; None if it never was."""
        path = self.folder(name) / DONE
        return storage.read_json(str(path)) if path.exists() else None

    def result(self, name: str) -> dict[str, Any]:
        """The figures that the finished stage ``name`` left."""
        result: dict[str, Any] = self._finished(name)["result"]
        return result

    def _finished(self, name: str) -> dict[str, Any]:
        record = self.record(name)
        if record is None:
            raise UserError(f"stage '{name}' of {self.path} is not done; run first: {self.command(name)}")
        return record

    def pending(self, name: str) -> str | None:
        """Why stage ``name`` has to run; None when its result is there with these very settings and inputs."""
        record = self.record(name)
        if record is None:
            return "not done yet"
        if record["fingerprint"] == self.fingerprint(name):
            renewed = [need for need, digests in self._read(name).items() if record["read"][need] != digests]
            return f"{renewed[0]} was made again and came out differently" if renewed else self._lost(name)
        stage = self.stages[name]
        changes = _differences(record["settings"], storage.as_json(stage.settings))
        inputs = self._input_fingerprints(stage)
        changes += [f"{need} has changed" for need in inputs if record["inputs"].get(need) != inputs[need]]
        return "; ".join(changes[:3]) + (f"; and {len(changes) - 3} more" if len(changes) > 3 else "")

    def _lost(self, name: str) -> str | None:
        """Which files of a finished stage somebody has removed since; None when all are there."""
        folder, names = self.folder(name), self._left_by(name)
        there = set(os.listdir(folder))  # at once: a pool may have very many shards
        if (folder / POOL).is_dir():
            there |= {f"{POOL}/{file}" for file in os.listdir(folder / POOL)}
        lost = sorted(file for file in names if file not in there and not (folder / file).exists())
        return f"{lost[0]} is missing" + (f", and {len(lost) - 1} more" if lost[1:] else "") if lost else None

    def _left_by(self, name: str) -> set[str]:
        """The files of the finished stage ``name``, by their paths in its folder."""
        kind, folder, data_record = self.stages[name].kind, str(self.folder(name)), self.record("data")
        names = {file for files in _results(self.stages[name]).values() for file in files}
        shards = range(data_record["result"].get("pool_shards", 0)) if data_record is not None else range(0)
        if kind == "data":
            names |= {f"{POOL}/{data.shard_file(number)}" for number in shards}
        elif kind == "score" and data_record is not None:
            names = {Path(selection.score_path(folder, number)).name for number in shards}
        elif kind == "materialise":
            tars = range(self._finished(name)["result"]["tars"])
            names |= {Path(data.tar_path(folder, number)).name for number in tars}
        return names

    def execute(self, name: str) -> None:
        """Run stage ``name`` unless it is done; all it needs must be there."""
        from bsssl.stages import clean_up, run_stage  # imports torch

        # One answer for all: nobody may look after somebody has begun to write, or see less of a network's file system.
        reason = distributed.from_main(lambda: self.pending(name))
        if reason is None:
            logger.info("seed %d: %s is done already", self.seed, name)
            return
        self.require_inputs(name)
        logger.info("seed %d: %s (%s)", self.seed, name, reason)
        started = time.monotonic()
        if distributed.is_main():
            storage.write_text(str(self.path / "config.yaml"), as_yaml(self.config))
            (self.folder(name) / DONE).unlink(missing_ok=True)
        result = run_stage(self, self.stages[name])
        if distributed.is_main():
            self._finish(name, result, time.monotonic() - started)
            clean_up(self, self.stages[name])
        distributed.barrier()

    def execute_task(self, name: str, task: Task) -> None:
        """Do the share of ``task`` of what stage ``name`` lacks; ``execute`` finishes the stage after all of them."""
        from bsssl.stages import run_task  # imports torch

        reason = self.pending(name)
        if reason is None:
            logger.info("seed %d: %s is done already", self.seed, name)
            return
        self.require_inputs(name)
        logger.info("seed %d: task %d of %d of %s (%s)", self.seed, task.number, task.count, name, reason)
        # What another config finished is about to be written over.
        (self.folder(name) / DONE).unlink(missing_ok=True)
        run_task(self, self.stages[name], task)

    def require_inputs(self, name: str, *, besides: Container[str] = ()) -> None:
        """UserError naming the command to run first when something that stage ``name`` needs is not there.

        ``besides``: stages that are on their way.
        """
        for need in reversed(self.stages[name].needs):  # the data last: what needs the rest has seen to it
            reason = None if need in besides else self.pending(need)
            if reason is not None:
                raise UserError(
                    f"{name} needs the result of '{need}' in {self.folder(need)} ({reason}); run first: "
                    f"{self.command(need)}"
                )

    def command(self, name: str) -> str:
        """The command line that runs stage ``name``."""
        stage = self.stages[name]
        if name not in (stage.section, f"evaluate-{stage.section}") or stage.kind == "data":
            return f"python tools/{self.config.tool} --config {self.config_path}"
        line = f"python tools/{COMMANDS[stage.kind]} --config {self.config_path}"
        return line if stage.kind in ("score", "select", "materialise") else f"{line} stage={stage.section}"

    def _finish(self, name: str, result: dict[str, Any], seconds: float) -> None:
        stage, read = self.stages[name], self._read(name)
        digests = {
            part: storage.digest(str(self.folder(name) / file) for file in files)
            for part, files in _results(stage).items()
        }
        if stage.kind == "score":
            digests["scores"] = storage.fingerprint([stage.settings, read])
        storage.write_json(
            str(self.folder(name) / DONE),
            {
                "stage": name,
                "fingerprint": self.fingerprint(name),
                "result": result,
                "seconds": round(seconds, 1),
                "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "processes": distributed.world_size(),
                "inputs": self._input_fingerprints(stage),
                "read": read,
                "digests": digests,
                "settings": stage.settings,
                "versions": {package: metadata.version(package) for package in PACKAGES},
                "git": _revision(),
            },
        )


def _results(stage: Stage) -> dict[str, tuple[str, ...]]:
    """The files that ``stage`` leaves, by part; of the data those parts that are asked for."""
    files = RESULTS[stage.kind]
    return {part: files[part] for part in files if stage.kind != "data" or part in stage.settings}


def execute(
    runs: Sequence[Run], *, wanted: Callable[[str], bool], task: Task | None = None, debug: bool = False
) -> None:
    """Run the stages that ``wanted`` names, of one run after the other; those that are done are skipped.

    Under torchrun every process calls this, and they share the work. With ``task``, only its share of these stages is
    done.
    """
    from bsssl.recipes.check import check  # imports torch

    log.setup(debug=debug)
    for config in {id(run.config): run.config for run in runs}.values():
        check(config)
    distributed.init(runs[0].config.system.device)
    for run in runs:
        names = list(filter(wanted, run.stages))
        for name in names:
            run.require_inputs(name, besides=names)
        for name in names:
            if task is None:
                run.execute(name)
            else:
                share = Task(
                    task.number * distributed.world_size() + distributed.rank(), task.count * distributed.world_size()
                )
                run.execute_task(name, share)
    distributed.shutdown()  # not after an error: the others may be waiting for this process, which torchrun ends


def all_seeds(config: E, *, config_path: str, only: Container[str] = ()) -> list[Run[E]]:
    """One run per seed of ``config``, of the stages ``only`` names, or all."""
    seeds = range(config.seed, config.seed + config.seeds)
    return [Run(config, seed=seed, config_path=config_path, only=only) for seed in seeds]


def as_yaml(config: Experiment) -> str:
    """The resolved config as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The values that differ between two nested settings, as ``path: old -> new``."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        parts = [_differences(old.get(key), new.get(key), f"{path}.{key}" if path else key) for key in keys]
        return [line for lines in parts for line in lines]
    if old == new:
        return []
    return [f"{path}: {old} -> {new}" if len(f"{old}{new}") < 80 else f"{path} has changed"]


def _revision() -> str | None:
    """The git revision of the installed project, with a + when files differ from it; None outside a checkout."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=12"]
    try:
        return subprocess.run(command, cwd=here, capture_output=True, text=True).stdout.strip() or None
    except OSError:
        return None  # git is not installed
