"""The select stage: the student's training set from the scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from bsssl import selection, storage
from bsssl.config import Section
from bsssl.pipeline.stage import Context, PlanRow, Stage
from bsssl.registry import STAGES
from bsssl.runtime.console import logger, progress
from bsssl.stages.card import plain
from bsssl.stages.choose import CHOICE
from bsssl.stages.computing import class_list, first_counts, split_records
from bsssl.stages.contents import COPIES
from bsssl.stages.near import NEAR

SELECTION = "selection.parquet"


class SelectSettings(Section):
    """What decides a selection, besides the scores."""

    top_k: int | None = None
    """K of this round; None where `parts` or the choice says it"""
    parts: int | None = None
    """how many times K is in the pool's items per class: 4 for a quarter of them"""
    variant: str = "balanced"
    variant_options: dict[str, Any] = {}
    min_score: float = 0.0
    exclude: str | None = None
    near_duplicates: str = "one_per_class"
    seed: int


@STAGES.register("select")
@dataclass(frozen=True, kw_only=True, eq=False)
class SelectStage(Stage[SelectSettings]):
    """The choice of the samples that the student is pre-trained on."""

    kind = "select"
    outputs = {"selection": (SELECTION,)}
    inputs = {
        "scores": ("scores",),
        "choice": ("choice",),
        "contents": ("copies",),
        "near": ("near",),
        "open_set": ("open_set",),
    }

    knows_truth: str | None = None
    """the data stage, where every item of the pool has a label that was set aside: its precision is then reported"""

    @override
    def work(self, run: Context) -> dict[str, Any]:
        settings, path = self.settings, str(run.folder(self.name) / SELECTION)
        scores = selection.score_files(str(run.input(self, "scores")))
        top_k = self._top_k(run, scores)
        chosen = selection.select_samples(
            scores,
            top_k=top_k,
            variant=settings.variant,
            options=settings.variant_options,
            min_score=settings.min_score,
            seed=settings.seed,
            exclude=None if settings.exclude is None else selection.read_exclusions(settings.exclude),
            copies=self._copies(run),
            near=self._near(run),
            one_per_class=settings.near_duplicates == "one_per_class",
            open_set=selection.read_open_set(run.input(self, "open_set")) if "open_set" in self.needs else None,
            progress=progress,
        )
        selection.write_selection(path, chosen, progress=progress)
        summary, short = chosen.summary(), chosen.short_classes()
        if short:
            logger.warning("%d classes have fewer than K = %d samples: %s", len(short), top_k, first_counts(short))
        if chosen.dropped:
            logger.info("%d pairs fewer than without select.min_score = %g", chosen.dropped, settings.min_score)
        if chosen.near_held:
            logger.info("%d items left out that are near to a labeled or test item", chosen.near_held)
        if chosen.near_copies:
            logger.info("%d pairs left out of which the class has a better one that is near", chosen.near_copies)
        if chosen.foreign is not None:
            logger.info(
                "%d items left out as of no class, and %d picks fewer than with them",
                *(chosen.foreign.items, chosen.foreign.picks.sum()),
            )
        truth = None if self.knows_truth is None else run.folder(self.knows_truth)
        return {
            "top_k": top_k,
            "pairs": summary["pairs"],
            "samples": summary["samples"],
            "short_classes": len(short),
            "dropped": chosen.dropped,
            "near_held": chosen.near_held,
            "near_copies": chosen.near_copies,
            **({} if chosen.foreign is None else _lost(chosen)),
            "precision": None if truth is None else _precision(selection.read_selection(path), truth),
        }

    @override
    def summary(self, run: Context) -> str:
        result = run.result(self.name)
        top_k, right = self.settings.top_k or result["top_k"], result.get("precision")
        precision = "" if right is None else f", {right:.1f} % of them right"
        chosen = f"{result['pairs']:,} pairs of {result['samples']:,} samples{precision}"
        return f"K = {top_k:,}, {plain(self.settings.variant)}: {chosen}"

    @override
    def outside(self) -> dict[str, Any]:
        path = self.settings.exclude
        # By content: the list may be copied, and exported again as it was.
        return {} if path is None or not storage.exists(path) else {"exclude": storage.digest([path])}

    @override
    def plan_row(self, run: Context, sizes: Mapping[str, int]) -> PlanRow:
        return PlanRow(rows=selected(run, self.name, sizes))

    def most_pairs(self, sizes: Mapping[str, int]) -> int | None:
        """Return how many pairs there are at most, ``sizes`` being what is known of the data; None if that is unknown.

        A K that was chosen is ``top_k`` there.
        """
        top_k, parts = self.settings.top_k, self.settings.parts
        if parts is not None and {"pool", "classes"} <= sizes.keys():
            top_k = _part_of_pool(parts, items=sizes["pool"], classes=sizes["classes"])
        elif "choice" in self.needs:
            top_k = sizes.get("top_k")
        return None if top_k is None or "classes" not in sizes else sizes["classes"] * top_k

    @override
    def is_unaffected(self, run: Context, role: str, output: str) -> bool:
        # Of a run from before there were lists of copies, or of near copies.
        record = run.record(self.name)
        if record is None or role in record.read or role not in ("contents", "near"):
            return False
        counts = run.result(self.needs[role])
        return not any(counts[name] for name in (["left_out"] if role == "contents" else ["held", "grouped"]))

    def _copies(self, run: Context) -> str | None:
        """Return the list of copies; None in a run from before there were such."""
        is_there = run.record(self.needs["contents"]) is not None
        return str(run.input(self, "contents") / COPIES) if is_there else None

    def _near(self, run: Context) -> selection.NearCopies | None:
        """Return the near copies; None where none can be known, or in a run from before they were looked for."""
        if "near" not in self.needs or run.record(self.needs["near"]) is None:
            return None
        return selection.read_near(str(run.input(self, "near") / NEAR))

    def _top_k(self, run: Context, scores: list[str]) -> int:
        """Return K; ``scores`` are the score files of the pool."""
        if self.settings.top_k is not None:
            return self.settings.top_k
        if self.settings.parts is not None:
            headers = [selection.read_header(path) for path in scores]
            items = sum(header.num_records for header in headers)
            return _part_of_pool(self.settings.parts, items=items, classes=len(headers[0].class_names))
        return int(storage.read_json(str(run.input(self, "choice") / CHOICE))["top_k"])


def _part_of_pool(parts: int, *, items: int, classes: int) -> int:
    """Return the K that is in the pool's ``items`` per class ``parts`` times."""
    return max(1, round(items / (classes * parts)))


def selected(run: Context, name: str, sizes: Mapping[str, int]) -> str:
    """Return how many pairs stage ``name`` has selected, or copied; at most how many where it has not yet."""
    pairs = run.result(name).get("pairs") if run.pending(name) is None else None
    if pairs is not None:
        return f"{pairs:,}"
    chosen = run.stage(name)
    while not isinstance(chosen, SelectStage) and "selection" in chosen.needs:
        chosen = run.stage(chosen.needs["selection"])
    most = chosen.most_pairs(sizes) if isinstance(chosen, SelectStage) else None
    return "unknown" if most is None else f"at most {most:,}"


def _lost(chosen: selection.Selection) -> dict[str, Any]:
    """Return the figures of what was left out as of no class."""
    assert chosen.foreign is not None
    counted = zip(chosen.header.class_names, chosen.foreign.picks.tolist(), strict=True)
    return {"foreign": chosen.foreign.items, "lost": {name: count for name, count in counted if count}}


def _precision(chosen: selection.Selected, data_folder: Path) -> float | None:
    """Return the percentage of the pairs whose class is the true one, for reporting alone.

    None where items that never had a label were selected.
    """
    rest = split_records(data_folder, "rest")
    truth = dict(zip(rest.key.to_pylist(), rest.label.to_pylist(), strict=True))
    classes = class_list(data_folder)
    pairs = list(zip(chosen.key.to_pylist(), chosen.class_index.to_pylist(), strict=True))
    if not all(key in truth for key, _ in pairs):
        return None
    return 100 * float(np.mean([truth[key] == classes[index] for key, index in pairs]))
