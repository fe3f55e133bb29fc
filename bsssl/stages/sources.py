"""The sources that a config names."""

from collections.abc import Sequence
from inspect import Parameter, signature
from typing import Any

from bsssl import data, storage
from bsssl.config import Source
from bsssl.errors import UserError, choices
from bsssl.registry import DATASETS

OVERLAP_REMEDY = "take them out, set data.pool_overlap=exclude to have them left out, or set it to allow to keep them"


def open_source(source: Source, *, videos: bool) -> data.Source:
    """Return the source that the config names; UserError for an unknown dataset or option."""
    factory = DATASETS.get(source.dataset)
    parameters = signature(factory).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.name != "path"]
    takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)
    for name in source.options:
        if name not in known and not takes_any:
            raise UserError(f"dataset '{source.dataset}' has no option '{name}': {choices(name, known)}")
    kind = {"extensions": "videos"} if videos and "extensions" in known else {}
    try:
        opened: data.Source = factory(path=source.path, **{**kind, **source.options})
    except TypeError as error:
        raise UserError(f"dataset '{source.dataset}': {error}; check its options") from None
    return opened


def files_state(sources: Sequence[Source]) -> list[Any]:
    """Return something cheap that changes when the files of the sources do, but for those that make their files."""
    return [storage.state(source.path) for source in sources if not DATASETS.get(source.dataset).makes_files]
