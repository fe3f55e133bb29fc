"""What a sample is, where samples come from, and how they are read and transformed."""

from bsssl.data.datasets.cub import Cub
from bsssl.data.datasets.generated import Digits, MovingDigits
from bsssl.data.datasets.opening import open_source
from bsssl.data.datasets.paths import dataset_at, items_at
from bsssl.data.datasets.sources import Manifest, Source
from bsssl.data.datasets.video_sets import Hmdb51, Kinetics, Ucf101
from bsssl.data.decoding.headers import Header, picture_header, video_header
from bsssl.data.decoding.pictures import DecodeError
from bsssl.data.decoding.readers import check_backend
from bsssl.data.endings import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from bsssl.data.hashtags.tags import (
    TaggedSamples,
    TagRules,
    copy_batches,
    read_copy,
    read_pairs,
    read_tags,
    resampling,
    tag_rules,
    tagged_training_set,
    tags_from_file,
    write_tagged,
)
from bsssl.data.loading.dataset import (
    HASH_BYTES,
    Failure,
    ItemDataset,
    collate,
    content_hash,
)
from bsssl.data.loading.loader import Batches, EvalBatches, TrainBatches, make_loader
from bsssl.data.loading.targets import (
    SparseTargets,
    StoredViews,
    Targets,
    class_counts,
    concat_targets,
    save_views,
)
from bsssl.data.pool.contents import HASH as CONTENTS_HASH
from bsssl.data.pool.contents import SCHEMA as CONTENTS_SCHEMA
from bsssl.data.pool.contents import SUFFIX as CONTENTS_SUFFIX
from bsssl.data.pool.contents import Part, failures, has_contents, numbered_hashes, read_contents, write_contents
from bsssl.data.pool.copies import Copies, find_copies, write_copies
from bsssl.data.pool.listing import Pool, Shard, read_pool, records_digest, shard_file, shard_records, write_pool
from bsssl.data.pool.overlap import Places, check_overlap, content_hashes, find_overlap
from bsssl.data.records import Record, Records, rechunked
from bsssl.data.selected.tars import TarPlan, is_written, plan_tars, tar_path, write_places, write_tar
from bsssl.data.selected.training import selected_training_set
from bsssl.data.splits import held_out, hold_out, split_calibration, split_holdout, split_labels
from bsssl.data.views.checks import make_check
from bsssl.data.views.extents import Extent, extent_of
from bsssl.data.views.looks import LOOK_BYTES, NO_LOOK, import_imagehash, mirrored
from bsssl.data.views.thumbnails import Thumbnailer, Unreadable
from bsssl.data.views.transforms import Normalize, Transform, test_transform, train_transform
from bsssl.data.views.views import ClipViews, ImageViews, Views, make_views
from bsssl.storage.tables import writing_table

__all__ = [
    "CONTENTS_HASH",
    "CONTENTS_SCHEMA",
    "CONTENTS_SUFFIX",
    "HASH_BYTES",
    "IMAGE_EXTENSIONS",
    "LOOK_BYTES",
    "NO_LOOK",
    "VIDEO_EXTENSIONS",
    "Batches",
    "ClipViews",
    "Copies",
    "Cub",
    "DecodeError",
    "Digits",
    "EvalBatches",
    "Extent",
    "Failure",
    "Header",
    "Hmdb51",
    "ImageViews",
    "ItemDataset",
    "Kinetics",
    "Manifest",
    "MovingDigits",
    "Normalize",
    "Part",
    "Places",
    "Pool",
    "Record",
    "Records",
    "Shard",
    "Source",
    "SparseTargets",
    "StoredViews",
    "TagRules",
    "TaggedSamples",
    "TarPlan",
    "Targets",
    "Thumbnailer",
    "TrainBatches",
    "Transform",
    "Ucf101",
    "Unreadable",
    "Views",
    "check_backend",
    "check_overlap",
    "class_counts",
    "collate",
    "concat_targets",
    "content_hash",
    "content_hashes",
    "copy_batches",
    "dataset_at",
    "extent_of",
    "failures",
    "find_copies",
    "find_overlap",
    "has_contents",
    "held_out",
    "hold_out",
    "import_imagehash",
    "is_written",
    "items_at",
    "make_check",
    "make_loader",
    "make_views",
    "mirrored",
    "numbered_hashes",
    "open_source",
    "picture_header",
    "plan_tars",
    "read_contents",
    "read_copy",
    "read_pairs",
    "read_pool",
    "read_tags",
    "rechunked",
    "records_digest",
    "resampling",
    "save_views",
    "selected_training_set",
    "shard_file",
    "shard_records",
    "split_calibration",
    "split_holdout",
    "split_labels",
    "tag_rules",
    "tagged_training_set",
    "tags_from_file",
    "tar_path",
    "test_transform",
    "train_transform",
    "video_header",
    "write_contents",
    "write_copies",
    "write_places",
    "write_pool",
    "write_tagged",
    "write_tar",
    "writing_table",
]
