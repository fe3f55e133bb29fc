"""Imports go down the layers alone, there is no cycle, importing changes nothing, and heavy imports come late."""

import ast
import importlib.util
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.processes import run_to_end

ROOT = Path(__file__).parent.parent
_spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
architecture = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(architecture)

MODULES = architecture.find_modules()
IMPORTS = {module: set(architecture.read_imports(path, MODULES)) for module, path in MODULES.items()}
LAYERS_HERE = [name for name in architecture.LAYERS if f"bsssl.{name}" in MODULES]
HEAVY = ("torch", "torchvision", "timm", "pyarrow", "scipy", "sklearn", "matplotlib", "PIL", "av", "pytorchvideo")


def run_python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return run_to_end(command, cwd=ROOT)


def test_every_module_has_its_layer():
    assert {architecture.layer_of(module) for module in MODULES} - {""} <= set(architecture.LAYERS)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"bsssl"}))
def test_imports_go_down(module):
    wrong = [name for name in IMPORTS[module] - {"bsssl"} if not architecture.points_down(module, name)]
    assert wrong == [], f"{module} must not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("layer", LAYERS_HERE)
def test_no_cycle_inside_a_layer(layer):
    inside = {module for module in MODULES if architecture.layer_of(module) == layer}
    list(TopologicalSorter({module: IMPORTS[module] & inside - {module} for module in inside}).static_order())


def test_the_package_loads_its_public_names_late_and_gives_its_modules_the_version_alone():
    top = ast.parse(MODULES["bsssl"].read_text()).body
    assert not any("bsssl" in ast.unparse(node) for node in top if isinstance(node, ast.Import | ast.ImportFrom))
    assert IMPORTS["bsssl"] <= {"bsssl.api"}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "bsssl":
                names = {alias.name for alias in node.names if f"bsssl.{alias.name}" not in MODULES}
                assert names <= {"__version__"}, module


def test_the_checks_see_what_is_wrong(tmp_path):
    assert not architecture.points_down("bsssl.data.records", "bsssl.engine.train")
    assert not architecture.points_down("bsssl.runtime.console", "bsssl.storage")
    assert architecture.points_down("bsssl.data", "bsssl.selection.picks")
    assert architecture.points_down("bsssl.cli", "bsssl.registry")
    written = tmp_path / "module.py"
    written.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bsssl import data\n"
        "def late():\n    import bsssl.engine\n    from bsssl.storage import write_csv\n"
    )
    assert set(architecture.read_imports(written, MODULES)) == {"bsssl.data", "bsssl.engine", "bsssl.storage"}


def test_no_arrow_of_the_picture_points_back():
    direct, back = architecture.arrows(architecture.room_imports())
    assert back == [] and ("reports", "recipes") in direct


def test_the_picture_draws_what_points_back():
    direct, back = architecture.arrows({"data": ["models", "storage"], "models": ["storage"], "storage": ["data"]})
    assert direct == [("data", "models"), ("models", "storage")] and back == [("storage", "data")]


def test_the_picture_is_that_of_the_imports():
    """`make docs` draws it again."""
    assert architecture.PICTURE.read_text() == architecture.draw(architecture.room_imports())


def test_selection_knows_no_torch():
    for path in (ROOT / "bsssl" / "selection").rglob("*.py"):
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        }
        assert not imported & {"torch", "torchvision", "timm"}, path


def test_tools_import_the_command_line_alone():
    for path in sorted((ROOT / "tools").glob("*.py")):
        assert set(architecture.read_imports(path, MODULES)) == {"bsssl.cli"}, path


def test_no_tool_hides_a_module_of_the_standard_library():
    assert [path.name for path in (ROOT / "tools").glob("*.py") if path.stem in sys.stdlib_module_names] == []


STATE = """
import importlib, json, logging, os, pickle, random, signal, sys, threading, warnings
import numpy, torch, torchvision, timm, submitit, tqdm  # what other packages change when they are imported is theirs

def state():
    loggers = [logging.getLogger(), *map(logging.getLogger, sorted(logging.root.manager.loggerDict))]
    return {
        "handlers": sum(len(logger.handlers) for logger in loggers),
        "levels": [logging.getLogger(name).level for name in ("", "bsssl")],
        "torch threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "torch defaults": [str(torch.get_default_dtype()), torch.backends.cudnn.benchmark,
                           torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()],
        "random": [hash(random.getstate()), hash(pickle.dumps(numpy.random.get_state())),
                   hash(torch.get_rng_state().numpy().tobytes())],
        "threads": threading.active_count(),
        "environment": dict(os.environ),
        "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
    }

before = state()
for name in sys.argv[1:]:
    importlib.import_module(name)
after = state()
print(json.dumps([[key, before[key], after[key]] for key in before if before[key] != after[key]]))
"""


def test_importing_changes_no_global_state():
    done = run_python(STATE, *MODULES)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


TORCH = """
import importlib, sys
for name in sys.argv[1:]: importlib.import_module(name)
print({"torch"} & {*sys.modules})
"""


@pytest.mark.parametrize("layer", ["config", "launch", "pipeline", "reports"])
def test_rooms_that_compute_nothing_import_no_torch(layer):
    """Importing every module of the room: what computes is imported when it is first needed."""
    modules = [module for module in MODULES if architecture.layer_of(module) == layer]
    done = run_python(TORCH, *modules)
    assert done.stdout == "set()\n", done.stderr


LATE = f"""
import sys
from bsssl.cli import main
try: main(sys.argv[1:])
finally: print("heavy:", sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["options"],
        ["options", "teacher"],
        ["options", "--schema"],
        ["init", "--list"],
        ["init", "nowhere"],
        ["run", "image/nowhere"],
        ["run", "--config", "nowhere.yaml"],
        ["run", "--config", "projects/image/quickstart.yaml", "select.top_k=none"],
        ["run", "--help"],
        ["transfer", "--help"],
        ["status", "nowhere"],
        ["watch", "nowhere"],
        ["predict", "--help"],
    ],
)
def test_help_and_errors_come_before_heavy_imports(arguments):
    done = run_python(LATE, *arguments)
    assert "heavy: []" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [["nowhere", "README.md"], ["docs", "nowhere.jpg"], ["docs", "README.md", "--to", "table.txt"]]
)
def test_what_cannot_be_predicted_is_told_before_torch_is_imported(arguments):
    done = run_python(LATE, "predict", *arguments)
    assert "heavy: ['pyarrow']" in done.stderr and done.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("command", ["status", "watch"])
def test_the_status_of_a_run_needs_no_heavy_imports(tmp_path, command):
    folder = tmp_path / "seed-0" / "teacher"
    folder.mkdir(parents=True)
    record = {"stage": "teacher", "settings": {}, "digests": {}, "read": {}, "result": {}, "seconds": 3}
    (folder / "done.json").write_text(json.dumps(record))
    done = run_python(LATE, command, tmp_path)
    assert "heavy: []" in done.stderr
    assert {"status": "took 3 s", "watch": "done, 3 s"}[command] in done.stdout
