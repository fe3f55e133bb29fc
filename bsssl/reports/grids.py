"""The reports of grids: which report a grid has, and what a grid would do before it does it."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from bsssl.recipes.reproduction.grid import ReproductionGrid
from bsssl.recipes.sweep import Grid, Point
from bsssl.reports import reproduction, sweep
from bsssl.reports.plan import looked
from bsssl.reports.tables import Table


def write_grid(grid: Grid, points: Sequence[Point], *, unfinished: Sequence[Point] = ()) -> str:
    """Write the results of a grid into its output folder and return what to print.

    Args:
        grid: The sweep or the reproduction.
        points: The points that are finished, one at least.
        unfinished: The points to leave out.
    """
    if isinstance(grid, ReproductionGrid):
        return reproduction.write(grid.settings, points, unfinished=unfinished)
    return sweep.write(points)


def missing_of(points: Sequence[Point], *, here: bool) -> list[str]:
    """Return what the points of a grid that are not done would stop at, each reason once.

    Args:
        points: The points.
        here: Whether they would run on this machine.
    """
    from bsssl.recipes.check import missing  # imports torch
    from bsssl.stages.sources import makes_files

    reasons: dict[str, None] = {}
    read = set()
    for point in points:
        if all(run.pending(name) is None for run in point.runs for name in run.stages):
            continue
        reasons |= dict.fromkeys(missing(point.config, here=here).values())
        sources = point.config.data.sources()
        if str(sources) not in read and not any(map(makes_files, sources)):  # a plan of many points makes none
            read.add(str(sources))
            reasons |= dict.fromkeys(looked(point.runs[0])[2].values())
    return list(reasons)


def plan_grid(points: Sequence[Point]) -> str:
    """Return the points, and how much of the work they share, as text."""
    counts: Counter[str] = Counter()
    distinct: dict[str, set[str]] = defaultdict(set)
    for run in (run for point in points for run in point.runs):
        counts.update(list(run.stages))
        for name in run.stages:
            distinct[name].add(run.fingerprint(name))
    table = Table(["stage", "runs", "to compute"], [[name, counts[name], len(distinct[name])] for name in counts])
    seeds = ", ".join(str(run.seed) for run in points[0].runs)
    return "\n".join(
        [f"{len(points)} points, seeds {seeds}:", *(f"  {point.name}" for point in points), "", table.text()]
    )
