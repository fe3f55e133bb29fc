"""The commands that use what a run has left: a network's predictions and exports, scores as a table."""

import argparse
from typing import TYPE_CHECKING

from bsssl.cli.command import Command, add_plugins, add_task, again
from bsssl.errors import UserError

if TYPE_CHECKING:
    from bsssl.api.prediction_job import PredictionJob

_EPILOG = """several GPUs or processes of one machine share the work and leave one file:
  torchrun --nproc-per-node 8 --no-python bsssl predict MODEL photos --to predictions.parquet
or add --launch launcher.gpus_per_node=8
a Slurm cluster: an array of tasks, each with a file of its own (predictions-00003-of-00064.parquet):
  bsssl predict MODEL photos --to predictions.parquet --launch launcher.kind=slurm launcher.gpus_per_node=1 \
    launcher.array_tasks=64 launcher.partition=gpu
  then `bsssl status predictions.jobs` and `bsssl cancel predictions.jobs`
another scheduler: such tasks as its own array, of which one is
  bsssl predict MODEL photos --to predictions.parquet --task 3/64

What cannot be read is listed at the end, and in predictions.unreadable.jsonl beside predictions.parquet. The exit
status is 1 if nothing could be read, and with --strict if anything could not.
"""


def _add_export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="the folder of a trained stage; of a run, for its student")
    parser.add_argument("--to", required=True, help="the format: a name in `bsssl options exporters`")
    parser.add_argument("--path", required=True, help="the file or folder to write; with --to hub USER/REPOSITORY")
    parser.add_argument(
        "--check", nargs="+", default=[], metavar="FILE", help="pictures or videos to compare it on; else generated"
    )
    add_plugins(parser)
    parser.add_argument("overrides", nargs="*", metavar="option=value", help="options of the format")


def _add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class, parser.epilog = argparse.RawDescriptionHelpFormatter, _EPILOG
    parser.add_argument(
        "model",
        help="the folder of a trained network; of a run, for its student; hf-hub:USER/REPOSITORY; or weights with a "
        "name, e.g. timm/resnet50.a1_in1k",
    )
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="path",
        help="a picture or video, a folder of them, tars (x.tar, or a pattern 'x-{000..099}.tar'), or a table of paths "
        "(.csv, .jsonl, .parquet); all of them may be URLs",
    )
    parser.add_argument("--to", metavar="FILE", help="the table to write: FILE ends in .csv, .jsonl or .parquet")
    parser.add_argument("--top", type=_count, default=3, metavar="N", help="classes of each item (default: 3)")
    parser.add_argument("--batch-size", type=_count, default=64, metavar="N", help="inputs at a time (default: 64)")
    parser.add_argument(
        "--workers", type=_number, default=2, metavar="N", help="processes that read files (default: 2)"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="auto: a GPU if there is one")
    parser.add_argument(
        "--strict", action="store_true", help="fail if anything cannot be read, not if all of it cannot"
    )
    add_task(parser, "do the I-th of N shares of the items (from 0), into a file of its own")
    parser.add_argument(
        "--launch",
        nargs="*",
        metavar="launcher.KEY=VALUE",
        help="start processes or submit jobs, as these keys of `launcher` say (`bsssl options`)",
    )
    add_plugins(parser)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is not a number")
    return int(text)


def _count(text: str) -> int:
    if _number(text) == 0:
        raise argparse.ArgumentTypeError("at least 1 is needed")
    return int(text)


def _add_scores_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="the folder of a score stage")
    parser.add_argument("--to", required=True, metavar="FILE", help="the Parquet file to write")


def _export(parsed: argparse.Namespace) -> None:
    from bsssl.api import load
    from bsssl.api.predicting import result_folder
    from bsssl.config.plugins import load_plugins
    from bsssl.config.reading import parse_overrides

    load_plugins(parsed.plugins)
    options = parse_overrides(parsed.overrides)
    difference = load(result_folder(parsed.folder)).export(parsed.to, parsed.path, check=parsed.check, **options)
    print(f"{parsed.path} has been written")
    if difference is not None:
        print(f"loaded again, its probabilities differ from the network's by at most {difference:.1e}")


def _predict(parsed: argparse.Namespace) -> None:
    from bsssl.api.prediction_job import PredictionJob
    from bsssl.pipeline.stage import Task

    if parsed.task and parsed.launch is not None:
        raise UserError("--task is for schedulers of your own; with --launch set launcher.array_tasks instead")
    job = PredictionJob(
        parsed.model,
        tuple(parsed.paths),
        to=parsed.to,
        top=parsed.top,
        batch_size=parsed.batch_size,
        workers=parsed.workers,
        device=parsed.device,
        task=Task(*parsed.task) if parsed.task else None,
        strict=parsed.strict,
        plugins=tuple(parsed.plugins),
        debug=parsed.debug,
    )
    told = None if parsed.launch is None else _launch(job, parsed)
    if told is None:
        job.predict()
    else:
        print(told)


def _launch(job: "PredictionJob", parsed: argparse.Namespace) -> str | None:
    from bsssl.api.prediction_job import launch_prediction

    return launch_prediction(
        job, parsed.launch, command=again([one for one in parsed.given if one not in parsed.launch])
    )


def _scores(parsed: argparse.Namespace) -> None:
    from bsssl.selection import score_files, write_parquet

    rows = write_parquet(score_files(parsed.folder), parsed.to)
    print(f"{parsed.to} has been written: {rows:,} rows")


COMMANDS = {
    "export": Command(
        "write a trained network for another program",
        "Writes the network in the folder of a trained stage in another format, and checks what was written.",
        _export,
        _add_export_arguments,
    ),
    "predict": Command(
        "what a trained network says of pictures or videos",
        "Prints the most probable classes of each, or writes them to a table.",
        _predict,
        _add_predict_arguments,
    ),
    "scores": Command(
        "write the scores of the pool as Parquet, a row per item and class",
        "Columns key, class and score: what score.given reads.",
        _scores,
        _add_scores_arguments,
    ),
}
