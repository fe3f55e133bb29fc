"""Loggers for other programs, in their offline modes, read back as these programs read them."""

import struct
import sys
from collections import defaultdict

import mlflow
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from bsssl.engine.metrics import Metrics
from bsssl.errors import UserError

LOGGERS = ("tensorboard", "wandb", "mlflow")


@pytest.fixture(autouse=True)
def no_services(monkeypatch):
    """What this user has set does not count; the wheel of MLflow for servers has a store of files alone."""
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")


def options(folder):
    return {
        "tensorboard": {},
        "wandb": {"mode": "offline", "project": "shapes", "tags": ["try"]},
        "mlflow": {"tracking_uri": (folder / "mlflow").as_uri()},
    }


def tensorboard_rows(folder):
    """The (step, value) pairs of every scalar that TensorBoard shows of a folder, and its hyperparameters."""
    events = EventAccumulator(str(folder)).Reload()
    rows = {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}
    found = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    return rows, found


def wandb_records(content):
    """The records of one of its files, which is a log as LevelDB has it, in blocks of 32 KiB."""
    at, record = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack("<HB", content[at + 4 : at + 7])
        record += content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # the whole of a record, or its last part
            yield Record.FromString(record)
            record = b""


def wandb_rows(folder):
    """Likewise of all runs in the files below a folder, by the id of the run, with the run itself."""
    rows, runs = defaultdict(list), {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        number = path.stem.removeprefix("run-")
        for record in wandb_records(path.read_bytes()):
            if record.HasField("run"):
                runs[number] = record.run
            if record.HasField("history"):
                row = {item.key or item.nested_key[0]: yaml.safe_load(item.value_json) for item in record.history.item}
                rows[number].append((row["_step"], row.get("loss")))
    return rows, runs


@pytest.fixture(scope="module")
def logged(recipe, tmp_path_factory):
    """The folder of a recipe whose teacher was trained and tested with all three loggers."""
    from bsssl import cli
    from tests.conftest import quiet_logger

    folder = tmp_path_factory.mktemp("logged")
    with quiet_logger(), pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as caught:
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        config = recipe.write(folder / "config.yaml", {"system": {"loggers": options(folder)}})
        cli.main(
            ["train", "--config", str(config), f"output_dir={folder / 'run'}", "stage=teacher", "teacher.clip_norm=9"]
        )
    assert caught.value.code == 0
    return folder


@pytest.fixture
def lines(logged):
    return [yaml.safe_load(line) for line in (logged / "run/seed-0/teacher/metrics.jsonl").read_text().splitlines()]


def test_tensorboard(logged, lines):
    rows, hyperparameters = tensorboard_rows(logged / "run/seed-0/teacher")
    assert rows["loss"] == [(line["step"], pytest.approx(line["loss"])) for line in lines] and lines
    assert rows.keys() >= {"loss", "accuracy", "lr", "samples_per_second"}
    for part in (b"teacher.clip_norm", b"models.student.name", b"small_resnet", b"stage"):
        assert part in hyperparameters
    assert b"system.loggers" not in hyperparameters
    tested, _ = tensorboard_rows(logged / "run/seed-0/evaluate-teacher")
    figures = yaml.safe_load((logged / "run/seed-0/evaluate-teacher/metrics.json").read_text())
    assert tested["top1"] == [(8, pytest.approx(figures["top1"]))]


def test_wandb(logged, lines):
    rows, runs = wandb_rows(logged / "run/seed-0/teacher")
    ((run_id, run),) = runs.items()
    assert rows[run_id] == [(line["step"], pytest.approx(line["loss"])) for line in lines]
    assert (run.project, run.run_group, run.job_type) == ("shapes", "run", "teacher")
    assert run.display_name == "seed-0/teacher" and list(run.tags) == ["try"]
    config = {item.key: yaml.safe_load(item.value_json) for item in run.config.update}
    assert config["teacher.clip_norm"] == 9.0 and config["seed"] == 0 and config["stage"] == "teacher"
    _, tests = wandb_rows(logged / "run/seed-0/evaluate-teacher")
    assert [test.display_name for test in tests.values()] == ["seed-0/evaluate-teacher"]


def test_mlflow(logged, lines):
    client = mlflow.MlflowClient(tracking_uri=options(logged)["mlflow"]["tracking_uri"])
    experiment = client.get_experiment_by_name("run")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert runs.keys() == {"seed-0/teacher", "seed-0/evaluate-teacher"}
    run = runs["seed-0/teacher"]
    assert run.info.status == "FINISHED" and run.data.params["teacher.clip_norm"] == "9.0"
    assert (run.data.tags["stage"], run.data.tags["seed"]) == ("teacher", "0")
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(line["step"], line["loss"]) for line in lines]
    figures = yaml.safe_load((logged / "run/seed-0/evaluate-teacher/metrics.json").read_text())
    assert runs["seed-0/evaluate-teacher"].data.metrics["top1"] == figures["top1"]


def test_a_logger_makes_nothing_run_again(bsssl, recipe, finished, tmp_path):
    arguments = ("run", "--config", recipe.config, f"output_dir={finished}")
    given = f"system.loggers={yaml.safe_dump(options(tmp_path), default_flow_style=True, width=1000)}"
    outcome = bsssl(*arguments, given, "--plan")
    assert outcome.status == 0 and "to do" not in outcome.out and outcome.out.count("done\n") == 13


def test_a_training_that_goes_on_gives_no_step_twice(tmp_path):
    """Killed twice, and going on from before what it had given; then trained anew."""

    def train(first, *steps):
        metrics = Metrics(options(tmp_path), folder=str(tmp_path), step=first, stage="teacher")
        for step in steps:
            metrics.write(step, {"loss": float(step)})
        metrics.close()

    for first, *steps in ((0, 50, 100, 150), (100, 120), (100, 150, 200)):
        train(first, *steps)
    client = mlflow.MlflowClient(tracking_uri=options(tmp_path)["mlflow"]["tracking_uri"])
    (place,) = (one.experiment_id for one in client.search_experiments() if one.name != "Default")
    (run,) = client.search_runs([place])
    expected = [50, 100, 150, 200]
    assert [one.step for one in client.get_metric_history(run.info.run_id, "loss")] == expected
    rows, runs = wandb_rows(tmp_path)
    assert len(runs) == 1 and [step for steps in rows.values() for step, _ in steps] == expected
    shown, _ = tensorboard_rows(tmp_path)
    assert [step for step, _ in shown["loss"]] == expected
    train(0, 50)
    assert len(client.search_runs([place])) == 2 and len(wandb_rows(tmp_path)[1]) == 2
    assert [step for step, _ in tensorboard_rows(tmp_path)[0]["loss"]] == [50]


@pytest.mark.parametrize("name", LOGGERS)
def test_a_missing_package_is_told_before_anything_runs(bsssl, recipe, tmp_path, monkeypatch, name):
    module = {"tensorboard": "torch.utils.tensorboard"}.get(name, name)
    monkeypatch.setitem(sys.modules, module, None)  # importing it is an ImportError
    arguments = ("run", "--config", recipe.config, f"output_dir={tmp_path / 'run'}", f"system.loggers.{name}={{}}")
    (line,) = bsssl(*arguments).errors
    assert line.startswith(f"error: the logger '{name}' needs a package that is missing (")
    assert f": pip install 'bsssl[{name}]', or take it out of system.loggers" in line
    assert not (tmp_path / "run").exists()


def test_a_service_that_refuses_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "too short")
    with pytest.raises(
        UserError, match=r"^the logger 'wandb' cannot begin \(.*\); mend that, or take it out of"
    ) as told:
        Metrics({"wandb": {"mode": "online"}}, folder=str(tmp_path))
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"^the logger 'mlflow' cannot begin \(.*nowhere"):
        Metrics({"mlflow": {"tracking_uri": "nowhere://store"}}, folder=str(tmp_path))
