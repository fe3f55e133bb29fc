"""The recipe of the paper: which stages a config asks for, and in which order.

data -> contents -> teacher -> score -> select (-> materialise) -> pretrain -> finetune
  \\-> tags -> weak, before teacher      more rounds: from score on again
  \\-> baseline, ceiling                    evaluate-* after every trained network
teacher.mode: probe, before each teacher: features-*
between score and select of the first round, where a network scores: near
select.open_set, between score and select: open_set
select.top_k: auto, between score and select: select-*, pretrain-*, evaluate-pretrain-*.labeled -> choose
pretrain.soft_views, before pretrain: views

Without labels there is no finetune, baseline or ceiling.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bsssl.config import (
    TRAIN_STAGES,
    Config,
    Experiment,
    LabeledData,
    Model,
    Models,
    OpenSet,
    Section,
    Supervised,
    Teacher,
    Train,
    Weak,
    WeakTraining,
    by_role,
    numbered,
)
from bsssl.errors import UserError
from bsssl.pipeline.stage import Stage
from bsssl.recipes.names import CHOOSE, CONTENTS, evaluation
from bsssl.recipes.pretrained import resolved
from bsssl.stages.choose import ChooseStage
from bsssl.stages.computing import Execution
from bsssl.stages.contents import ContentsSettings, ContentsStage, Reading
from bsssl.stages.data import (
    TAUGHT,
    CalibrationSettings,
    DataSettings,
    DataStage,
    ItemsSettings,
    LabelsSettings,
    PoolSettings,
)
from bsssl.stages.evaluate import EvaluateSettings, EvaluateStage
from bsssl.stages.features import FeaturesSettings, FeaturesStage
from bsssl.stages.given import GivenSettings, GivenStage
from bsssl.stages.live import LiveSettings
from bsssl.stages.materialise import MaterialiseSettings, MaterialiseStage
from bsssl.stages.near import NearSettings, NearStage
from bsssl.stages.open_set import OpenSetSettings, OpenSetStage
from bsssl.stages.probe import ProbeSettings, ProbeStage
from bsssl.stages.score import Eyes, ScoreSettings, ScoreStage
from bsssl.stages.seen import TestView, TrainView
from bsssl.stages.select import SelectSettings, SelectStage
from bsssl.stages.tags import TagsStage, tags_settings
from bsssl.stages.train import TrainStage, train_settings
from bsssl.stages.views import ViewsSettings, ViewsStage
from bsssl.stages.zeroshot import ZeroShotSettings, ZeroShotStage

DATA, NEAR = "data", "near"


def stages(config: Config, *, seed: int) -> list[Stage[Any]]:
    """Return all stages of ``config`` for one seed, each after those it needs."""
    *known, student = networks(config).values()
    models = Models(teacher=known[0] if known else None, more_teachers=known[1:], student=student)
    config, teachers = config.model_copy(update={"models": models}), models.teachers
    planned: list[Stage[Any]] = [
        data_stage(
            config.data,
            _pool(config, seed),
            seed=seed,
            top_p=config.score.top_p,
            classes=config.data.classes,
            open_set=config.select.open_set,
        )
    ]
    planned.append(_contents(config))
    if config.weak is not None:
        settings = tags_settings(config.weak, config.data)
        planned.append(
            TagsStage(
                name="tags", section="weak", settings=settings, needs={"data": DATA}, tests=tuple(config.data.tests)
            )
        )
        planned += _trained(config, seed, "weak", _Network("weak", teachers["teacher"]), needs={"tags": "tags"})
    for name, model in teachers.items():
        planned += _trained(config, seed, "teacher", _Network(name, model))
    for number in range(1, config.rounds + 1):
        planned += _round(config, seed, number, [_Network(*one) for one in teachers.items()])
        teachers = {numbered(config.result, number): student}
    if config.data.train is not None:
        planned += _trained(config, seed, "baseline", _Network("baseline", student))
    if config.ceiling is not None:
        planned += _trained(config, seed, "ceiling", _Network("ceiling", student))
    return planned


def _contents(config: Config) -> ContentsStage:
    """Return the stage that looks at the bytes of all items."""
    clips, seen = config.data.clips, config.data
    videos = None if clips is None else Reading(backend=clips.reader, options=clips.reader_options)
    own = seen.model_dump(include={"verify", "duplicates", "pool_overlap", "max_pixels"})
    return ContentsStage(
        name=CONTENTS,
        section=DATA,
        settings=ContentsSettings(**own, videos=videos),
        needs={"data": DATA},
        tests=tuple(seen.tests),
        execution=_execution(config),
        max_missing_rate=seen.max_missing_rate,
        command=("contents",),
    )


def networks(config: Config) -> dict[str, Model]:
    """Return every network of ``config``, the student last, by its key, with what its weights say of it.

    Raises:
        UserError: There are no such weights.
    """
    found = {**config.models.teachers, "student": config.models.student}
    return {f"models.{name}": resolved(f"models.{name}", model, config.data) for name, model in found.items()}


def data_stage(
    settings: LabeledData,
    pool: PoolSettings | None,
    *,
    seed: int,
    top_p: int | None = None,
    classes: Sequence[str] | None = None,
    open_set: OpenSet | None = None,
) -> DataStage:
    """Return the data stage of a recipe, or of a transfer, which has no pool.

    ``classes`` are those of data without labels; ``open_set`` says which labels are held out of all that scores.
    """
    labels = LabelsSettings(
        labels_per_class=settings.labels_per_class,
        imbalance=settings.imbalance,
        seed=seed if settings.labels_per_class else None,
    )
    items = ItemsSettings(
        train=settings.train,
        classes=None if classes is None else tuple(classes),
        test=settings.test,
        holdout=settings.holdout,
        seed=seed if settings.holdout is not None else None,
        num_classes=settings.num_classes,
        merge_lookalikes=settings.merge_lookalikes or None,
        videos=settings.clips is not None,
    )
    calibration = None if open_set is None else CalibrationSettings(holdout=open_set.holdout, seed=seed)
    decided = DataSettings(items=items, labels=labels, pool=pool, open_set=calibration)
    return DataStage(name=DATA, section=DATA, settings=decided, top_p=top_p)


def evaluations(
    trained: Stage[Any], model: Model, config: Experiment, *, execution: Execution, runs_alone: bool
) -> list[Stage[Any]]:
    """Return the tests of a trained network, one on each test set of ``config``."""
    command = ("evaluate", f"stage={trained.section}") if runs_alone else trained.command
    return [
        replace(_tested(trained, model, config, test, execution=execution), command=command)
        for test in config.data.tests
    ]


def _tested(trained: Stage[Any], model: Model, config: Experiment, test: str, *, execution: Execution) -> EvaluateStage:
    """Return the test of a trained network on the items that are the output ``test`` of the data stage."""
    settings = EvaluateSettings(
        model=model.without_view(),
        precision=config.system.precision,
        seen=TestView.of(model, config.data, "test"),
        max_missing_rate=config.data.max_missing_rate,
        test=test,
        metrics=config.metrics,
    )
    return EvaluateStage(
        name=evaluation(trained.name, test),
        section=trained.section,
        settings=settings,
        needs={"data": DATA, "network": trained.name},
        execution=execution,
    )


def execution_of(config: Any, seen: LabeledData, batch: int) -> Execution:
    """Return how the stages of ``config`` compute, which see this data."""
    return Execution(
        system=config.system,
        batch=batch,
        deadline=None if seen.clips is None else seen.clips.deadline,
        test_clips={} if seen.clips is None else seen.clips.for_testing(),
        max_failure_rate=seen.max_failure_rate,
    )


@dataclass(frozen=True)
class _Network:
    """A network and the name of the stage that trains it."""

    name: str
    model: Model
    draws_as: str | None = None
    """another stage whose random numbers the training draws"""
    twins: tuple[str, ...] = ()
    """earlier trainings of which one may be the very same"""


def _round(config: Config, seed: int, number: int, teachers: list[_Network]) -> list[Stage[Any]]:
    """Return a round: the teachers score the pool, and a student is trained on what is selected."""
    score, select = numbered("score", number), numbered("select", number)
    top_k, choice = config.select.top_k_of(number, rounds=config.rounds), {}
    scored, read = _scored(config, score, number, teachers), {"scores": score}
    open_set = [] if config.select.open_set is None else [_open_set(config, scored, number)]
    if open_set:
        read["open_set"] = open_set[0].name
    near = [_near(config, score, teachers[0])] if number == 1 and teachers else []
    candidates: list[Stage[Any]] = []
    if top_k is None:
        choice = {"choice": CHOOSE}
        if number == 1:
            candidates = _candidates(config, seed, read, teachers)
    chosen = _selected(config, seed, select, {**read, **choice}, top_k=top_k)
    planned: list[Stage[Any]] = [
        scored,
        *near,
        *open_set,
        *candidates,
        replace(chosen, command=_alone("select", number)),
    ]
    needs = {"selection": select}
    if config.materialise is not None:
        needs["selection"] = numbered("materialise", number)
        planned.append(
            MaterialiseStage(
                name=needs["selection"],
                section="materialise",
                settings=MaterialiseSettings(**config.materialise.model_dump(), seed=seed),
                needs={"selection": select},
                command=_alone("materialise", number),
            )
        )
    if config.pretrain.soft_views is not None:
        views = _views(config, seed, number, teachers, needs["selection"])
        planned.append(views)
        needs["views"] = views.name
    elif config.pretrain.targets == "soft":
        needs["scores"] = score
    student = config.models.student
    twins = tuple(one.name for one in candidates if isinstance(one, TrainStage))
    pretrain = _Network(numbered("pretrain", number), student, twins=twins)
    planned += _trained(config, seed, "pretrain", pretrain, number, needs, teachers=teachers)
    if config.data.train is not None:
        finetune = _Network(numbered("finetune", number), student)
        planned += _trained(config, seed, "finetune", finetune, number, teachers=teachers)
    return planned


def _candidates(config: Config, seed: int, read: Mapping[str, str], teachers: list[_Network]) -> list[Stage[Any]]:
    """Return what chooses K: for each candidate a selection, a student on it alone and its test on the labels.

    ``read`` are the stages that a selection reads, by role.
    These students draw the random numbers of the one that the recipe is about, so that they differ in K alone.
    """
    plain = config.pretrain.model_copy(update={"with_labels": False, "soft_views": None})
    # The labels that test them may be as unreadable here as where they train.
    labels = config.data.model_copy(update={"max_missing_rate": config.data.max_failure_rate})
    config = config.model_copy(update={"pretrain": plain, "materialise": None, "data": labels})
    targets = {"scores": read["scores"]} if plain.targets == "soft" else {}
    planned: list[Stage[Any]] = []
    needs: dict[str, str] = {}
    students: tuple[str, ...] = ()
    for name, top_k in config.select.candidates().items():
        chosen = _selected(config, seed, f"select-{name}", read, **top_k)
        network = _Network(f"pretrain-{name}", config.models.student, draws_as="pretrain", twins=students)
        student, *_ = _trained(
            config, seed, "pretrain", network, needs={"selection": chosen.name, **targets}, teachers=teachers
        )
        test = _tested(student, network.model, config, "labeled", execution=_execution(config))
        planned += [chosen, replace(student, command=chosen.command), test]
        needs |= {f"selection-{name}": chosen.name, f"figures-{name}": test.name}
        students += (student.name,)
    choose = ChooseStage(name=CHOOSE, section="select", settings=Section(), needs=needs, command=("select",))
    return [*planned, choose]


def _selected(config: Config, seed: int, name: str, needs: Mapping[str, str], **top_k: int | None) -> SelectStage:
    """Return a selection; ``top_k`` are the settings that say what K is."""
    rule = config.select.model_dump(include={"variant", "variant_options", "min_score", "exclude", "near_duplicates"})
    near = {"near": NEAR} if config.models.teachers else {}
    return SelectStage(
        name=name,
        section="select",
        settings=SelectSettings(**top_k, **rule, seed=seed),
        needs={**needs, "contents": CONTENTS, **near},
        knows_truth=None if config.data.pool else DATA,
    )


def _views(config: Config, seed: int, number: int, teachers: list[_Network], selection: str) -> ViewsStage:
    """Return the stage that leaves the teachers' scores of several views of each selected sample."""
    assert config.pretrain.soft_views is not None
    settings = ViewsSettings(
        num_views=config.pretrain.soft_views,
        top_p=config.score.top_p,
        live=tuple(_live(config, one.model, temperature=1.0) for one in teachers),
        seen=TrainView.of(config.models.student, config.data),
        randaugment=config.pretrain.randaugment,
        seed=seed,
        precision=config.system.precision,
    )
    return ViewsStage(
        name=numbered("views", number),
        section="pretrain",
        settings=settings,
        needs={"data": DATA, "selection": selection, **by_role(one.name for one in teachers)},
        command=_alone("train", number, "pretrain"),
        execution=_execution(config),
    )


def _scored(config: Config, name: str, number: int, teachers: list[_Network]) -> Stage[Any]:
    """Return the stage that leaves the scores of the pool."""
    if not teachers:
        assert config.score.given is not None  # the config sees to it
        settings = GivenSettings(given=config.score.given, top_p=config.score.top_p)
        return GivenStage(
            name=name, section="score", settings=settings, needs={"data": DATA}, command=_alone("score", number)
        )
    left = config.beside_scores(number)
    first, *others = (
        Eyes(model=one.model.without_view(), seen=TestView.of(one.model, config.data, "score")) for one in teachers
    )
    return ScoreStage(
        name=name,
        section="score",
        settings=ScoreSettings(
            top_p=config.score.top_p,
            pool_overlap=config.data.pool_overlap,
            model=first.model,
            precision=config.system.precision,
            seen=first.seen,
            others=tuple(others),
        ),
        needs={"data": DATA, **by_role(one.name for one in teachers)},
        command=_alone("score", number),
        execution=_execution(config),
        looks="looks" in left,
        features="features" in left,
    )


def _open_set(config: Config, scored: Stage[Any], number: int) -> OpenSetStage:
    """Return the stage that says what of the pool is of no class, by what the teachers of a round have ``scored``."""
    assert config.select.open_set is not None
    assert isinstance(scored, ScoreStage)  # the config sees to it
    return OpenSetStage(
        name=numbered("open_set", number),
        section="select",
        settings=OpenSetSettings(
            **config.select.open_set.model_dump(include={"method", "keep"}), scoring=scored.settings
        ),
        needs={**scored.needs, "scores": scored.name},
        command=_alone("select", number),
        execution=_execution(config),
    )


def _near(config: Config, score: str, teacher: _Network) -> NearStage:
    """Return the search for near copies, for all rounds; ``teacher`` is the first, whose views or features it is of."""
    compared: dict[str, Any] = {}
    by_features = config.data.near_duplicates == "features"
    if by_features:
        network = {"model": teacher.model.without_view(), "precision": config.system.precision}
        compared = {"cosine": config.data.near_cosine, **network}
    return NearStage(
        name=NEAR,
        section="select",
        settings=NearSettings(
            seen=TestView.of(teacher.model, config.data, "score"),
            held=config.data.pool_overlap != "allow",
            method=config.data.near_duplicates,
            **compared,
        ),
        needs={"data": DATA, "scores": score, **({"teacher": teacher.name} if by_features else {})},
        command=_alone("select", 1),
        execution=_execution(config),
        tests=tuple(config.data.tests),
    )


def _trained(
    config: Config,
    seed: int,
    section: str,
    network: _Network,
    number: int = 1,
    needs: Mapping[str, str] | None = None,
    *,
    teachers: list[_Network] | None = None,
) -> list[Stage[Any]]:
    """Return a training and, where its classes are those of the test set, the evaluation of its result.

    ``teachers`` are those of the round.
    """
    training, execution = getattr(config, section), _execution(config)
    model = network.model
    start = {}
    if training.init_from in TRAIN_STAGES:
        again = training.init_from in ("pretrain", "finetune")
        start = {"start": numbered(training.init_from, number) if again else training.init_from}
    if isinstance(training, Teacher) and training.mode in ("probe", "zeroshot"):
        return _as_it_is(config, seed, network, needs={"data": DATA, **start})
    live: tuple[LiveSettings, ...] = ()
    if teachers is not None and training.targets == "live":
        start |= by_role(one.name for one in teachers)
        live = tuple(_live(config, one.model, temperature=training.temperature) for one in teachers)
    settings = train_settings(
        _deciding(training),
        model=model.without_view(),
        seed=seed,
        precision=config.system.precision,
        seen=TrainView.of(model, config.data),
        with_rest=section == "ceiling",
        new_classifier=training.init_from == "weak",
        live=live,
        draws_as=network.draws_as,
    )
    stage = TrainStage(
        name=network.name,
        section=section,
        settings=settings,
        needs={"data": DATA, **(needs or {}), **start},
        after=() if "selection" in (needs or {}) else (CONTENTS,),  # a selection has it before it
        command=_alone("train", number, section),
        execution=execution,
        twins=network.twins,
        in_tars=config.materialise is not None and "selection" in (needs or {}),
        labels=_labels(config, section, number),
    )
    if training.untested is not None:
        return [stage]
    return [stage, *evaluations(stage, model, config, execution=execution, runs_alone=number == 1)]


def _labels(config: Config, section: str, number: int) -> str:
    """Return the output of the data stage that has the labels for a training of round ``number``.

    What teaches, now or in the next round, must not have seen those that are held out.
    """
    teaches = section == "teacher" or (section in ("pretrain", "finetune") and number < config.rounds)
    return TAUGHT if teaches and config.select.open_set is not None else "labeled"


def _as_it_is(config: Config, seed: int, network: _Network, needs: Mapping[str, str]) -> list[Stage[Any]]:
    """Return a teacher that is a classifier on pre-trained features, which stay as they are, and its evaluation; before
    it the features, where other settings of the classifier may be tried on them."""
    teacher, execution = config.teacher, _execution(config)
    decided: dict[str, Any] = {
        "init_from": teacher.init_from,
        "model": network.model.without_view(),
        "seed": seed,
        "precision": config.system.precision,
        "seen": TestView.of(network.model, config.data, "test"),
    }
    common: dict[str, Any] = {
        "section": "teacher",
        "labels": _labels(config, "teacher", 1),
        "after": (CONTENTS,),
        "command": _alone("train", 1, "teacher"),
        "execution": execution,
    }
    planned: list[Stage[Any]] = []
    if teacher.mode == "probe":
        name = f"features-{network.name}"
        planned.append(FeaturesStage(name=name, settings=FeaturesSettings(**decided), needs=needs, **common))
        probe, read = ProbeSettings(fc_only=teacher.probe, **decided), {**needs, "features": name}
        planned.append(ProbeStage(name=network.name, settings=probe, needs=read, **common))
    else:
        zeroshot = ZeroShotSettings(zeroshot=teacher.zeroshot, **decided)
        planned.append(ZeroShotStage(name=network.name, settings=zeroshot, needs=needs, **common))
    return [*planned, *evaluations(planned[-1], network.model, config, execution=execution, runs_alone=True)]


def _live(config: Config, teacher: Model, *, temperature: float) -> LiveSettings:
    """Return the settings of a teacher that sees what the student sees."""
    theirs, ours = (model.view_of(config.data).clips for model in (teacher, config.models.student))
    if theirs is not None and ours is not None and theirs.as_text() != ours.as_text():
        raise UserError(
            "live targets and soft_views show the student's clips to the teacher, which has "
            f"{theirs.as_text()}, not {ours.as_text()}; give both networks the same frames, stride and fps"
        )
    pictures = TestView.of(teacher, config.data, "score").transforms.model_dump(exclude={"resize"})
    return LiveSettings(model=teacher.without_view(), temperature=temperature, **pictures)


def _deciding(training: Train) -> Train:
    """Return what of a section decides the training itself."""
    for kind, plain in ((Weak, WeakTraining), (Teacher, Supervised)):
        if isinstance(training, kind):
            return plain(**{name: getattr(training, name) for name in plain.model_fields})
    return training


def _alone(verb: str, number: int, section: str = "") -> tuple[str, ...]:
    """Return the command that runs a stage of a round alone: only those of the first round have one."""
    if number > 1:
        return ("run",)
    return (verb, f"stage={section}") if section else (verb,)


def _pool(config: Config, seed: int) -> PoolSettings:
    data = config.data
    return PoolSettings(
        **data.model_dump(include={"pool", "rest_in_pool", "shard_size", "pool_overlap"}),
        fraction=data.pool_fraction,
        seed=seed if data.pool_fraction < 1 else None,
    )


def _execution(config: Config) -> Execution:
    return execution_of(config, config.data, config.score.batch_size)
