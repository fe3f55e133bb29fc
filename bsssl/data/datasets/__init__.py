"""Where records come from: folders, manifests, tars, and the layouts of known data sets."""

from bsssl.data.datasets import cub, generated, sources, video_sets  # noqa: F401 - registers the datasets
