"""Write docs/settings.md: every key of the configs, from their schema. `make docs` does it.

python -m docs.write_settings
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from bsssl.config import TRAIN_STAGES, Reproduction, Transfer, options

PAGE = Path(__file__).parent / "settings.md"
TRAINING = "teacher"
"""the training that is shown with all its keys"""
OPENING = f"""# Settings

Every key of a config: a recipe first, then what only a transfer or a reproduction has. `make docs` writes this page
from the schema in `bsssl/config`, and `bsssl options` prints the same. What names a part, such as a model, a loss or a
dataset, can name one of [your own](extending.md); `bsssl options models` lists the names of one sort, `bsssl options
datasets folder` the options of one part.

A config is a YAML file. `_BASE_: other.yaml` builds on another file, and `key.sub=value` after a command comes before
both: `select.top_k=500`, `data.pool='[{{dataset: folder, path: photos}}]'`, `data.test=null`. Unknown keys, wrong types
and what does not go together are refused before anything runs, all at once. The resolved config lies in the run's
folder. A length is a number and a unit: `20 epochs`, `30_000 samples`, `500 steps`.

The trainings have keys in common. Of `{TRAINING}` and `weak` all are shown; of
{", ".join(f"`{name}`" for name in TRAIN_STAGES if name not in (TRAINING, "weak"))}, what `{TRAINING}` has not, or has
with another default.
"""

Line = Row = tuple[str, str, str, str]
"""of a key: its path, or what of it is the key's own; type, default and meaning"""


def make_page() -> str:
    """Return the text of the page."""
    recipe, shown = [*options()], dict[tuple[Row, ...], str]()
    keys = {path for path, *_ in recipe}
    transfer = [line for line in options(Transfer) if line[0] not in keys]
    return "".join(
        [
            OPENING,
            "\n# A recipe\n",
            *_sections(_without_copies(recipe), shown),
            "\n# A transfer\n\nOf `bsssl transfer`, which has what a recipe has besides.\n",
            *_sections(transfer, shown),
            "\n# A reproduction\n\nOf `bsssl reproduce`; the recipe that it varies has keys as above.\n",
            *_sections(options(Reproduction), shown),
        ]
    )


def _without_copies(lines: Iterable[Line]) -> Iterator[Line]:
    """Yield the keys, of the trainings after the first those alone that are not as there."""
    shown: set[Row] = set()
    for path, kind, default, meaning in lines:
        section, _, key = path.partition(".")
        row = (key, kind, default, meaning)
        if section == TRAINING:
            shown.add(row)
        if section not in TRAIN_STAGES or section in ("weak", TRAINING) or row not in shown:
            yield path, kind, default, meaning


def _sections(lines: Iterable[Line], shown: dict[tuple[Row, ...], str]) -> Iterator[str]:
    """Yield each section: a table or, where it is as one that has been ``shown`` before, its name."""
    sections: dict[str, list[Row]] = {}
    for path, kind, default, meaning in lines:
        section, _, key = path.rpartition(".")
        sections.setdefault(section, []).append((key, kind, default, meaning))
    for section, rows in sections.items():
        yield f"\n## `{section}`\n\n" if section else "\n## At the top\n\n"
        if (same := shown.setdefault(tuple(rows), section)) != section:
            yield f"As `{same}`.\n"
            continue
        yield "| key | type | default | |\n|---|---|---|---|\n"
        for key, kind, default, meaning in rows:
            yield f"| {_code(key)} | {_code(kind)} | {_code(default)} | {_text(meaning).replace('<', '&lt;')} |\n"


def _code(text: str) -> str:
    return text if text.startswith("(") else f"`{_text(text)}`" if text else "`''`"


def _text(text: str) -> str:
    return text.replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
    print(f"{PAGE} has been written")
