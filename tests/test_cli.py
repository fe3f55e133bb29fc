import os
import re
import shlex
import sys

import pytest
import torch

from bsssl import __version__
from bsssl.registry import METRICS
from tests.processes import run_to_end


def plan_rows(text):
    """The plan's table of stages: name -> its other cells."""
    lines = text.split("stage  ")[1].split("\n\n")[0].splitlines()[1:]
    return {line.split()[0]: re.split(r"  +", line)[1:] for line in lines if line.strip()}


@pytest.mark.parametrize(
    "command",
    [
        "run",
        "train",
        "score",
        "select",
        "materialise",
        "sweep",
        "reproduce",
        "transfer",
        "evaluate",
    ],
)
def test_help(bsssl, command):
    outcome = bsssl(command, "--help")
    assert outcome.status == 0 and "key=value" in outcome.out and "--plan" in outcome.out
    assert "--launch launcher.kind=slurm" in outcome.out


def test_version(bsssl):
    assert bsssl("--version").out == f"bsssl {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["runn"], ["run"], ["run", "--config", "x", "--pln"], ["run", "seeds=2"]])
def test_a_wrong_call_exits_with_2_and_shows_the_usage(bsssl, arguments):
    outcome = bsssl(*arguments)
    assert outcome.status == 2 and outcome.err.startswith("usage: bsssl")


def test_the_config_is_the_first_argument_or_that_of_an_option(bsssl, recipe, tmp_path):
    overrides = [f"output_dir={tmp_path}", "seeds=2"]
    called = [
        ["run", recipe.config, "--plan", *overrides],
        ["run", "--plan", recipe.config, *overrides],
        ["run", "--config", recipe.config, *overrides[:1], "--plan", *overrides[1:]],
    ]
    plans = {bsssl(*arguments).out for arguments in called}
    assert len(plans) == 1 and plans.pop().startswith(f"{recipe.config} -> {tmp_path}, seeds 0, 1\n")
    for arguments, problem in {
        ("a.yaml", "--config", "b.yaml", "seeds=2"): "two configs, a.yaml and --config b.yaml; give one",
        ("seeds=2",): "no config; give a YAML file, or a name of `bsssl init --list`, before key=value",
    }.items():
        outcome = bsssl("run", *arguments)
        assert outcome.status == 2 and outcome.err.splitlines()[-1] == f"bsssl run: error: {problem}"


@pytest.mark.parametrize("name", ["image/quickstart", "projects/image/quickstart.yaml"])
def test_a_config_of_the_package_is_found_from_anywhere_by_its_name(bsssl, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned = bsssl("run", name, "--plan")
    assert planned.out.startswith(f"{name} -> outputs/quickstart, seeds 0\n"), planned.err
    missing = bsssl("run", "image/quickstrat")
    assert missing.err.startswith("error: no such config: image/quickstrat; did you mean image/quickstart? `bsssl init")


def test_a_file_comes_before_a_config_of_the_package_of_the_same_name(bsssl, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image").mkdir()
    recipe.write(tmp_path / "image" / "quickstart", {"output_dir": "here"})
    assert bsssl("run", "image/quickstart", "--plan").out.startswith("image/quickstart -> here, ")
    (tmp_path / "mine.yaml").write_text("_BASE_: image/quickstart\nseed: 3\n")  # beside it, where it is found too
    assert bsssl("run", "mine.yaml", "--plan").out.startswith("mine.yaml -> here, seeds 3")
    (tmp_path / "mine.yaml").write_text("_BASE_: projects/image/quickstart.yaml\nseed: 3\n")
    assert bsssl("run", "mine.yaml", "--plan").out.startswith("mine.yaml -> outputs/quickstart, seeds 3")


def test_files_that_configs_of_the_package_name_are_found_from_anywhere(bsssl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    inspected = bsssl("tags", "inspect", "image/quickstart_weak")
    assert "tags: 49; with a class 40\n" in inspected.out, inspected.err
    planned = bsssl("reproduce", "image/reproduce", "--plan", "seeds=1")
    assert planned.status == 0, planned.err


def test_options(bsssl):
    outcome = bsssl("options")
    assert outcome.status == 0
    assert "select.top_k: int | ['auto'] = 16000\n    K: samples kept per class. auto: that K of" in outcome.out
    assert "\nfull_ft: FullFt | null = (as below)\n    null turns it off\n" in outcome.out


@pytest.mark.parametrize(
    ("part", "first", "titles"),
    [
        ("teacher", "teacher.length: Length = 90 epochs\n    how long to train; ", 0),
        ("launcher", "launcher.kind: str = local\n", 0),
        ("data.pool", "data.pool: list[Source] = []\n", 0),
        ("select.top_k", "select.top_k: int | ['auto'] = 16000\n", 0),
        (
            "checkpoints",
            "of a transfer alone (`bsssl transfer`):\n\ncheckpoints: dict[str, Checkpoint] = (required)",
            1,
        ),
        ("weak", "weak: Weak | null = null\n", 1),
    ],
)
def test_options_of_a_part_of_the_config(bsssl, part, first, titles):
    shown = bsssl("options", part).out
    keys = [line for line in shown.splitlines() if line and not line.startswith((" ", "of a "))]
    assert shown.startswith(first) and shown.count("of a ") >= titles
    assert all(re.match(rf"{re.escape(part)}($|[.\[:])", key) for key in keys)


@pytest.mark.parametrize(
    ("part", "hint"),
    [
        ("teachr", "did you mean teacher? "),
        ("top_k", "did you mean select.top_k? "),
        ("lossses", "did you mean losses"),
        ("a=1", ""),
    ],
)
def test_options_of_an_unknown_part(bsssl, part, hint):
    outcome = bsssl("options", part)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith(f"error: a config has no part '{part}'; {hint}")


def test_options_of_a_sort_of_parts(bsssl, monkeypatch):
    assert "cross_entropy\n" in bsssl("options", "losses").out
    monkeypatch.setattr(METRICS, "_parts", {})
    assert bsssl("options", "metrics").out == "there are no metrics but those of plugins: give --plugins MODULE\n"
    for sort, error in {"losses": "loss 'nope': valid: ", "metrics": "metric 'nope': there are none\n"}.items():
        outcome = bsssl("options", sort, "nope")
        assert (outcome.status, outcome.out) == (1, "") and outcome.err.startswith(f"error: unknown {error}")


def test_the_plan_of_a_recipe_that_has_not_run(bsssl, recipe, tmp_path):
    outcome = bsssl("run", "--config", recipe.config, f"output_dir={tmp_path / 'run'}", "--plan", "seed=3")
    assert outcome.status == 0 and not (tmp_path / "run").exists()
    assert f"-> {tmp_path / 'run'}, seeds 3" in outcome.out
    # 108 + 8 of the stem, 2 x (144 + 8) of the block, 15 of the classifier; 16 x 16 x (108 + 288) + 12
    assert re.search(
        r"student +small_resnet +435 +101,388 at 16x16 +scratch +whole pictures to 16x16, mean ", outcome.out
    )
    rows = plan_rows(outcome.out)
    assert rows["teacher"] == ["12", "12", "8", "96", "0.09375", "to do (not done yet)"]
    assert rows["score"] == ["52", "8", "52", "to do (not done yet)"]
    assert rows["select"] == ["at most 18", "to do (not done yet)"]
    assert list(rows)[-1] == "evaluate-baseline" and len(rows) == 13


def test_the_plan_of_a_finished_recipe_after_a_change(bsssl, recipe, finished):
    arguments = ("run", "--config", recipe.config, f"output_dir={finished}", "--plan")
    assert {cells[-1] for cells in plan_rows(bsssl(*arguments).out).values()} == {"done"}
    rows = plan_rows(bsssl(*arguments, "finetune.base_lr=0.01", "seeds=2").out)
    assert rows["teacher"][-1] == "to do for 1 of 2 seeds (not done yet)"
    assert rows["finetune"][-1] == "to do for 2 of 2 seeds (finetune.base_lr: 0.2 -> 0.01)"
    rows = plan_rows(bsssl(*arguments, "finetune.base_lr=0.01").out)
    assert [name for name, cells in rows.items() if cells[-1] != "done"] == ["finetune", "evaluate-finetune"]


def test_the_plan_of_one_stage(bsssl, recipe, finished):
    arguments = ("--config", recipe.config, f"output_dir={finished}", "--plan")
    assert list(plan_rows(bsssl("train", *arguments, "stage=pretrain").out)) == [
        "data",
        "pretrain",
        "evaluate-pretrain",
    ]
    before = ["data", "contents"]
    assert list(plan_rows(bsssl("contents", *arguments).out)) == before
    assert list(plan_rows(bsssl("train", *arguments, "stage=baseline").out))[:3] == [*before, "baseline"]
    assert list(plan_rows(bsssl("score", *arguments).out)) == ["data", "score"]
    assert list(plan_rows(bsssl("evaluate", *arguments).out)) == ["evaluate-finetune"]


def test_the_plan_without_data(bsssl, recipe, tmp_path):
    missing = f"data.train.path={tmp_path / 'none'}"
    arguments = ("run", "--config", recipe.config, f"output_dir={tmp_path}", "--plan", missing)
    outcome = bsssl(*arguments)
    reason = f"data.train: no such file or folder: {tmp_path / 'none'}; check the path"
    assert outcome.status == 1 and outcome.errors == [f"error: {reason}"]
    rows = plan_rows(outcome.out)
    assert rows["data"][-1].startswith("cannot run: data.train: no such file ") and rows["teacher"][:3] == [
        "unknown",
        "12",
        "8",
    ]
    assert "unknown (set data.num_classes)" in bsssl(*arguments, "data.num_classes=null").out


@pytest.mark.parametrize(
    ("override", "stage", "reason"),
    [
        ("teacher.init_from=none.pt", "teacher", "teacher.init_from: 'none.pt' is neither a stage ("),
        ("select.exclude=none.csv", "select", "none.csv"),
        ("data.num_classes=4", "data", "data.train has 3 classes, but data.num_classes says 4"),
    ],
)
def test_the_plan_ends_with_what_is_missing(bsssl, recipe, tmp_path, override, stage, reason):
    outcome = bsssl("run", "--config", recipe.config, f"output_dir={tmp_path}", "--plan", override)
    assert outcome.status == 1 and len(outcome.errors) == 1 and reason in outcome.errors[0]
    stopped = {name: cells[-1] for name, cells in plan_rows(outcome.out).items() if "cannot run: " in cells[-1]}
    assert stopped.keys() - {"contents", "near"} == {stage}  # what reads data and scores is of its section


def test_the_plan_of_an_output_that_cannot_be_written(bsssl, recipe, tmp_path):
    (tmp_path / "file").write_text("")
    outcome = bsssl("run", "--config", recipe.config, f"output_dir={tmp_path / 'file' / 'run'}", "--plan")
    assert outcome.status == 1 and plan_rows(outcome.out)
    assert outcome.errors[0].startswith(f"error: cannot write {tmp_path / 'file' / 'run'}: Not a directory; ")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_plan_misses_a_gpu(bsssl, recipe, finished, tmp_path):
    arguments = ("run", "--config", recipe.config, "system.device=cuda", "--plan")
    outcome = bsssl(*arguments, f"output_dir={tmp_path / 'other'}")
    assert outcome.errors[0].startswith("error: system.device is cuda, but no GPU is usable")
    rows = plan_rows(outcome.out)
    assert "cannot run" in rows["teacher"][-1] and "cannot run" not in rows["data"][-1]
    assert bsssl(*arguments, f"output_dir={finished}").status == 0


def test_the_plan_of_what_is_done_misses_nothing(bsssl, recipe, finished, tmp_path):
    gone = [f"output_dir={finished}", "--plan", f"data.train.path={tmp_path / 'none'}"]
    assert "cannot run" in bsssl("run", "--config", recipe.config, *gone).out
    assert bsssl("run", "--config", recipe.config, *gone[:2]).status == 0


def test_the_plan_finds_a_warm_up_that_is_too_long(bsssl, recipe, tmp_path):
    outcome = bsssl("run", "--config", recipe.config, f"output_dir={tmp_path}", "--plan", "teacher.warmup=9 epochs")
    assert outcome.status == 1
    assert outcome.errors[0].startswith("error: teacher.warmup (9 epochs, 9 steps) is longer than teacher.length (8 s")


def test_the_command_that_an_error_names_mends_it(bsssl, recipe, tmp_path):
    """Paths with blanks and overrides survive the way into the message and back."""
    output = tmp_path / "my run"
    arguments = ("--config", recipe.config, f"output_dir={output}", "teacher.length=4 steps", "baseline.base_lr=1.0")
    line = bsssl("score", *arguments).errors[0]
    named = shlex.split(line.split("run first: ")[1])
    assert named[:2] == ["bsssl", "train"]
    assert bsssl("train", *named[2:]).status == 0
    assert bsssl("score", *arguments).status == 0
    assert (output / "seed-0" / "score" / "done.json").exists()


@pytest.mark.parametrize("name", ["a b", "it's", "$HOME;`id`*", "%j ~"])
def test_the_command_that_an_error_names_can_be_pasted(bsssl, recipe, tmp_path, name):
    output = tmp_path / name
    ended = bsssl("score", "--config", recipe.config, f"output_dir={output}")
    command = ended.errors[0].partition("run first: ")[2]
    words = run_to_end(["sh", "-c", f'printf "%s\\n" {command}']).stdout.splitlines()
    assert words[0] == "bsssl" and f"output_dir={output}" in words
    assert bsssl(*words[1:], "--plan").status == 0


def test_overrides_may_stand_anywhere(bsssl, recipe, tmp_path):
    arguments = ("run", "seed=4", "--config", recipe.config, "seeds=2", "--plan", f"output_dir={tmp_path}", "seed=5")
    assert f"-> {tmp_path}, seeds 5, 6\n" in bsssl(*arguments).out


@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_closed_output_changes_nothing(recipe, tmp_path, closed):
    command = [sys.executable, "-c", "from bsssl.cli import main; main()", "train", str(recipe.config), "stage=teacher"]
    ended = run_to_end(["sh", "-c", f'exec "$@" {closed}', "sh", *command, f"output_dir={tmp_path}"])
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "seed-0" / "evaluate-teacher" / "done.json").exists()


def test_a_run_goes_on_where_standard_error_is_full(bsssl, recipe, tmp_path, monkeypatch):
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        outcome = bsssl("train", "stage=teacher", "--config", recipe.config, f"output_dir={tmp_path}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())  # closing it tries again
    assert outcome.status == 0 and (tmp_path / "seed-0" / "teacher" / "done.json").exists()


@pytest.mark.parametrize("arguments", ["--version", "init --list"])
def test_full_standard_output_is_one_error_line(arguments):
    command = [sys.executable, "-c", "from bsssl.cli import main; main()", *arguments.split()]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ended = run_to_end(["sh", "-c", 'exec "$@" >/dev/full', "sh", *command], env=environment)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: [Errno 28] No space left on device") and ended.stderr.count("\n") == 1


def test_an_error_without_standard_error(recipe):
    command = [sys.executable, "-c", "from bsssl.cli import main; main()", "run", str(recipe.config), "select.top_k=0"]
    assert run_to_end(["sh", "-c", 'exec "$@" 2>&-', "sh", *command]).returncode == 1


def test_an_interrupt_exits_with_130(bsssl, recipe, tmp_path, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bsssl.pipeline.runner.execute", interrupted)
    outcome = bsssl("run", "--config", recipe.config, f"output_dir={tmp_path}")
    assert (outcome.status, outcome.err) == (130, "interrupted: the same command goes on from the last checkpoint\n")
