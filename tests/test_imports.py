"""Imports point one way, and there is no cycle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    {"registry", "retries", "fileio", "log", "distributed"},
    {"config", "checkpoint"},
    {"data", "models", "optim", "selection"},
    {"engine"},
    {
        *("recipe", "stages", "plan", "report", "transfer", "origins", "launch", "status", "sweep"),
        *("paper", "page", "reproduce"),
    },
    {"cli"},
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}
ALLOWED_AMONG_THE_MIDDLE = {("data", "selection")}  # to read a selection file
HEAVY = ("torch", "torchvision", "timm", "pyarrow", "sklearn", "matplotlib", "PIL", "av", "pytorchvideo")


def _modules(folder: Path) -> dict[str, Path]:
    """Every module below ``folder`` by its dotted name."""
    paths = sorted(folder.rglob("*.py"))
    names = [
        ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__") for path in paths
    ]
    return dict(zip(names, paths, strict=True))


MODULES = _modules(ROOT / "bsssl")


def _imports(path: Path, *, lazy: bool) -> Iterator[str]:
    """The modules of the project that a file imports; ``lazy``: those within functions too."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if lazy else iter(_outside_functions(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "bsssl")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module and node.module.split(".")[0] == "bsssl":
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (name if name in MODULES else node.module for name in inner)


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _outside_functions(child)


def _part(module: str) -> str:
    names = module.split(".")
    return names[1] if len(names) > 1 else ""


def _is_allowed(importer: str, imported: str) -> bool:
    if importer == imported or not imported:
        return True
    if LEVEL[importer] == LEVEL[imported] == 2:
        return (importer, imported) in ALLOWED_AMONG_THE_MIDDLE
    return LEVEL[imported] <= LEVEL[importer]


def test_every_part_has_its_place():
    assert {_part(module) for module in MODULES} - {""} <= set(LEVEL)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"bsssl"}))
def test_imports_point_one_way(module):
    wrong = [name for name in _imports(MODULES[module], lazy=True) if not _is_allowed(_part(module), _part(name))]
    assert wrong == [], f"{module} must not import {', '.join(wrong)}"


def test_the_package_itself_imports_nothing_of_ours():
    assert list(_imports(MODULES["bsssl"], lazy=True)) == []


def test_no_cycle_among_modules():
    graph = {module: set(_imports(path, lazy=False)) - {module, "bsssl"} for module, path in MODULES.items()}
    # A name imported from a package of ours is in one of its modules; the package imports those, not the reverse.
    for module in graph:
        graph[module] = {name for name in graph[module] if not module.startswith(f"{name}.")}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_check_sees_wrong_directions():
    assert not _is_allowed("data", "engine")
    assert not _is_allowed("data", "models")
    assert not _is_allowed("selection", "data")
    assert not _is_allowed("fileio", "config")
    assert _is_allowed("data", "selection")
    assert _is_allowed("cli", "registry")


def test_selection_knows_no_torch():
    for path in (ROOT / "bsssl" / "selection").glob("*.py"):
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
        }
        assert not imported & {"torch", "torchvision", "timm"}, path


def test_tools_import_the_command_line_alone():
    for path in sorted((ROOT / "tools").glob("*.py")):
        assert set(_imports(path, lazy=True)) == {"bsssl.cli"}, path


def test_no_tool_hides_a_module_of_the_standard_library():
    assert [path.name for path in (ROOT / "tools").glob("*.py") if path.stem in sys.stdlib_module_names] == []


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["options"], ["run", "--config", "nowhere.yaml"], ["run", "--help"], ["transfer", "--help"]],
)
def test_help_and_config_errors_come_before_heavy_imports(arguments):
    program = (
        "import sys\n"
        "from bsssl.cli import main\n"
        "try: main(sys.argv[1:])\n"
        f"finally: print('heavy:', sorted(set({HEAVY}) & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert "heavy: []" in done.stderr
    assert "Traceback" not in done.stderr
