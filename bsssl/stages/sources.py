"""The sources that a config names."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bsssl import data, storage
from bsssl.config import Source
from bsssl.errors import Problems, UserError
from bsssl.registry import DATASETS

OVERLAP_REMEDY = "take them out, set data.pool_overlap=exclude to have them left out, or set it to allow to keep them"


def open_source(source: Source, *, videos: bool) -> data.Source:
    """Return the source that the config names; UserError for an unknown dataset or option."""
    return data.open_source(source.dataset, path=source.path, options=source.options, videos=videos)


def require_sources(sources: Mapping[str, Iterable[Source]]) -> None:
    """Refuse sources at whose paths there is nothing, all at once.

    Args:
        sources: The sources by the key that names them. What a URL or a pattern leads to, and what a dataset makes
            itself, is for the dataset to find out.

    Raises:
        UserError: Some are not there: a line for each.
    """
    problems = []
    for key, group in sources.items():
        for source in group:
            try:
                if not makes_files(source):
                    storage.require(source.path)
            except UserError as error:
                problems.append(f"{key}: {error}")
    if problems:
        raise Problems("\n".join(problems))


def makes_files(source: Source) -> bool:
    """Return whether the files at the path of a source are of its own making."""
    return getattr(DATASETS.get(source.dataset), "makes_files", False)


def files_state(sources: Sequence[Source]) -> list[Any]:
    """Return something cheap that changes when the files of the sources do, but for those that make their files."""
    wanted = [source for source in sources if not makes_files(source)]
    return [storage.state(one.path, levels=getattr(DATASETS.get(one.dataset), "levels", 1)) for one in wanted]
