"""The card of a trained network: ``README.md`` in its folder, as people read it and as the Hugging Face Hub does."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from bsssl import storage
from bsssl.config import Model, Source
from bsssl.errors import UserError, shortened
from bsssl.models import CARD, CONFIG, LOCAL, is_named, named_weights
from bsssl.pipeline.stage import Context, Stage
from bsssl.runtime.console import printable

_MOST_CLASSES = 30
_LONGEST_NAME = 200
_FIGURES = {"items": "items", "top1": "top-1 %", "top5": "top-5 %", "ece": "ECE %"}
_USE = """## Use

```python
import bsssl

model = bsssl.load("path/to/this/folder")
print(model.predict(["{example}"]))
```
"""
_BY_OTHERS = """
It loads without this project too: `timm.create_model("local-dir:path/to/this/folder", pretrained=True)`, or
`transformers.pipeline("image-classification", model="path/to/this/folder")`.
"""


def write_card(run: Context, name: str) -> None:
    """Write the card of the network that stage ``name`` of ``run`` leaves, with the tests of it that are done.

    Nothing happens where the folder has no description of the network, as those of earlier versions.
    """
    folder = run.folder(name)
    if (folder / CONFIG).exists():
        described = storage.read_json(str(folder / CONFIG))
        storage.write_text(str(folder / CARD), _card(run, run.stages[name], described))


def _card(run: Context, stage: Stage[Any], described: Mapping[str, Any]) -> str:
    origins = [*_origins(run, stage), stage]
    licences = _licences(origins)
    videos = "clips" in described
    of_timm = described["library_name"] == "timm" and not videos  # whose networks see pictures
    facts = {
        "license": licences[0].lower() if len(licences) == 1 else "other" if licences else "unknown",
        "library_name": "timm" if of_timm else "bsssl",
        "pipeline_tag": "video-classification" if videos else "image-classification",
        "tags": ["bsssl", *(["semi-supervised-learning"] if "select" in {one.kind for one in origins} else [])],
    }
    title = f"{described['architecture']}, {described['num_classes']} classes"
    parts = [
        f"---\n{yaml.safe_dump(facts, sort_keys=False)}---\n\n# {plain(title)}\n",
        _USE.format(example="clip.mp4" if videos else "photo.jpg") + (_BY_OTHERS if of_timm else ""),
        _classes(described),
        _tests(run, stage.name),
        f"## Where it comes from\n\nThe stage `{stage.name}` of a run with seed {run.seed}:\n\n" + _steps(run, origins),
        "## Licence\n\n" + _licence(licences),
    ]
    return "\n".join(part for part in parts if part)


def named_sources(sources: Sequence[Source]) -> str:
    """Return what sources are called, in Markdown: the dataset and the last part of the path of each."""
    return ", ".join(dict.fromkeys(plain(f"{source.dataset} {last_part(source.path)}") for source in sources))


def named_network(model: Model, init_from: str | None = None) -> str:
    """Return what a network and the weights that it starts from are called, in Markdown."""
    origin = init_from or model.weights
    if origin is None:
        return plain(model.name)
    hosted = init_from is None and is_named(origin) and LOCAL not in origin
    return plain(f"{model.name} from {origin if hosted else last_part(origin)}")


def last_part(path: str) -> str:
    """Return the last part of a path or URL, which tells nothing of the machine and no secret."""
    return storage.inner_path(path).rstrip("/").rpartition("/")[2].removeprefix(LOCAL)


def plain(text: str) -> str:
    """Return ``text`` in one line of Markdown, where it means nothing but itself."""
    return re.sub(r"((?<!\w)_|_(?!\w)|[\\`*\[\]<>#|~$&])", r"\\\1", printable(" ".join(text.split())))


def _origins(run: Context, stage: Stage[Any]) -> Iterator[Stage[Any]]:
    """Return the stages that ``stage`` needs, and those that these need, in the order of the run."""
    needed = {stage.name}
    for one in reversed(run.stages.values()):
        if one.name in needed:
            needed |= {*one.needs.values()}
    return (one for name, one in run.stages.items() if name in needed - {stage.name})


def _steps(run: Context, origins: list[Stage[Any]]) -> str:
    *earlier, own = origins
    there = [one for one in earlier if run.record(one.name) is not None]  # what nobody needs any more may be gone
    told = ((one.name, one.summary(run)) for one in (*there, own))
    return "".join(f"- {name}: {summary}\n" for name, summary in told if summary)


def _classes(described: Mapping[str, Any]) -> str:
    names = [plain(shortened(name, most=_LONGEST_NAME)) for name in described["label_names"][:_MOST_CLASSES]]
    others = len(described["label_names"]) - len(names)
    more = f" and {others} more, all in `{CONFIG}`" if others else ""
    return f"## Classes\n\n{', '.join(names)}{more}.\n"


def _tests(run: Context, name: str) -> str:
    """Return the figures of the tests of the finished stage ``name`` that are done; nothing where there are none."""
    if run.record(name) is None:
        return ""
    tests = (one for one in run.stages.values() if one.follows and name in one.needs.values())
    results = {one.summary(run): run.result(one.name) for one in tests if run.pending(one.name) is None}
    if not results:
        return ""
    shown = [name for name in _FIGURES if all(name in result for result in results.values())]
    rows = [[test, *(_figure(result[name]) for name in shown)] for test, result in results.items()]
    lines = [["test set", *(_FIGURES[name] for name in shown)], ["---", *["---:"] * len(shown)], *rows]
    return f"## Results, seed {run.seed}\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _figure(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else f"{value:,}"


def _licences(origins: list[Stage[Any]]) -> list[str]:
    """Return the licences of the weights with a name that the networks of these stages start from, each once."""
    models = (getattr(one.settings, "model", None) for one in origins)
    weights = dict.fromkeys(model.weights for model in models if isinstance(model, Model) and model.weights)
    return list(dict.fromkeys(filter(None, map(_licence_of, weights))))


def _licence_of(weights: str) -> str | None:
    with contextlib.suppress(UserError):  # a folder or a host that is out of reach by now
        return named_weights(weights).licence if is_named(weights) else None
    return None


def _licence(licences: list[str]) -> str:
    if not licences:
        return "Nothing is known of a licence of weights that it came from; that of the data is yours to tell.\n"
    return f"Of the weights that it came from: {', '.join(map(plain, licences))}. That of the data is yours to tell.\n"
