"""The recipe: data, two networks, and the settings of each stage."""

import itertools
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from typing_extensions import Annotated, Self, override  # noqa: UP035 - with the rest of pydantic's

from bsssl.config.data import Data, Model
from bsssl.config.experiment import Experiment
from bsssl.config.names import by_role
from bsssl.config.section import Section, known_to, without
from bsssl.config.training import TRAIN_STAGES, Finetune, Pretrain, Supervised, Teacher, Train, Weak
from bsssl.registry import SELECTION_RULES


def _or_list(schema: dict[str, Any]) -> None:
    """Let the JSON schema of a section that may be left out allow a list of such sections too."""
    schema["anyOf"].append({"type": "array", "items": schema["anyOf"][0]})


class Models(Section):
    """The networks of the recipe."""

    teacher: Model | None = Field(None, json_schema_extra=_or_list)
    """may be left out where score.given has the scores; a list stands for several teachers"""
    more_teachers: list[Model] = []
    """further teachers, trained alike: the scores of all are averaged, each seen in its own way"""
    student: Model

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("teacher"), list) and values["teacher"]:
            first, *others = values["teacher"]
            return {**values, "teacher": first, "more_teachers": [*others, *values.get("more_teachers", [])]}
        return values

    @property
    def teachers(self) -> dict[str, Model]:
        """The teachers by the names of the stages that train them: teacher, teacher-2, ..."""
        return by_role([*([] if self.teacher is None else [self.teacher]), *self.more_teachers])


Beside = Literal["looks", "features"]


class Score(Section):
    """Running the teacher over the pool."""

    top_p: int = Field(10, ge=1)
    """P: classes kept per sample"""
    batch_size: int = Field(256, ge=1, le=1_000_000)
    """samples per forward pass and process, of videos clips; at least those of one video"""
    given: str | None = None
    """a Parquet file of columns key, class and score (0..1) with what some other tool says of the pool, in the place of
    a teacher; key is that of the pool's item, and an item has rows for P classes at least, or none"""
    leave: list[Beside] = []
    """what is left beside the scores besides what the config needs: the perceptual hashes of the pool, the features of
    the first teacher, for data.near_duplicates and select.open_set as they may be set later. A sweep adds what any of
    its points needs"""


PARTS_OF_POOL = (64, 16, 4, 1)
"""candidates for K where the config names none: a 64th of the pool's items per class, and so on. The paper's K of
16,000 is about a 60th of IG-1B's, and a sixth of YFCC100M's."""


def _form_of_k(value: Any) -> str:
    return "<auto>" if value == "auto" else "<number>"


_Count = Annotated[int, Field(ge=1, le=2**32)]  # no pool has more samples
TopK = Annotated[
    Annotated[_Count, Tag("<number>")] | Annotated[Literal["auto"], Tag("<auto>")], Discriminator(_form_of_k)
]


class OpenSet(Section):
    """Leaving out of the selection what is of no class at all: each item of the pool has a value, and what is below a
    threshold is selected for no class. The threshold is set on labels that are held out of all that scores the pool."""

    method: Literal["confidence", "energy", "distance"] = "energy"
    """the value. confidence: the best softmax score (Hendrycks and Gimpel 2017, arXiv 1610.02136); energy: the
    log-sum-exp of the logits (Liu et al. 2020, arXiv 2010.03759), both as the mean of teachers and views; distance: the
    cosine of the first teacher's features to those of the fifth nearest label that it has learned from (Sun et al.
    2022, arXiv 2204.06507), for which the features of the pool are left beside the scores, 2 bytes for each number"""
    keep: float = Field(0.95, gt=0, le=1)
    """share of the held-out labels that the threshold lets through"""
    holdout: float = Field(0.2, gt=0, lt=1)
    """share of the labels of each class, one at least but never the last, that sets the threshold: teachers, and of
    several rounds the students that teach the next one, do not learn from it; all other trainings do"""


class Select(Section):
    """Choosing what the student is pre-trained on."""

    top_k: TopK = 16_000
    """K: samples kept per class. auto: that K of `grid` with which the student, pre-trained once for each, is the most
    accurate on the labels, of which it has then seen none (as Fang et al. 2023, arXiv 2309.17425, judge a selection:
    by what is trained on it, not by the classifier that selects)"""
    grid: list[_Count] | None = Field(None, min_length=2)
    """top_k: auto: the values of K to try, rising; default: 1/64, 1/16, 1/4 and 1 of the pool's items per class"""
    variant: Annotated[str, known_to(SELECTION_RULES)] = "balanced"
    """balanced: the best K of each class; unbalanced: the best K x classes over all classes; random: any K of those
    that kept the class (the paper's comparisons); any of SELECTION_RULES"""
    variant_options: dict[str, Any] = {}
    """further arguments of the rule"""
    min_score: float = Field(0.0, ge=0, le=1)
    """for pools with samples of no class: the least score with which a sample is selected for a class; 0 is off. A
    threshold that labels set, also on other values than the score, is `open_set`"""
    exclude: str | None = None
    """a CSV, JSONL or Parquet file of columns key and class with what must not be selected, as `bsssl report` exports
    it: a row without a class leaves the item out of all classes, one without a key the class as a whole"""
    open_set: OpenSet | None = None
    """leaving out of all classes what is of none of them; off when not given"""
    near_duplicates: Literal["one_per_class", "keep"] = "one_per_class"
    """of the near copies that data.near_duplicates finds within the pool: one_per_class gives a place of a class to the
    best of a group alone, so that K samples are K different things; keep gives places to all of them"""
    grow: bool = False
    """K grows from round to round: round r of R takes K r / R, rounded down, 1 at least (the curriculum of
    Cascante-Bonilla et al. 2020, arXiv 2001.06001)"""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = []
        if self.grid is not None and self.top_k != "auto":
            problems.append("grid has the values of K that top_k: auto tries; set top_k=auto, or take grid out")
        if self.grid is not None and not all(low < high for low, high in itertools.pairwise(self.grid)):
            problems.append(f"grid {self.grid} must rise; sort its values, and give each once")
        if self.grow and self.top_k == "auto":
            problems.append("grow is about a K that is given, not auto; give top_k a number, or leave grow out")
        return without(problems, self)

    def top_k_of(self, number: int, *, rounds: int) -> int | None:
        """K of round ``number``, from 1 on; None where it is chosen, in round 1 for all of them."""
        if self.top_k == "auto":
            return None
        return max(1, self.top_k * number // rounds) if self.grow else self.top_k

    def candidates(self) -> dict[str, dict[str, int]]:
        """Return what sets each K that auto tries, in rising order, by the ends of the names of its stages."""
        if self.grid is not None:
            return {f"k{top_k}": {"top_k": top_k} for top_k in self.grid}
        return {f"1of{parts}": {"parts": parts} for parts in PARTS_OF_POOL}


class Materialise(Section):
    """Copying the selected samples into shuffled tars, for a student that reads them from one end to the other."""

    samples_per_tar: int = Field(10_000, ge=1)
    """samples of each tar; one is read from end to end before the next"""


_ADDED_BY = {
    "weak": "add weak.sources and teacher.init_from=weak",
    "ceiling": "add for example ceiling.length='90 epochs'",
    "materialise": "add for example materialise.samples_per_tar=10000",
}
"""what adds the sections that may be left out"""


class Config(Experiment):
    """A recipe: data, two networks, and the settings of each stage."""

    leaves = "results.md"
    stage: (
        Literal["weak", "teacher", "score", "select", "materialise", "pretrain", "finetune", "baseline", "ceiling"]
        | None
    ) = None
    """the one stage that a single-stage command runs"""
    rounds: int = Field(1, ge=1)
    """in round 2 and later, the fine-tuned student of the round before is the teacher"""
    data: Data
    models: Models
    weak: Weak | None = None
    """pre-training of the teacher on hashtags, for teacher.init_from: weak; off when not given"""
    teacher: Teacher = Teacher()
    """training of the teacher on the labels"""
    baseline: Supervised = Supervised()
    """training of the student on the labels alone, for comparison"""
    ceiling: Supervised | None = None
    """training of the student with every label of `train`, for comparison; off when not given"""
    pretrain: Pretrain = Pretrain()
    finetune: Finetune = Finetune()
    score: Score = Score()
    select: Select = Select()
    materialise: Materialise | None = None
    """off when not given; worth it where the pool lies on slow or distant storage"""

    @override
    def trainings(self) -> dict[str, Train]:
        sections = {section: getattr(self, section) for section in TRAIN_STAGES}
        return {section: settings for section, settings in sections.items() if settings is not None}

    @property
    def result(self) -> str:
        """The section of the network that it all is about, which is tested where none is named."""
        return "pretrain" if self.data.train is None else "finetune"

    def left_out(self, section: str | None) -> str | None:
        """Return why a section is left out, or what adds it; None where it is there, or there is no such section."""
        if section == "evaluate" and not self.data.tests:
            return "there is no test set; set data.test"
        if section == "teacher" and not self.models.teachers:
            return "there is no teacher: score.given is in its place"
        if section in ("baseline", "finetune") and self.data.train is None:
            return f"{section} needs labels, and there is no data.train"
        if section not in _ADDED_BY or getattr(self, section) is not None:
            return None
        return f"the config has no {section} section; {_ADDED_BY[section]}"

    def beside_scores(self, number: int = 1) -> list[Beside]:
        """Return what the scoring pass of a round leaves beside the scores, for what is done with them."""
        near, open_set = self.data.near_duplicates, self.select.open_set
        left = set(self.score.leave)
        if number == 1 and near != "off":  # the search is done once, for all rounds
            left.add("looks" if near == "hash" else "features")
        if open_set is not None and open_set.method == "distance":
            left.add("features")
        return sorted(left)

    @override
    def eval_batch(self) -> int:
        return self.score.batch_size

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = self._problems()
        for name, model in {**self.models.teachers, "student": self.models.student}.items():
            problems += model.problems(f"models.{name}", self.data)
        problems += self._teacher_problems() + self._label_problems()
        for key, classes in (("num_classes", self.data.num_classes), ("classes", len(self.data.classes or []))):
            if classes and self.score.top_p > classes:
                problems.append(f"score.top_p ({self.score.top_p}) is above data.{key} ({classes}); lower it")
        if self.select.grow and self.rounds == 1:
            problems.append("select.grow is about several rounds; set rounds, or leave it out")
        if self.select.top_k == "auto":
            problems += self._auto_problems()
        joins_pool = self.data.labels_per_class and self.data.rest_in_pool
        if not self.data.pool and not joins_pool and self.data.train is None:  # of which a part may have no label
            problems.append("there is no pool: set data.pool, or data.labels_per_class with rest_in_pool")
        problems += self._weak_problems()
        for number, section in enumerate(TRAIN_STAGES):
            origin = self._origin(section)
            if origin in TRAIN_STAGES[number:]:
                earlier = ", ".join(TRAIN_STAGES[:number]) or "none"
                problems.append(
                    f"{section}.init_from: {origin} is not trained before {section}; give an earlier stage ({earlier}) "
                    "or a file"
                )
        return without(problems, self)

    def _teacher_problems(self) -> list[str]:
        teachers, mode, init_from = self.models.teachers, self.teacher.mode, self.teacher.init_from
        problems = []
        if "teacher" not in teachers and self.score.given is None:
            problems.append("models.teacher is missing; name a network, or give scores of the pool as score.given")
        if teachers and self.score.given is not None:
            problems.append("score.given is in the place of a teacher; take models.teacher out, or score.given")
        if not teachers and self.select.open_set is not None:
            problems.append(
                "select.open_set compares the pool with labels that a teacher sees too, and score.given has none; "
                "set select.min_score instead"
            )
        if not teachers and self.weak is not None:
            problems.append("weak is pre-training of the teacher, of which there is none; take it out")
        if len(teachers) > 1 and init_from is not None:
            problems.append("teacher.init_from is for one teacher; give each of models.teacher its weights")
        if not teachers and "live" in (self.pretrain.targets, self.finetune.targets):
            problems.append("targets: live needs a teacher; with score.given choose soft, multi or per_pair")
        if not teachers and self.pretrain.soft_views is not None:
            problems.append("pretrain.soft_views needs a teacher; with score.given leave it out")
        for name, model in teachers.items():
            pretrained = model.is_pretrained or init_from is not None
            if mode == "scratch" and pretrained:
                problems.append(f"teacher.mode is scratch, but {name} is given weights; take these out, or the mode")
            if mode == "zeroshot" and not model.is_clip:
                problems.append(
                    f"teacher.mode is zeroshot, but {name} ({model.name}) knows no class by its name; set "
                    "models.teacher.name to a network of open_clip, such as open_clip/ViT-B-32.laion2b_s34b_b79k"
                )
            elif mode in ("finetune", "probe", "zeroshot") and not pretrained:
                problems.append(
                    f"teacher.mode is {mode}, but {name} has no weights; set models.teacher.pretrained=true, "
                    "models.teacher.weights or teacher.init_from"
                )
        return problems

    def _auto_problems(self) -> list[str]:
        """Return how the labels, which choose K, could reach the students that are tested on them."""
        problems = []
        if self.data.pool_overlap == "allow":
            problems.append(
                "select.top_k: auto tests students on the labels, which data.pool_overlap: allow lets into the pool; "
                "set it to exclude, or give a number"
            )
        if self.pretrain.init_from in TRAIN_STAGES:
            problems.append(
                f"select.top_k: auto tests students on the labels, which pretrain.init_from: {self.pretrain.init_from} "
                "has learned from; take that out, or give a number"
            )
        return problems

    def _label_problems(self) -> list[str]:
        """Return what needs labels where there are none."""
        if self.data.classes is None:
            return []
        problems = [f"{key} needs labels, and there is no data.train; take it out" for key in self._on_labels()]
        if self.select.open_set is not None:
            problems.append(
                "select.open_set sets its threshold on labels, and there is no data.train; set select.min_score instead"
            )
        if self.models.teachers and self.teacher.mode != "zeroshot" and self.teacher.length.amount > 0:
            problems.append(
                "there are no labels that teacher could be trained on: set teacher.mode=zeroshot, or teacher.length='0 "
                "epochs' for weights whose classes are data.classes, or score.given"
            )
        return problems

    def _on_labels(self) -> Iterator[str]:
        """Yield the keys of what is there and is for labels alone."""
        if self.weak is not None:
            yield "weak"
        if self.ceiling is not None:
            yield "ceiling"
        if self.pretrain.with_labels:
            yield "pretrain.with_labels"
        if self.select.top_k == "auto":
            yield "select.top_k: auto"

    def _weak_problems(self) -> list[str]:
        problems = [
            f"{section}.init_from: {self._origin(section)} is trained on tags; the student never sees one"
            for section in TRAIN_STAGES[2:]
            if self._origin(section) == "weak" or (self._origin(section) == "teacher" and self.weak is not None)
        ]
        if self.weak is not None and self.teacher.mode == "zeroshot":
            problems.append("teacher.mode is zeroshot, which needs no training on tags; take weak out, or the mode")
        if self.weak is None and self.teacher.init_from == "weak":
            problems.append("teacher.init_from is weak, but there is no weak section; add weak.sources")
        if self.weak is not None and self.teacher.init_from != "weak":
            problems.append("weak is trained, but the teacher does not start from it; set teacher.init_from=weak")
        return problems

    def _origin(self, section: str) -> str | None:
        return getattr(getattr(self, section), "init_from", None)
