"""The projects, which come with the package: configs, and the files that they name."""

import re
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# An installed package has them inside it; in a clone they lie beside it.
PROJECTS = next((one / "projects" for one in (_PACKAGE, _PACKAGE.parent) if (one / "projects").is_dir()), _PACKAGE)
"""the folder of the projects"""


def located(path: str) -> str:
    """Return ``path`` if there is such a file, else the file of that name in the projects, if there is one.

    A name there may begin with ``projects/`` and leave out ``.yaml``: projects/image/quickstart.yaml, image/quickstart.
    """
    name = path.removeprefix("projects/")
    candidates = (Path(path), PROJECTS / name, PROJECTS / f"{name}.yaml")
    return next((str(file) for file in candidates if file.is_file()), path)


def bundled_configs() -> dict[str, str]:
    """Return what each config of the projects is for, in a sentence, by its name, such as image/quickstart."""
    files = sorted(PROJECTS.glob("*/*.yaml"))
    return {file.relative_to(PROJECTS).with_suffix("").as_posix(): _purpose(file) for file in files}


def _purpose(file: Path) -> str:
    """Return the first sentence of the comment that a config opens with."""
    opening = re.match(r"(#.*\n)*", file.read_text(encoding="utf-8"))
    text = " ".join(re.sub(r"^#", "", opening[0] if opening else "", flags=re.MULTILINE).split())
    return re.split(r"(?<=\.) ", text, maxsplit=1)[0]
