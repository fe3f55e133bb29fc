"""The commands about a run: its report, what it is doing, its end."""

import argparse
import os

from bsssl.cli.command import Command
from bsssl.runtime import console


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "For runs on a Slurm cluster: call it where Slurm's commands work, such as a login node."
    parser.add_argument("output_dir", help="the run's folder, the config's output_dir")


def _add_report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the run's folder, the config's output_dir, or that of one of its seeds")
    parser.add_argument("--seed", type=int, help="the seed whose pictures are shown; default: the first")
    parser.add_argument("--to", metavar="FILE", help="the file to write; default: report.html in the run's folder")
    parser.add_argument(
        "--thumbnails-mb", type=_megabytes, default=20.0, metavar="N", help="room for pictures in the page; default: 20"
    )


def _megabytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 30:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 0 to below 30, the most that a page may have")
    return number


def _add_status_arguments(parser: argparse.ArgumentParser) -> None:
    _add_folder(parser)
    parser.add_argument(
        "--shards", action="store_true", help="every shard of the pool, and every tar of the copied selection, instead"
    )


def _add_watch_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the folder of a run, a sweep or a reproduction, or that of a seed")
    parser.add_argument("--once", action="store_true", help="show it once")


def _report(parsed: argparse.Namespace) -> None:
    import pyarrow

    from bsssl.reports.page import NAME
    from bsssl.reports.page.opening import open_run
    from bsssl.reports.page.writing import write_page

    console.setup(debug=parsed.debug)
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())  # which gives back what a large selection no longer needs
    run = open_run(parsed.run, seed=parsed.seed)
    written = write_page(run, parsed.to or os.path.join(run.folder, NAME), thumbnails_mb=parsed.thumbnails_mb)
    size = f"{written.bytes / 10**6:.1f} MB, {written.thumbnails:,} thumbnails"
    print(f"{written.path} has been written: {size}" + (f"; {written.lacks}" if written.lacks else ""))


def _status(parsed: argparse.Namespace) -> None:
    from bsssl.launch.status import status

    print(status(parsed.output_dir, shards=parsed.shards))


def _watch(parsed: argparse.Namespace) -> None:
    from bsssl.launch.watch import watch

    watch(parsed.run, once=parsed.once)


def _cancel(parsed: argparse.Namespace) -> None:
    from bsssl.launch.status import cancel

    print(cancel(parsed.output_dir))


COMMANDS = {
    "report": Command(
        "one page of HTML about a run",
        "Writes what was selected and what came of it, with pictures: whether the student gained, the best and the "
        "last picks of each class, confusions, calibration, failures, time. `run` writes it too.",
        _report,
        _add_report_arguments,
    ),
    "status": Command(
        "what a launched run is doing",
        "Shows what is done, running, waiting and failed, with the last lines of the logs.",
        _status,
        _add_status_arguments,
    ),
    "watch": Command(
        "a run while it runs",
        "Shows the stages, the curves of trainings, speed, time left and the newest log lines, from the files in "
        "the run's folder alone: here, on a cluster, or of a run that is over. It refreshes in place until the "
        "run ends or Ctrl-C; where the output is no terminal it is shown once.",
        _watch,
        _add_watch_arguments,
    ),
    "cancel": Command(
        "end a launched run", "Cancels the jobs of a run that are waiting or running.", _cancel, _add_folder
    ),
}
