"""Sources by name: what a config's dataset, path and options mean."""

from collections.abc import Mapping
from typing import Any

from bsssl.data.datasets.sources import Source
from bsssl.registry import DATASETS


def open_source(dataset: str, *, path: str, options: Mapping[str, Any], videos: bool) -> Source:
    """Return a source of the registered ``dataset``.

    Args:
        dataset: A name of ``DATASETS``.
        path: Where its items are.
        options: Further arguments of the dataset.
        videos: Whether the items are videos: what is found in folders and tars then ends as those do.

    Raises:
        UserError: The dataset or an option is unknown, or a value is missing or of the wrong type.
    """
    DATASETS.check(dataset, options)
    takes = {option.name for option in DATASETS.options(dataset)}
    kind = {"extensions": "videos"} if videos and "extensions" in takes else {}
    source: Source = DATASETS.build(dataset, {**kind, **options}, path=path)
    return source
