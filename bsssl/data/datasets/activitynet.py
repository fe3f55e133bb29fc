"""Segments of videos as the JSON of ActivityNet lists them, and others in its layout, such as FineAction's."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from bsssl import storage
from bsssl.data.datasets.sources import Source
from bsssl.data.datasets.video_sets import tell_what_is_missing
from bsssl.data.records import Records
from bsssl.data.segments import with_segment
from bsssl.errors import UserError, choices, shortened
from bsssl.registry import DATASETS
from bsssl.runtime.console import logger

_LIKE = '{"database": {"ID": {"subset": "training", "annotations": [{"segment": [1.5, 8], "label": "Surfing"}]}}}'


@DATASETS.register("activitynet")
class ActivityNet(Source):
    """Segments of ActivityNet, of FineAction, of THUMOS14, and of whatever has a JSON in that layout.

    That is ``{"database": {ID: {"subset": ..., "annotations": [{"segment": [start, end], "label": ...}]}}}``, in
    seconds. Each annotation is an item. A video that has none, as in the test sets, is an item itself, without a label.

    Args:
        path: the JSON.
        subset: the videos of which part: ``training``, ``validation`` or what else the JSON has. May be missing where
            there is but one.
        root: the folder of the videos, by default the JSON's.
        file: where in ``root`` the video of an ID is: the text in which ``{id}`` stands for it.
        missing: ``keep`` has the items whose file is not in ``root`` reported as files that cannot be read; ``skip``
            leaves them out, counted, as may do for training but not for a test set.

    The key is the file's path in ``root`` with the segment. Segments that do not end after they begin are left out,
    counted; of one that begins in the video and ends after it, there is what the video has.
    """

    def __init__(
        self,
        *,
        path: str,
        subset: str | None = None,
        root: str | None = None,
        file: str = "{id}.mp4",
        missing: str = "keep",
    ) -> None:
        if missing not in ("skip", "keep"):
            raise UserError(f"activitynet: missing is '{missing}'; valid: keep, skip")
        if "{id}" not in file:
            raise UserError(f"activitynet: file is '{file}', without {{id}}; write for example 'v_{{id}}.mp4'")
        self.path = storage.absolute(path)
        self._root = os.path.dirname(self.path) if root is None else storage.absolute(root)
        self._subset, self._file, self._skip = subset, file, missing == "skip"

    def batches(self) -> Iterator[Records]:
        """See ``Source``, all at once; UserError for a JSON that is missing or otherwise, and if no video is there."""
        videos = self._videos()
        names = {video: self._file.replace("{id}", video) for video in videos}
        present = {*storage.walk(self._root)} if self._skip else {*names.values()}
        files = {video: name for video, name in names.items() if name in present}
        tell_what_is_missing(
            self.path, root=self._root, first=next(iter(names.values())), found=len(files), total=len(names)
        )
        keys, labels, reversed_ones = list[str](), list[str | None](), list[str]()
        for video, name in files.items():
            annotations = videos[video].get("annotations") or []
            if not annotations:
                keys.append(name)
                labels.append(None)
            for annotation in annotations:
                start, end, label = self._segment(video, annotation)
                if start < end:
                    keys.append(self._key(name, start, end))
                    labels.append(label)
                else:
                    reversed_ones.append(f"{video} from {start:g} to {end:g} s")
        if reversed_ones:
            logger.warning(
                "%s: %d segments that do not end after they begin are left out (first: %s)",
                *(self.path, len(reversed_ones), reversed_ones[0]),
            )
        if not keys:
            raise UserError(f"{self.path} has no segments that end after they begin; correct it")
        yield Records.from_columns(key=keys, path=[storage.join(self._root, key) for key in keys], label=labels)

    def _videos(self) -> dict[str, Mapping[str, Any]]:
        """Return what the JSON says of each video of the subset, by ID."""
        with storage.open_read(self.path) as file:
            try:
                videos = storage.parse_json(file.read())["database"]
                subsets = {video: facts.get("subset") for video, facts in videos.items()}
            except (ValueError, TypeError, LookupError, AttributeError):
                raise UserError(f"{self.path} is not like {_LIKE}; check the path") from None
        counts = Counter(map(str, subsets.values()))
        if self._subset is None and len(counts) > 1:
            raise UserError(f"{self.path} has several subsets ({', '.join(counts)}); choose one by options.subset")
        if self._subset is not None and self._subset not in counts:
            raise UserError(f"{self.path} has no subset '{self._subset}': {choices(self._subset, counts)}")
        chosen = {video: facts for video, facts in videos.items() if self._subset in (None, str(subsets[video]))}
        if not chosen:
            raise UserError(f"{self.path} has no videos; check the path")
        return chosen

    def _segment(self, video: str, annotation: Any) -> tuple[float, float, str]:
        """Return start, end and label of an annotation."""
        try:
            start, end = map(float, annotation["segment"])
            label = annotation["label"]
        except (ValueError, TypeError, LookupError):
            label = None
        if not isinstance(label, str):
            text = shortened(str(annotation))
            raise UserError(f"{self.path}: {video} has an annotation that is not like {_LIKE}: {text}; correct it")
        return start, end, label

    def _key(self, name: str, start: float, end: float) -> str:
        try:
            return with_segment(name, start, end)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from None
