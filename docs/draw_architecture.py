"""Read which room of the package imports which, for the tests of the layers and for the picture of them."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (
    *("cli", "api", "launch", "reports", "recipes", "stages", "pipeline", "engine", "data", "models"),
    *("selection", "optim", "config", "storage", "runtime", "registry", "errors"),
)
"""The folders and modules of the package, top first: a layer imports those below it."""


def find_modules(root: Path = ROOT) -> dict[str, Path]:
    """Return the file of every module of the package by the module's dotted name."""
    paths = sorted((root / "bsssl").rglob("*.py"))
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def read_imports(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a file imports, in functions and for type checkers alone included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "bsssl")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module is not None and node.module.split(".")[0] == "bsssl":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                yield from (name if name in modules else node.module for name in names)


def layer_of(module: str) -> str:
    """Return the folder or module of the package that ``module`` belongs to; nothing for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def points_down(importer: str, imported: str) -> bool:
    """Return whether a module may import another: of its own layer or of one below."""
    return LAYERS.index(layer_of(importer)) <= LAYERS.index(layer_of(imported))
