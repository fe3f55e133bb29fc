"""Trained networks, from the folder of a stage, a folder that another tool wrote, or weights with a name."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import ValidationError

from bsssl.api.model import AnyPath, Model, Preprocessing
from bsssl.config import Model as ModelSection
from bsssl.config import System
from bsssl.config.plugins import load_plugins
from bsssl.errors import UserError, choices

if TYPE_CHECKING:
    from bsssl.models import Named
    from bsssl.stages.seen import TestView

_PRECISIONS = tuple(get_args(System.model_fields["precision"].annotation))
_LOCAL = "local-dir:"
_HOSTED = re.compile(r"hf-hub:|(timm|torchvision|pytorchvideo|open_clip|transformers)/")


@dataclass(frozen=True)
class _Described:
    """What is known of a network besides its weights."""

    section: ModelSection
    classes: list[str]
    seen: "TestView"
    precision: str


def load(folder: AnyPath, *, device: Literal["auto", "cpu", "cuda"] = "auto") -> Model:
    """Return a trained network, such as that in ``outputs/quickstart/seed-0/finetune``.

    A folder needs ``config.json`` and the weights, ``model.safetensors``, and nothing else; one that an earlier version
    of this project left is described by its ``done.json``. A network of a module of your own, which a config names
    under ``plugins``, is known once that module is imported.

    Args:
        folder: The folder of a trained stage, or one that timm wrote; ``hf-hub:<user>/<repository>``; or the name of
            weights, such as ``timm/<architecture>.<tag>``.
        device: Where the network computes; ``auto`` is a GPU where there is one.

    Raises:
        UserError: There is no such network, something of it is missing or damaged, or it does not say what it is.
    """
    name = os.fspath(folder)
    place = Path(os.path.expanduser(name.removeprefix(_LOCAL)))
    is_folder = place.is_dir()
    if not is_folder and not _HOSTED.match(name):
        raise UserError(f"no such folder: {place}; give that of a trained stage, e.g. outputs/try/seed-0/finetune")
    from bsssl.models import build_model, load_named, load_weights, named_weights
    from bsssl.runtime.device import make_compute, torch_as_it_was

    load_plugins(())
    weights: str | Mapping[str, Any]
    if is_folder:
        weights = str(_weights_in(place))
        described = _of_folder(place, weights)
    else:
        named = named_weights(name)
        described = _as_named(named, named.classes)
        weights = load_named(name, named.options)
    section, classes, seen = described.section, described.classes, described.seen
    with torch_as_it_was(device):
        compute = make_compute(
            device=device, precision=described.precision, channels_last=True, compile=False, threads=None, workers=0
        )
        network = build_model(section.name, num_classes=len(classes), **section.options)
        load_weights(network, weights, classes=classes, origin=name)
        network = compute.place_model(network).eval()
    return Model(
        origin=str(place) if is_folder else name,
        folder=place if is_folder else None,
        name=section.name,
        options=section.options,
        classes=classes,
        network=network,
        preprocessing=Preprocessing(**seen.transforms.model_dump(), clips=seen.clips),
        precision=described.precision,
        _seen=seen,
        _section=section,
    )


def _weights_in(folder: Path) -> Path:
    """Return the file of weights in the folder of a trained stage, or of another tool's network.

    Raises:
        UserError: There is none.
    """
    from bsssl.models import WEIGHT_FILES, WEIGHTS
    from bsssl.pipeline.record import BEGUN, read_record

    for path in (folder / name for name in WEIGHT_FILES):
        if path.exists():
            return path
    record = read_record(folder)
    left = (record["digests"] if isinstance(record, dict) else record.digests) if record else ()
    if "weights" in left or (folder / BEGUN).exists():
        raise UserError(
            f"there is no {folder / WEIGHTS}: the training is not finished or the file was deleted; run the stage"
        )
    below = [path.parent for pattern in ("*", "*/*") for path in folder.glob(f"{pattern}/{WEIGHTS}")]
    trained = sorted(str(place.relative_to(folder)) for place in below)
    hint = f"choose one of the folders in it: {', '.join(trained)}" if trained else "give that of a trained stage"
    raise UserError(f"{folder} is not the folder of a trained stage (there is no {WEIGHTS}); {hint}")


def _of_folder(place: Path, weights: str) -> _Described:
    """Return what a folder says of the network whose weights it holds.

    Raises:
        UserError: It says nothing, or what is none of a network.
    """
    from bsssl.models import CONFIG, LOCAL, named_weights, saved_facts
    from bsssl.stages.seen import recorded_settings

    facts = saved_facts(weights)
    named = named_weights(f"{LOCAL}{place}") if (place / CONFIG).exists() else None
    if named is None or not named.testing:  # as earlier versions left it, whose record says more
        if (recorded := recorded_settings(place)) is not None:
            return _as_recorded(place, *recorded, facts)
        if named is None:
            raise UserError(
                f"{place} has weights but no {CONFIG}, which says what the network is and how it sees images; copy the "
                "file too, or run the stage again"
            )
    return _as_named(named, named.classes or facts.get("classes"))


def _as_recorded(place: Path, stage: str, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> _Described:
    """Return what the record of a ``stage`` and the ``facts`` in its file of weights say of its network."""
    from bsssl.pipeline.record import DONE
    from bsssl.stages.seen import recorded_test_view

    if not facts:
        raise UserError(
            f"the weights in {place} do not say which network they are of: another tool wrote them, or they are damaged"
        )
    try:
        section, precision = ModelSection.model_validate(settings["model"]), str(settings["precision"])
        seen = recorded_test_view(stage, settings, place.parent)
    except (KeyError, TypeError, ValidationError):
        raise UserError(f"{place / DONE} is not the record of a training; run the stage again") from None
    section = section.model_copy(update={"name": facts["model"], "options": facts.get("options", {})})
    return _Described(section, list(facts["classes"]), seen, precision)


def _as_named(named: "Named", classes: Any) -> _Described:
    """Return what weights with a name, or ``config.json``, say of their network, with these classes if they are known.

    Raises:
        UserError: They do not say enough.
    """
    from bsssl.models import class_names
    from bsssl.stages.seen import described_test_view

    names = [str(name) for name in classes or class_names(named.num_classes or 0)]
    if not names:
        raise UserError(f"{named.name} has no classifier, or does not say of how many classes; name other weights")
    try:
        seen = described_test_view(named.transforms, named.clips, named.testing)
        precision = str(named.testing.get("precision", "float32"))
        section = ModelSection(name=named.network, options=dict(named.options))
    except (ValueError, TypeError, AttributeError):
        raise UserError(
            f"{named.name} does not say how the network sees pictures, or it is not a way that is known here; a "
            "pretrained_cfg with input_size, crop_pct, interpolation, mean and std is needed"
        ) from None
    if precision not in _PRECISIONS:
        raise UserError(
            f"{named.name}: unknown precision {precision!r} in config.json: {choices(precision, _PRECISIONS)}"
        )
    return _Described(section, names, seen, precision)
