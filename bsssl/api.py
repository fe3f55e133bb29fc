"""The project for Python programs and notebooks: recipes, trained networks, scoring and selection without commands.

Nothing here touches the settings of the caller's program: log lines go to the standard logger ``bsssl``, which has no
handler of its own (``logging.basicConfig(level="INFO")`` shows them), progress bars go to standard error, and torch's
random state and number of threads are afterwards what they were before. What the user can mend is a ``UserError``,
worded as on the command line.
"""

import contextlib
import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from bsssl.config import Clips, Config, Section, System, Transfer, Transforms
from bsssl.config import Model as ModelSection
from bsssl.config.plugins import load_plugins
from bsssl.config.reading import check_kind, checked, lay_over, read_yaml
from bsssl.errors import UserError
from bsssl.reports.recipe import Results
from bsssl.reports.runs import collect_results, write_results
from bsssl.runtime import distributed

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from bsssl.data import Views
    from bsssl.pipeline.run import Run
    from bsssl.reports.plan import Plan
    from bsssl.reports.transfer import TransferResults
    from bsssl.runtime.device import Compute
    from bsssl.selection import Selection
    from bsssl.selection.scores import ScoreFile
    from bsssl.stages.seen import ClipView, TestView

__all__ = [
    "Model",
    "Preprocessing",
    "Recipe",
    "Results",
    "UserError",
    "load",
    "score",
    "select",
]

AnyPath = str | os.PathLike[str]
Device = Literal["auto", "cpu", "cuda"]


class Recipe:
    """A config, ready to be planned and run in this process.

    ``Recipe("quickstart.yaml", {"select.top_k": 100}, output_dir="outputs/try")``

    Args:
        config: The path of a YAML file, its content as a mapping, or a ``Config`` or ``Transfer``.
        overrides: What is set on top of that. A name with dots sets that key, as ``select.top_k=100`` does on the
            command line; a mapping under a name without dots sets the keys that are in it and leaves the others.
        settings: Likewise, for keys at the top of the config.

    Raises:
        UserError: Something is wrong with the config; the message has one line per problem.
    """

    config: Config | Transfer
    """the resolved config"""

    def __init__(
        self,
        config: AnyPath | Mapping[str, Any] | Config | Transfer,
        overrides: Mapping[str, Any] | None = None,
        /,
        **settings: Any,
    ) -> None:
        if isinstance(config, Mapping | Section):
            values, self._origin = _plain(config), "config"
        else:
            self._origin = os.fspath(config)
            values = read_yaml(self._origin)
        schema: type[Config | Transfer] = Transfer if "checkpoints" in values else Config
        check_kind(self._origin, values, schema)
        lay_over(values, _plain(overrides or {}))
        lay_over(values, _plain(settings))
        self.config = checked(values, schema, origin=self._origin)

    def __repr__(self) -> str:
        return f"Recipe({self._origin!r} -> {self.config.output_dir})"

    def plan(self) -> "Plan":
        """Return what would run, with sizes, costs and what is done already; it prints as what ``--plan`` prints."""
        from bsssl.reports.plan import plan

        return plan(self.config, config_path=self._origin, wanted=lambda stage: True)

    def run(self, *, seeds: int | None = None, redo: bool = False) -> "Results | TransferResults":
        """Run every stage that is not done yet, write the tables of results as the command line does, and return them.

        A run that was interrupted goes on where it stopped when it is called again.

        Args:
            seeds: How many seeds run, instead of what the config says.
            redo: Whether work of other settings is replaced instead of kept aside.

        Raises:
            UserError: Something is wrong with the config or the data.
        """
        from bsssl.pipeline.runner import execute
        from bsssl.recipes.check import check

        config = self._of(seeds)
        with _torch_as_it_was(config.system.device):
            check(config)
            runs = self._runs(config)
            execute(runs, wanted=lambda stage: True, device=config.system.device, redo=redo)
        if distributed.is_main():
            write_results(config, runs)
        return collect_results(config, runs)

    def results(self, *, seeds: int | None = None) -> "Results | TransferResults":
        """Return the results of a run that is finished, without running anything.

        Args:
            seeds: Of how many seeds, instead of what the config says.

        Raises:
            UserError: A stage is not done with these settings.
        """
        config = self._of(seeds)
        runs = self._runs(config)
        for run in runs:
            for name in run.stages:
                if (reason := run.pending(name)) is not None:
                    raise UserError(f"there are no results yet: {name} in {run.path} is to do ({reason}); call run()")
        return collect_results(config, runs)

    def _of(self, seeds: int | None) -> Config | Transfer:
        if seeds is None:
            return self.config
        values = {**self.config.model_dump(mode="json"), "seeds": seeds}
        return checked(values, type(self.config), origin=self._origin)

    def _runs(self, config: Config | Transfer) -> "list[Run]":
        from bsssl.recipes.runs import all_runs

        # The commands that errors name must lead to the same run: its folder has the config with all overrides.
        return all_runs(config, config_path=os.path.join(config.output_dir, f"seed-{config.seed}", "config.yaml"))


@dataclass(frozen=True)
class Preprocessing:
    """How a network sees a picture, or the frames of a video, when it is tested."""

    size: int
    """side of the square input, pixels"""
    resize: int | None
    """short side before the centre crop, pixels; None: the whole picture becomes the square"""
    mean: tuple[float, ...]
    """subtracted from pixel values in 0..1, per channel"""
    std: tuple[float, ...]
    """by which these are then divided, per channel"""
    clips: "ClipView | None" = None
    """how clips are cut out of a video; None for pictures"""


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A network that a stage has trained, see ``load``."""

    folder: Path
    """where it was loaded from"""
    name: str
    """the architecture"""
    options: dict[str, Any]
    """of the architecture"""
    classes: list[str]
    """in the order of the network's outputs"""
    network: "nn.Module"
    """maps a normalised float batch to logits; in eval mode"""
    preprocessing: Preprocessing
    precision: str
    """of the forward pass, as in the stage's own test"""
    _seen: "TestView" = field(repr=False)
    _section: ModelSection = field(repr=False)
    _compute: "Compute" = field(repr=False)

    def __repr__(self) -> str:
        shape = "x".join(map(str, self._input_shape))
        return f"Model({self.name!r}, {len(self.classes)} classes, inputs {shape}, from {str(self.folder)!r})"

    def predict_probabilities(
        self, images: "Iterable[AnyPath | Image.Image | npt.NDArray[np.uint8]]", *, batch_size: int = 64
    ) -> npt.NDArray[np.float32]:
        """Return the probability of every class for every image, float32 (images, classes).

        Args:
            images: Paths or URLs of pictures, of a network for videos of videos; or in memory, Pillow's pictures or
                uint8 arrays (height, width, 3). They are read as the batches need them.
            batch_size: Inputs that the network sees at a time.

        Raises:
            UserError: An image cannot be read.
        """
        from bsssl.data import Normalize, collate
        from bsssl.engine.predict import predict

        views = self._seen.views(deadline=Clips().deadline)

        def batches() -> Iterator[dict[str, Any]]:
            waiting: list[list[Any]] = []
            for index, image in enumerate(images):
                waiting.append(_samples(image, index, self._seen, views))
                if len(waiting) >= max(1, batch_size // views.count):
                    yield collate(waiting)
                    waiting = []
            if waiting:
                yield collate(waiting)

        transforms = self._seen.transforms
        normalize = Normalize(mean=transforms.mean, std=transforms.std).to(self._compute.device)
        predictions = predict(self.network, batches(), normalize=normalize, compute=self._compute)
        found = [prediction.probabilities for prediction in predictions]
        every = np.concatenate(found) if found else np.zeros((0, len(self.classes)), np.float32)
        mean: npt.NDArray[np.float32] = every.reshape(-1, views.count, len(self.classes)).mean(1)
        return mean

    def export(self, format: str, path: AnyPath, **options: Any) -> None:
        """Write the network for another program.

        Args:
            format: The name of an exporter, such as ``torch-export``; ``bsssl options exporters`` lists them.
            path: The file or folder to write.
            options: The options of the exporter.

        Raises:
            UserError: There is no such exporter or option, or the network cannot be exported by it.
        """
        from bsssl.models import TrainedNetwork
        from bsssl.registry import EXPORTERS

        network = TrainedNetwork(
            network=self.network,
            name=self.name,
            options=self.options,
            classes=self.classes,
            input_shape=self._input_shape,
            mean=self.preprocessing.mean,
            std=self.preprocessing.std,
        )
        EXPORTERS.build(format, options, model=network, path=os.fspath(path))

    @property
    def _input_shape(self) -> tuple[int, ...]:
        side, clips = self.preprocessing.size, self.preprocessing.clips
        return (3, side, side) if clips is None else (3, clips.frames, side, side)


def load(folder: AnyPath, *, device: Device = "auto") -> Model:
    """Return the network that a trained stage left in ``folder``, such as ``outputs/quickstart/seed-0/finetune``.

    A network of a module of your own, which a config names under ``plugins``, is known once that module is imported.
    How many clips of a video are averaged is taken from the test of the stage, beside its folder; 10 where there is
    none.

    Args:
        folder: The folder of the stage.
        device: Where the network computes; ``auto`` is a GPU where there is one.

    Raises:
        UserError: The folder is none of a trained stage, or something in it is missing or damaged.
    """
    place = Path(folder)
    path = _weights_in(place)
    recorded = _recorded(place)
    if recorded is None:
        raise UserError(
            f"{place} has weights but no done.json, which says how the network sees images: the training is not "
            "finished or the file was deleted; run the stage again"
        )
    stage, settings = recorded
    from bsssl.models import saved_facts
    from bsssl.runtime.device import make_compute
    from bsssl.stages.computing import trained_model

    load_plugins(())
    facts = saved_facts(str(path))
    if not facts:
        raise UserError(f"{path} does not say which network it is of: another tool wrote it, or it is damaged")
    try:
        section, precision = ModelSection.model_validate(settings["model"]), str(settings["precision"])
        seen = _test_view(stage, settings, place)
    except (KeyError, TypeError, ValidationError):
        raise UserError(f"{place / 'done.json'} is not the record of a training; run the stage again") from None
    section = section.model_copy(update={"name": facts["model"], "options": facts.get("options", {})})
    with _torch_as_it_was(device):
        compute = make_compute(
            device=device, precision=precision, channels_last=True, compile=False, threads=None, workers=0
        )
        network = compute.place_model(trained_model(place, section, facts["classes"])).eval()
    transforms = seen.transforms
    return Model(
        folder=place,
        name=section.name,
        options=section.options,
        classes=list(facts["classes"]),
        network=network,
        preprocessing=Preprocessing(
            transforms.size, transforms.resize, transforms.mean, transforms.std, clips=seen.clips
        ),
        precision=precision,
        _seen=seen,
        _section=section,
        _compute=compute,
    )


def score(
    model: Model | AnyPath,
    source: AnyPath,
    *,
    to: AnyPath,
    dataset: str = "folder",
    options: Mapping[str, Any] | None = None,
    top_p: int | None = None,
    shard_size: int = 10_000,
    batch_size: int = 256,
    clips: int = 1,
    workers: int = 2,
    max_failure_rate: float = 0.01,
) -> list[Path]:
    """Run a network over pictures or videos and write score files, from which ``select`` chooses.

    Score files that are there already, of this network and these items, are left alone: what was interrupted goes on
    when it is called again.

    Args:
        model: The network, or the folder of the stage that trained it.
        source: A folder of files, a manifest (``dataset="manifest"``) or tars (``dataset="tars"``), local or remote.
        to: The local folder for the score files; the items are listed in its sub-folder ``pool``.
        dataset: What the source is: the name of a registered dataset.
        options: Further arguments of the dataset.
        top_p: Classes kept per item; by default 10, or all where there are fewer.
        shard_size: Items per score file of folders and manifests; a tar always has one of its own.
        batch_size: Inputs that the network sees at a time.
        clips: Clips per video, whose probabilities are averaged.
        workers: Processes that read and decode.
        max_failure_rate: The share of unreadable items that is tolerated; they are listed beside the score files.

    Returns:
        The score files, one per shard.

    Raises:
        UserError: The source cannot be read, too many of its items cannot, or ``top_p`` is impossible.
    """
    from bsssl import data, selection, storage
    from bsssl.models import WEIGHTS
    from bsssl.pipeline.stage import Task
    from bsssl.stages.computing import Execution
    from bsssl.stages.score import ScoreSettings, common_header, remove_surplus, score_pool, totals

    network = model if isinstance(model, Model) else load(model)
    if top_p is not None and not 1 <= top_p <= len(network.classes):
        raise UserError(f"top_p must be from 1 to the network's {len(network.classes)} classes, not {top_p}")
    seen, folder = network._seen, os.fspath(to)
    if seen.clips is not None:
        seen = seen.model_copy(update={"clips": seen.clips.model_copy(update={"count": clips})})
    settings = ScoreSettings(
        top_p=top_p or min(10, len(network.classes)),
        pool_overlap="allow",
        model=network._section,
        precision=network.precision,
        seen=seen,
    )
    execution = Execution(
        system=System(device="cpu" if network._compute.device.type == "cpu" else "cuda", workers=workers),
        batch=batch_size,
        deadline=None if seen.clips is None else Clips().deadline,
        max_failure_rate=max_failure_rate,
    )
    opened = data.open_source(dataset, path=os.fspath(source), options=options or {}, videos=seen.clips is not None)
    pool = data.write_pool([opened], folder=os.path.join(folder, "pool"), shard_size=shard_size)
    remove_surplus(folder, pool)
    teacher = storage.fingerprint({"weights": storage.digest([str(network.folder / WEIGHTS)])})
    with _torch_as_it_was(execution.system.device):
        score_pool(
            pool,
            folder,
            load_network=lambda: network.network,
            settings=settings,
            execution=execution,
            common=common_header(pool, teacher=teacher, classes=network.classes, settings=settings),
            held=frozenset(),
            title="scoring",
            task=Task(0, 1),
        )
    totals(folder, pool, max_failure_rate=max_failure_rate)
    return [Path(path) for path in selection.score_files(folder)]


def select(
    scores: AnyPath | Sequence[AnyPath] | npt.NDArray[Any],
    *,
    keys: Sequence[str] | None = None,
    classes: npt.NDArray[Any] | None = None,
    class_names: Sequence[str] | None = None,
    top_k: int,
    variant: str = "balanced",
    options: Mapping[str, Any] | None = None,
    min_score: float = 0.0,
    seed: int = 0,
) -> "Selection":
    """Choose samples by their scores; arrays give the picks that score files with the same content give.

    Args:
        scores: A folder of score files, the paths of all score files of a pool, or an array (N, P) of scores in [0, 1].
        keys: Only with an array: the names of the N samples, which become their paths too.
        classes: Only with an array: the P distinct classes that each sample keeps, as indices, integers (N, P).
        class_names: Only with an array: the names of the classes.
        top_k: K, the samples per class.
        variant: The name of a selection rule: ``balanced``, ``unbalanced``, ``random`` or one of your own.
        options: Further arguments of the rule.
        min_score: Scores below this do not count.
        seed: For rules that draw at random.

    Returns:
        The selection, with ``to_table()``, ``to_dataframe()``, ``summary()`` and ``write(path)``.

    Raises:
        UserError: Impossible arguments, or files that are damaged, incomplete or do not belong together.
    """
    from bsssl import selection
    from bsssl.runtime.console import progress

    files: list[str | ScoreFile]
    if isinstance(scores, np.ndarray):
        if keys is None or classes is None or class_names is None:
            raise UserError("scores in memory need keys, classes and class_names too; give all of them")
        files = [_in_memory(scores, keys=keys, classes=np.asarray(classes), class_names=class_names)]
    elif keys is not None or classes is not None or class_names is not None:
        raise UserError("keys, classes and class_names go with an array of scores; score files have their own")
    elif isinstance(scores, str | os.PathLike):
        files = [*selection.score_files(os.fspath(scores))]
    else:
        files = [os.fspath(path) for path in scores]
    return selection.select_samples(
        files,
        top_k=top_k,
        variant=variant,
        options=options,
        min_score=min_score,
        seed=seed,
        progress=progress,
    )


def _plain(value: Any) -> Any:
    """Return a value as a YAML file would have it: without sections, paths and tuples."""
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else copy.deepcopy(value)


@contextlib.contextmanager
def _torch_as_it_was(device: str) -> Iterator[None]:
    """Give torch its number of threads and its random state back afterwards; ``device``: where there is work."""
    import torch

    gpus = [torch.cuda.current_device()] if device != "cpu" and torch.cuda.is_available() else []
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=gpus):
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _weights_in(folder: Path) -> Path:
    """Return the file of weights in the folder of a trained stage.

    Raises:
        UserError: There is none.
    """
    from bsssl.models import WEIGHTS
    from bsssl.pipeline.record import BEGUN, DONE

    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}; give that of a trained stage, e.g. outputs/try/seed-0/finetune")
    path = folder / WEIGHTS
    if not path.exists():
        if (folder / DONE).exists() or (folder / BEGUN).exists():
            raise UserError(f"there is no {path}: the training is not finished or the file was deleted; run the stage")
        trained = sorted(below.parent.name for below in folder.glob(f"*/{WEIGHTS}"))
        hint = f"choose one of the folders in it: {', '.join(trained)}" if trained else "give that of a trained stage"
        raise UserError(f"{folder} is not the folder of a trained stage (there is no {WEIGHTS}); {hint}")
    return path


def _recorded(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Return the name and the settings of the finished stage in ``folder``, of a record of format 1 too."""
    from bsssl.pipeline.record import read_record

    record = read_record(folder)
    if record is None:
        return None
    if isinstance(record, dict):
        return record["stage"], _of_today(record["settings"])
    return record.stage, dict(record.settings)


def _of_today(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a stage with a network, in a record of format 1, with what was seen as it is now."""
    from bsssl.stages.seen import earlier_view

    settings = dict(settings)
    return {"seen": earlier_view(settings), **settings}


def _test_view(stage: str, settings: Mapping[str, Any], folder: Path) -> "TestView":
    """Return how the network of a trained stage sees items when it is tested."""
    from bsssl.stages.seen import TestView

    seen = dict(settings["seen"])
    if "resize" not in seen["transforms"]:  # as in training
        seen["transforms"] = Transforms.model_validate(seen["transforms"]).for_testing()
    if seen["clips"] is not None:
        count = seen["clips"]["count"] or _test_clips(stage, folder.parent)
        seen["clips"] = {**seen["clips"], "count": count, "stride_jitter": 0}
    return TestView.model_validate(seen)


def _test_clips(stage: str, run: Path) -> int:
    """Return how many clips of a video a test of ``stage`` took, in the folder of its run, or else the default."""
    for folder in (run / f"evaluate-{stage}", *sorted(run.glob(f"evaluate-{stage}.*"))):
        if (recorded := _recorded(folder)) is not None:
            return int(recorded[1]["seen"]["clips"]["count"])
    return Clips().test_clips


def _samples(image: Any, index: int, seen: "TestView", views: "Views") -> list[dict[str, Any]]:
    """Return the samples of an image at a path or in memory, see ``bsssl.data.ItemDataset``.

    Raises:
        UserError: It cannot be read.
    """
    from bsssl import data

    if isinstance(image, str | os.PathLike):
        path = os.fspath(image)
        samples = data.ItemDataset(data.make_records(key=[path], path=[path]), views=views)[0]
        if isinstance(samples[-1], data.Failure):
            raise UserError(f"image {index} cannot be read: {samples[-1].reason}")
        return [{**sample, "index": index} for sample in samples if isinstance(sample, dict)]
    if seen.clips is not None:
        raise UserError(f"image {index}: the network is for videos; give their paths")
    transform = data.test_transform(size=seen.transforms.size, resize=seen.transforms.resize)
    return [{"input": transform(_pixels(image, index)), "target": -1, "index": index, "view": 0}]


def _pixels(image: Any, index: int) -> "Tensor":
    """Return a picture in memory as uint8 (3, height, width).

    Raises:
        UserError: It is no picture, or none of a supported kind.
    """
    import torch
    from PIL import Image, ImageOps

    from bsssl.data.decoding.pictures import DecodeError, to_tensor

    if isinstance(image, Image.Image):
        try:
            return to_tensor(ImageOps.exif_transpose(image))
        except (DecodeError, OSError) as error:  # Pillow reads a file when its pixels are asked for
            raise UserError(f"image {index} cannot be read: {error}") from None
    if not (isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3):
        shape = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UserError(
            f"image {index}: give a path, a Pillow picture or a uint8 array (height, width, 3), not {shape}"
        )
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)


def _in_memory(
    scores: npt.NDArray[Any], *, keys: Sequence[str], classes: npt.NDArray[Any], class_names: Sequence[str]
) -> "ScoreFile":
    """Return arrays of scores, see ``select``, as the score file of a pool with a single shard.

    Raises:
        UserError: The arrays do not fit together.
    """
    import pyarrow as pa

    from bsssl.selection import SAMPLES_SCHEMA, ScoreHeader
    from bsssl.selection.scores import ScoreFile, score_content

    if scores.ndim != 2 or classes.shape != scores.shape or len(keys) != len(scores):
        raise UserError(
            f"{len(keys)} keys, classes {classes.shape} and scores {scores.shape} do not fit together; give N keys, "
            "classes (N, P) and scores (N, P)"
        )
    header = ScoreHeader(
        teacher="",
        class_names=tuple(class_names),
        top_p=scores.shape[1],
        num_shards=1,
        shard="the scores in memory",
        number=0,
        base=0,
        num_records=len(keys),
    )
    names, rows = pa.array(keys, pa.string()), len(keys)
    columns = [np.arange(rows), names, names, np.zeros(rows, np.int64), np.full(rows, -1)]
    samples = pa.table([pa.array(column) for column in columns], schema=SAMPLES_SCHEMA)
    try:
        content = score_content(header=header, samples=samples, classes=classes, scores=scores)
    except ValueError as error:
        raise UserError(str(error)) from None
    return ScoreFile(header.shard, content)
