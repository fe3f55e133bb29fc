"""Work of other settings: kept aside, taken back when it is asked for again, and never lost in silence."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from bsssl.pipeline.record import BEGUN, DONE, Record, Work, read_work
from bsssl.pipeline.run import Run, explain
from bsssl.runtime.console import logger

ASIDE = "aside"


def make_room(run: Run, name: str, *, redo: bool = False) -> None:
    """Leave the folder of stage ``name`` fit for the work that is asked for.

    What is there of other settings or inputs moves to ``aside/<stage>/<identity>`` beside it, with ``redo`` it is
    removed; what was kept aside of the very same work comes back.
    """
    folder = run.folder(name).resolve()  # of a sweep it is a link
    wanted = run.work(name)
    there = _work_in(run, name, folder)
    edited = _edited(run, name, there, folder)
    if there is not None and there.identity == wanted.identity and edited is None:
        return
    if there is not None and (edited or not run.stages[name].continues(run, there)):
        reasons = edited or "; ".join(explain(there, wanted, run.stages[name])[:3])
        if redo:
            logger.info("seed %d: %s: what was there is replaced (%s)", run.seed, name, reasons)
            shutil.rmtree(folder)
        else:
            place = _free(_shelf(folder) / there.identity)
            place.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(place)
            logger.info(
                "seed %d: %s: what was there is kept in %s (%s); --redo replaces it", run.seed, name, place, reasons
            )
        folder.mkdir()
    for place in _kept(folder):
        same = _work_in(run, name, place)
        is_wanted = same is not None and same.identity == wanted.identity and not _edited(run, name, same, place)
        if is_wanted and not _holds_work(folder):
            shutil.rmtree(folder, ignore_errors=True)
            place.rename(folder)
            logger.info("seed %d: %s: taken back from %s", run.seed, name, place)
            return


def _work_in(run: Run, name: str, folder: Path) -> Work | None:
    """Return what the finished or unfinished work in ``folder`` was made of; None where there is none."""
    if (folder / DONE).exists():
        return run.record(name, folder)
    return read_work(folder) if (folder / BEGUN).exists() else None


def _edited(run: Run, name: str, work: Work | None, folder: Path) -> str | None:
    return run.edited(name, folder) if isinstance(work, Record) else None


def _shelf(folder: Path) -> Path:
    return folder.parent / ASIDE / folder.name


def _kept(folder: Path) -> Iterator[Path]:
    shelf = _shelf(folder)
    return iter(sorted(shelf.iterdir())) if shelf.is_dir() else iter(())


def _holds_work(folder: Path) -> bool:
    return (folder / DONE).exists() or (folder / BEGUN).exists()


def _free(place: Path) -> Path:
    """Return ``place``, with a number where something is there already."""
    number, free = 1, place
    while free.exists():
        number += 1
        free = place.with_name(f"{place.name}-{number}")
    return free
