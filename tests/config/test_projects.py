"""Every recipe and every script that comes with the project."""

import itertools
import re
import runpy
import sys
from pathlib import Path

import pytest

from bsssl.config import Config, Transfer, load_config
from bsssl.stages.sources import makes_files

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "projects").rglob("*.yaml"))
RUN_TOOLS = ["tools/cancel_run.py", "tools/status_run.py"]
GRIDS = [path for path in CONFIGS if Path(path).stem.startswith("reproduce")]
TAG_TOOLS = ["tools/inspect_tags.py"]  # tested in test_weak.py
TOOLS = sorted({str(path.relative_to(ROOT)) for path in (ROOT / "tools").glob("*.py")} - {*RUN_TOOLS, *TAG_TOOLS})


def test_there_are_projects_and_tools():
    assert "projects/image/quickstart.yaml" in CONFIGS
    assert "tools/train_net.py" in TOOLS


def _opening(path: str) -> list[str]:
    lines = (ROOT / path).read_text().splitlines()
    return list(itertools.takewhile(lambda line: line.startswith("#"), lines))


def _command_of(path: str) -> str:
    named = re.search(r"^# +bsssl (\w+) (\S+)", "\n".join(_opening(path)), re.MULTILINE)
    assert named, f"{path} must open with its command"
    assert named[2] == path
    return named[1]


@pytest.mark.parametrize("path", CONFIGS)
def test_a_project_opens_with_command_needs_time_and_expectation(path):
    assert _command_of(path) in ("run", "train", "score", "select", "transfer", "reproduce")
    opening = "\n".join(_opening(path))
    for word in ("Needs", "Takes", "Expect"):
        assert word in opening, f"{path}: its opening comment lacks '{word}'"


@pytest.mark.parametrize("path", GRIDS)
def test_a_reproduction_plans_every_point(path, bsssl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    planned = bsssl("reproduce", "--config", ROOT / path, "--plan", "seeds=1")
    makes_its_data = Path(path).stem == "reproduce"
    assert planned.status == len(planned.errors) == (0 if makes_its_data else 1), planned.err
    assert re.match(r"\d+ points, seeds 0:\n", planned.out) and re.search(r"\npretrain +\d+", planned.out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", sorted(set(CONFIGS) - set(GRIDS)))
def test_a_project_loads_and_plans_without_its_data(path, bsssl, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no project finds its data
    command = _command_of(path)
    config = load_config(str(ROOT / path), [], Transfer if command == "transfer" else Config)
    planned = bsssl(command, path, "--plan")  # where it is found by its name
    needs_files = command == "transfer" or not all(makes_files(source) for source in config.data.sources())
    assert (planned.status, len(planned.errors)) == ((1, 1) if needs_files else (0, 0)), planned.err
    lines = planned.out.splitlines()
    assert lines[2].split()[:4] == ["network", "name", "parameters", "multiply-adds"]
    costs = r" [\d,]+ +[\d,]+ at (?:\d+x)?(\d+)x\1  "  # exact, unless the classes come from the user's data
    end = lines.index("", 3)
    assert all(re.search(costs if config.data.num_classes else "set data.num_classes", line) for line in lines[3:end])
    assert re.match(r"stage +rows +batch +steps", lines[end + 1])
    assert any(re.search(r"to do.* \(not done yet\)$", line) for line in lines[end + 2 :])


@pytest.mark.parametrize("tool", RUN_TOOLS)
def test_a_tool_that_looks_after_a_run(tool, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [tool, "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / tool), run_name="__main__")
    assert not caught.value.code and "output_dir" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [tool, "nowhere"])
    with pytest.raises(SystemExit, match=r"^error: no run in nowhere; give the output_dir of one"):
        runpy.run_path(str(ROOT / tool), run_name="__main__")


@pytest.mark.parametrize("tool", [*TOOLS, *RUN_TOOLS, *TAG_TOOLS])
def test_a_tool_says_how_to_run_it_on_a_cluster(tool, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [tool, "--help"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / tool), run_name="__main__")
    assert "cluster" in capsys.readouterr().out


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_answers_help_and_stands_for_its_command(tool, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [tool, "--help"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / tool), run_name="__main__")
    assert not caught.value.code
    shown = capsys.readouterr().out
    for text in ("--config", "--plan", "--debug", "key=value"):
        assert text in shown
    monkeypatch.setattr(sys, "argv", [tool, "--config", "nowhere.yaml"])
    with pytest.raises(SystemExit, match=r"^error: no such config: nowhere\.yaml"):
        runpy.run_path(str(ROOT / tool), run_name="__main__")
