"""What was left out as of no class: the figures of the stage, and the values of pool and labels as curves."""

from typing import Any

import numpy as np

from bsssl import storage
from bsssl.reports.page.opening import Opened
from bsssl.reports.recipe import selecting
from bsssl.selection.open_set import FACTS


def read_facts(run: Opened) -> dict[str, Any] | None:
    """Return what the stage has left for the selection of the last round, with what each class lost; None without it,
    and where the selection was made without it.

    Raises:
        UserError: The file is damaged.
    """
    stage = selecting(run.shown, run.config.rounds)
    name, selected = stage.needs.get("open_set"), run.result(stage.name)
    if name is None or selected is None or "lost" not in selected or run.result(name) is None:
        return None
    facts: dict[str, Any] = storage.read_json(str(run.shown.folder(name) / FACTS))
    lost = sorted(selected["lost"].items(), key=lambda one: -one[1])
    return {**facts, "lost": lost, "fewer": sum(count for _, count in lost)}


def curves(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the share of labels and of the pool in each bin of values, percent, and the line of the threshold."""
    histogram = facts["histogram"]
    middles = (np.array(histogram["edges"][:-1]) + histogram["edges"][1:]) / 2
    shares = {name: 100 * np.array(histogram[name]) / sum(histogram[name]) for name in ("held_out", "pool")}
    return {
        "value": middles.round(4).tolist(),
        **{name: share.round(2).tolist() for name, share in shares.items()},
        "threshold": facts["threshold"],
        "highest": round(float(max(share.max() for share in shares.values())), 2),
    }
