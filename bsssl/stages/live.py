"""Teachers that say what they think of the very inputs that a student sees."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from bsssl.config import Model, Section, by_role
from bsssl.engine.live import LiveTeacher, MeanOf
from bsssl.pipeline.stage import Context, Stage
from bsssl.runtime.device import Compute
from bsssl.stages.computing import trained_model
from bsssl.stages.seen import Seen


class LiveSettings(Section):
    """What decides the targets that a teacher gives, besides the teacher's weights."""

    model: Model
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    temperature: float


def live_teachers(
    run: Context,
    stage: Stage[Any],
    teachers: Sequence[LiveSettings],
    classes: list[str],
    *,
    student: Seen,
    compute: Compute,
) -> nn.Module | None:
    """Return what maps inputs of the student to the mean scores of the teachers of a stage; None without teachers.

    Args:
        run: The run.
        stage: What needs the teachers, as the roles teacher, teacher-2, ...
        teachers: Their settings, in this order.
        classes: The classes.
        student: How the student sees pictures.
        compute: The device.
    """
    theirs = student.for_testing()
    networks = [
        LiveTeacher(
            trained_model(run.input(stage, role), live.model, classes),
            size=live.size,
            interpolation=live.interpolation,
            student=(theirs.mean, theirs.std),
            teacher=(live.mean, live.std),
            temperature=live.temperature,
        )
        for role, live in by_role(teachers).items()
    ]
    return compute.place_model(MeanOf(networks)) if networks else None
