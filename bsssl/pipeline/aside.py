"""Work of other settings: kept aside, taken back when it is asked for again, and never lost in silence."""

import os
import shutil
from pathlib import Path

from bsssl.pipeline.record import BEGUN, DONE, Record, Work, read_work
from bsssl.pipeline.run import Run, explain
from bsssl.runtime.console import logger

ASIDE = "aside"


def make_room(run: Run, name: str, *, redo: bool = False) -> None:
    """Leave the folder of stage ``name`` fit for the work that is asked for.

    What is there of other settings or inputs moves to ``aside/<stage>/<identity>`` beside it, with ``redo`` it is
    removed; what was kept aside of the very same work comes back. Where the stage goes on with what is there, part by
    part, finished work stays aside too, as links to the same files.
    """
    folder = run.folder(name).resolve()  # of a sweep it is a link
    wanted = run.work(name)
    there = _work_in(run, name, folder)
    edited = _edited(run, name, there, folder)
    if there is not None and there.identity == wanted.identity and edited is None:
        return
    kept = _kept(run, name, folder, wanted)
    if there is not None:
        reasons = edited or "; ".join(explain(there, wanted, run.stages[name])[:3])
        goes_on = kept is None and not edited and run.stages[name].continues(run, there)
        if goes_on and not (isinstance(there, Record) and run.stages[name].in_parts):
            return
        if redo:
            logger.info("seed %d: %s: what was there is replaced (%s)", run.seed, name, reasons)
            if not goes_on:
                shutil.rmtree(folder)
        else:
            place = _free(_shelf(folder) / there.identity)
            place.parent.mkdir(parents=True, exist_ok=True)
            if goes_on:
                shutil.copytree(folder, place, copy_function=_link)
            else:
                folder.rename(place)
            logger.info(
                "seed %d: %s: what was there is kept in %s (%s); --redo replaces it", run.seed, name, place, reasons
            )
        folder.mkdir(exist_ok=True)
    if kept is not None:
        _clear(folder)
        kept.rename(folder)
        logger.info("seed %d: %s: taken back from %s", run.seed, name, kept)


def place_of_others(folder: Path) -> Path | None:
    """Return what keeps finished work of other settings or inputs than in ``folder``: one folder, or that of all."""
    shelf = _shelf(folder.resolve())
    places = [path.parent for path in shelf.glob(f"*/{DONE}")]
    return shelf if len(places) > 1 else places[0] if places else None


def _kept(run: Run, name: str, folder: Path, wanted: Work) -> Path | None:
    """Return where the very work that is ``wanted`` is kept, finished or not; None if it is nowhere."""
    shelf = _shelf(folder)
    for place in sorted(shelf.iterdir()) if shelf.is_dir() else ():
        work = _work_in(run, name, place)
        if work is not None and work.identity == wanted.identity and not _edited(run, name, work, place):
            return place
    return None


def _link(source: str, target: str) -> None:
    """Give a file a second name; files of a run are replaced, never changed. Copy it where links cannot be made."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _clear(folder: Path) -> None:
    """Make way where something may lie that says nothing of what it is, such as checkpoints of an earlier version."""
    if any(folder.iterdir()):
        place = _free(_shelf(folder) / "unknown")
        folder.rename(place)
        logger.info("%s: what lay there without a record is kept in %s", folder, place)
    else:
        folder.rmdir()


def _work_in(run: Run, name: str, folder: Path) -> Work | None:
    """Return what the finished or unfinished work in ``folder`` was made of; None where there is none."""
    if (folder / DONE).exists():
        return run.record(name, folder)
    work = read_work(folder)
    if work is not None and [path.name for path in folder.iterdir()] == [BEGUN]:
        (folder / BEGUN).unlink()  # it was begun and came to nothing
        return None
    return work


def _edited(run: Run, name: str, work: Work | None, folder: Path) -> str | None:
    return run.edited(name, folder) if isinstance(work, Record) else None


def _shelf(folder: Path) -> Path:
    return folder.parent / ASIDE / folder.name


def _free(place: Path) -> Path:
    """Return ``place``, with a number where something is there already."""
    number, free = 1, place
    while free.exists():
        number += 1
        free = place.with_name(f"{place.name}-{number}")
    return free
