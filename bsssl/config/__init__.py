"""The whole configuration: every key with its type, its bounds, its default and what it means.

A config is a YAML file, or the name of one that comes with the package, on top of the files it names with ``_BASE_``;
``key.sub=value`` overrides are on top of that. Everything that is wrong with it is reported at once, each line with the
key's path and what is valid there.
``bsssl options`` prints this page as a table.
"""

from bsssl.config.bundled import bundled_configs, located
from bsssl.config.data import (
    Clips,
    Data,
    LabeledData,
    Model,
    NetworkTransforms,
    Purpose,
    Source,
    Tests,
    Transforms,
    tests_of,
)
from bsssl.config.experiment import Experiment, ExtraStage, Launcher, System
from bsssl.config.names import by_role, numbered
from bsssl.config.reading import load_config, options, validated
from bsssl.config.recipe import Config, Models, OpenSet, Score, Select
from bsssl.config.reproduction import Reproduction
from bsssl.config.section import Length, Section
from bsssl.config.training import (
    TRAIN_STAGES,
    FcOnly,
    Finetune,
    Pretrain,
    Supervised,
    Tags,
    Teacher,
    Train,
    Weak,
    WeakTraining,
    ZeroShot,
    check_warmup,
)
from bsssl.config.transfer import Checkpoint, Transfer

__all__ = [
    "TRAIN_STAGES",
    "Checkpoint",
    "Clips",
    "Config",
    "Data",
    "Experiment",
    "ExtraStage",
    "FcOnly",
    "Finetune",
    "LabeledData",
    "Launcher",
    "Length",
    "Model",
    "Models",
    "NetworkTransforms",
    "OpenSet",
    "Pretrain",
    "Purpose",
    "Reproduction",
    "Score",
    "Section",
    "Select",
    "Source",
    "Supervised",
    "System",
    "Tags",
    "Teacher",
    "Tests",
    "Train",
    "Transfer",
    "Transforms",
    "Weak",
    "WeakTraining",
    "ZeroShot",
    "bundled_configs",
    "by_role",
    "check_warmup",
    "load_config",
    "located",
    "numbered",
    "options",
    "tests_of",
    "validated",
]
