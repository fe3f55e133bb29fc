"""Doing the stages of runs: those that are done are skipped, those that were interrupted go on where they were."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bsssl import storage
from bsssl.errors import UserError, note
from bsssl.pipeline.aside import make_room, place_of_others
from bsssl.pipeline.lock import hold, lock_of, share
from bsssl.pipeline.progress import LOGS
from bsssl.pipeline.record import DONE, finished_now, read_record, read_work, write_begun, write_record
from bsssl.pipeline.run import Run
from bsssl.pipeline.stage import Stage, Task
from bsssl.runtime import console, distributed
from bsssl.runtime.console import logger

_PATIENCE = 600.0  # seconds that a task waits for another that makes the folder ready, or does work without parts
_OTHERS_AT_WORK = 3600.0  # seconds after which what a writer of a part has left unfinished is no longer being written


def execute(
    runs: Sequence[Run],
    *,
    wanted: Callable[[Stage], bool],
    device: str,
    task: Task | None = None,
    redo: bool = False,
) -> None:
    """Run the stages that are ``wanted``, of one run after the other; those that are done are skipped.

    Under torchrun every process calls this, and they share the work.

    Args:
        runs: What may be run.
        wanted: Whether a stage is to run, if it is not done.
        device: The device of the process group: ``cpu``, ``cuda`` or ``auto``.
        task: When given, of work that has parts only its share is done.
        redo: Whether work of other settings is replaced, not kept aside.

    Raises:
        UserError: Something that a stage needs is not there, another process is at work, or no work has parts for
            ``task`` to share.
    """
    distributed.init(device)
    for run in runs:
        names = [name for name, stage in run.stages.items() if wanted(stage)]
        if task is not None and not any(run.stages[name].in_parts for name in names):
            raise UserError(f"the work of {', '.join(names)} has no parts that tasks could share; leave --task out")
        for name in names:
            run.require_inputs(name, besides=names)
        for name in names:
            if task is None:
                run_stage(run, name, redo=redo)
            elif run.stages[name].in_parts:
                run_task(run, name, _share(task), redo=redo)
            else:
                run_stage(run, name, redo=redo, patience=_PATIENCE)
    distributed.shutdown()  # not after an error: the others may be waiting for this process, which torchrun ends


def run_stage(run: Run, name: str, *, redo: bool = False, patience: float = 0.0) -> None:
    """Run stage ``name`` unless it is done; all it needs must be there.

    ``patience``: the seconds for which to wait while another process is at work on it.
    """
    # One answer for all: nobody may look after somebody has begun to write, or see less of a network's file system.
    if distributed.from_main(lambda: _is_done(run, name)):
        return
    run.require_inputs(name)
    if not distributed.is_main():
        _work(run, name)
        return
    folder = run.folder(name)
    _make(folder)
    what, identity = f"{name} in {run.path}", run.identity(name)
    with hold(lock_of(folder), what=what, identity=identity, patience=patience), _logged(run, name, name):
        _work(run, name, redo=redo)


def _is_done(run: Run, name: str) -> bool:
    reason = run.pending(name)
    if reason is None and run.is_earlier_than(name):
        logger.info(
            "seed %d: %s is left out, as the run is from before there was such a stage; another output_dir has it",
            *(run.seed, name),
        )
    elif reason is None:
        _refresh(run, name)
        logger.info("seed %d: %s is done already", run.seed, name)
    else:
        logger.info("seed %d: %s (%s)", run.seed, name, reason)
    return reason is None


def _work(run: Run, name: str, *, redo: bool = False) -> None:
    """Do the work of a stage, all processes of the run together."""
    stage, folder = run.stages[name], run.folder(name)
    started = time.monotonic()
    taken_back = distributed.from_main(lambda: _prepare(run, name, redo=redo))
    if taken_back:
        return
    begun = run.work(name)
    with _telling_of_others(folder):
        result = stage.work(run) if stage.shared or distributed.is_main() else {}
    if distributed.is_main():
        if run.identity(name) != begun.identity:
            raise UserError(f"{name}: what it reads has changed while it was at work; run the same command again")
        digests = {part: stage.digest(run, part) for part in stage.leaves()}
        record = finished_now(begun, result=result, digests=digests, seconds=time.monotonic() - started)
        write_record(folder, run.measured(name, record))
        stage.clean_up(run)
    distributed.barrier()


def _prepare(run: Run, name: str, *, redo: bool) -> bool:
    """Make the folder of a stage ready for its work; return whether that was found kept aside, finished."""
    folder = run.folder(name)
    run.introduce()
    make_room(run, name, redo=redo)
    if run.pending(name) is None:
        return True
    # Others may be at work on parts of the stage too, with their own files on their way.
    storage.remove_leftovers(str(folder), unchanged_for=_OTHERS_AT_WORK if run.stages[name].in_parts else 0.0)
    write_begun(folder, run.work(name))
    (folder / DONE).unlink(missing_ok=True)
    return False


def run_task(run: Run, name: str, task: Task, *, redo: bool = False) -> None:
    """Do the share of ``task`` of what stage ``name`` lacks; ``run_stage`` finishes the stage after all of them."""
    reason = run.pending(name)
    if reason is None:
        logger.info("seed %d: %s is done already", run.seed, name)
        return
    run.require_inputs(name)
    logger.info("seed %d: task %d of %d of %s (%s)", run.seed, task.number, task.count, name, reason)
    folder = run.folder(name)
    _make(folder)
    lock, identity = lock_of(folder), run.identity(name)
    with contextlib.ExitStack() as shared:
        with hold(lock, what=f"{name} in {run.path}", identity=identity, patience=_PATIENCE):
            if not _is_begun(run, name):
                _prepare(run, name, redo=redo)
            shared.enter_context(share(lock, identity=identity))
        with _logged(run, name, f"{name}-task-{task.number}"), _telling_of_others(folder):
            run.stages[name].work_part(run, task)


@contextlib.contextmanager
def _telling_of_others(folder: Path) -> Iterator[None]:
    """Have an error say where results of other settings are, for it may be that they were there until now."""
    try:
        yield
    except Exception as error:
        if place := place_of_others(folder):
            note(error, f"what was done with other settings or inputs is kept in {place}, and comes back with them")
        raise


def _logged(run: Run, name: str, file: str) -> contextlib.AbstractContextManager[None]:
    """Have the log lines of a stage written to a file of this process too."""
    return console.written_to(run.path / LOGS / f"{file}.log", title=f"seed {run.seed}: {name}")


def _make(folder: Path) -> None:
    try:
        folder.resolve().mkdir(parents=True, exist_ok=True)  # of a sweep it is a link
    except OSError as error:
        raise storage.unwritable(str(folder), error) from error


def _is_begun(run: Run, name: str) -> bool:
    begun = read_work(run.folder(name))
    return begun is not None and begun.identity == run.identity(name)


def _refresh(run: Run, name: str) -> None:
    """Bring the record of a finished stage up to date: of format 1, of inputs that changed to no effect, or copied."""
    if not distributed.is_main():
        return
    folder = run.folder(name)
    stored, record = read_record(folder), run.record(name)
    if record is None:
        return
    current = run.measured(name, replace(record, read={**record.read, **run.work(name).read}))
    if isinstance(stored, dict) or current != record:
        with contextlib.suppress(UserError), hold(lock_of(folder), what=name):  # whoever is at work there knows better
            if read_record(folder) == stored:
                write_record(folder, current)


def _share(task: Task) -> Task:
    """Return the share of this process, of several that do ``task`` together."""
    processes = distributed.world_size()
    return Task(task.number * processes + distributed.rank(), task.count * processes)
