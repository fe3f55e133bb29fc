"""Writing a config that builds on one of the package: what it sets, and why."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from bsssl import storage
from bsssl.config import Source
from bsssl.config.reading import read_yaml
from bsssl.config.schema import json_schema
from bsssl.recipes.own.choosing import HOLDOUT, Choices, Device
from bsssl.recipes.own.looking import Findings

SCHEMA = "bsssl.schema.json"
"""the JSON schema beside the config, for editors"""


def write_config(path: str, findings: Findings, choices: Choices, device: Device) -> str:
    """Write the config, and the JSON schema beside it; return the folder of its run.

    Args:
        path: The file of the config.
        findings: What was seen of the data.
        choices: The settings for it.
        device: Where it will run.
    """
    output_dir = f"outputs/{Path(path).stem}"
    classes = f"{len(findings.train.counts):,} classes"
    lines = [
        f"# yaml-language-server: $schema={SCHEMA}",
        f"# A small network for {findings.kind} of {classes}, on {device}; from bsssl init.",
        f"#   bsssl run {shlex.quote(path)}    (--plan: what would run; given again, it goes on where it stopped)",
        f"#   bsssl predict {shlex.quote(output_dir)} {'VIDEO' if findings.videos else 'PICTURE'}",
        "# Paths start from the folder where a command is given. Other keys: bsssl options, bsssl options select, ...",
        f"_BASE_: {choices.base.name} # what is not set here; bsssl init --list says where it is",
        f"output_dir: {_flow(output_dir)}",
        "data:",
        *(f"  {line}" for line in _data(findings, choices)),
        *_networks(choices),
        *_stages(choices),
        f"system: {{workers: {choices.workers}}}",
    ]
    storage.write_json(os.path.join(os.path.dirname(path), SCHEMA), json_schema())
    storage.write_text(path, "\n".join(lines) + "\n")
    return output_dir


def _data(findings: Findings, choices: Choices) -> Iterator[str]:
    yield f"train: {_flow(_plain(findings.train.source))}"
    if findings.test is None:
        yield "test: null"
        yield f"holdout: {HOLDOUT} # no test set was given: this share of the labels of each class is set aside as one"
    else:
        yield f"test: {_flow(_plain(findings.test.source))}"
    yield f"num_classes: {len(findings.train.counts)}"
    if choices.labels_per_class is None:
        yield "labels_per_class: null # all labels"
    else:
        kept = "no item lacks a label: so many of each class are kept, the others are the pool"
        yield f"labels_per_class: {choices.labels_per_class} # {kept}"
    sources = [_plain(part.source) for part in findings.pool]
    what = f"{choices.pool_size:,} {findings.kind} of which no label is read"
    yield f"pool: {_flow(sources)} # " + (what if sources else f"{what}, all from train")
    yield "pool_overlap: exclude # labeled and test items, and copies of them, are left out of the pool"
    if choices.max_failure_rate is not None:
        lost = sum(len(part.unreadable) for part in findings.parts)
        opened = sum(part.opened for part in findings.parts)
        yield f"max_failure_rate: {choices.max_failure_rate} # of {opened} that were opened {lost} cannot be read"
        yield f"max_missing_rate: {choices.max_failure_rate} # likewise in the test"
    if choices.size is not None:
        yield f"transforms: {{size: {choices.size}}} # what the student sees; more is slower, and often better"
    if choices.stride is not None:
        yield f"clips: {{stride: {choices.stride}}} # the videos are short"


def _networks(choices: Choices) -> Iterator[str]:
    """Yield what to know of the networks of the base."""
    base = read_yaml(choices.base.name)
    networks = {role: model["name"] for role, model in base["models"].items() if "/" in model["name"]}
    names = " and ".join(f"{role} ({name})" for role, name in networks.items())
    yield f"# Weights of {names} are fetched when they are first needed."
    yield "# Without a network connection, give files of them:"
    if base["teacher"].get("mode") == "probe":
        yield "#   teacher: {init_from: FILE}"
    else:
        yield f"#   models: {{{', '.join(f'{role}: {{pretrained: false, weights: FILE}}' for role in networks)}}}"


def _stages(choices: Choices) -> Iterator[str]:
    base = read_yaml(choices.base.name)
    smaller = {} if choices.batch_size == choices.base.batch_size else {"batch_size": choices.batch_size}
    for section in ("teacher", "baseline", "finetune"):
        if smaller and base[section].get("mode") != "probe":
            yield f"{section}: {_flow(smaller)} # the GPU is small"
    yield f"score: {_flow({'top_p': choices.top_p, **smaller})} # P: classes kept of each item of the pool"
    yield f"select: {{top_k: {choices.top_k}}} # K: selected of each class, half of the pool's items per class"
    lengths = {"length": f"{choices.samples:_} samples", "warmup": f"{choices.warmup:_} samples"}
    yield f"pretrain: {_flow({**lengths, **smaller})} # longer is better, up to a point"


def _plain(source: Source) -> dict[str, Any]:
    return {"dataset": source.dataset, "path": source.path} | ({"options": source.options} if source.options else {})


def _flow(value: Any) -> str:
    """Return a value as YAML of one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("...").rstrip()
