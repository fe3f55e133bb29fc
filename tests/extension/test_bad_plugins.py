"""Whatever is wrong with a plugin, or with what a config says of one: a clear line for each problem."""

import os

import pytest

AUGMENTATION = """
import os
from bsssl.registry import AUGMENTATIONS

{first}

@AUGMENTATIONS.register("shaky")
class Shaky:
    def __init__(self, *, size: int):
        self.size = size

    def __call__(self, picture):
        {work}
        return picture[:, : self.size, : self.size].contiguous()
"""


@pytest.fixture
def refused(bsssl, recipe, plugin, tmp_path):
    """``refused(*overrides)``: the error lines of the tiny recipe."""

    def call(*overrides, command="run"):
        outcome = bsssl(command, "--config", recipe.config, f"output_dir={tmp_path / 'run'}", *overrides)
        assert outcome.status == 1 and "Traceback" not in outcome.err and "Traceback" not in outcome.out
        return [line.removeprefix("error: ").removeprefix(f"{recipe.config}: ") for line in outcome.errors]

    return call


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("def broken(:\n", "SyntaxError: invalid syntax (bad_parts.py, line 1)"),
        ("raise ValueError('no licence\\nhere')\n", "ValueError: no licence here"),
        ("import sys; sys.exit('I quit')\n", "SystemExit: I quit"),
        ("import nowhere_at_all\n", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
    ],
)
def test_a_plugin_that_does_not_import(refused, plugin, text, cause):
    plugin("bad_parts", text)
    remedy = "check `plugins`, and that the module is installed or on PYTHONPATH"
    assert refused("plugins=[bad_parts]") == [f"plugin 'bad_parts' cannot be imported; {remedy}: {cause}"]


def test_a_plugin_that_is_not_there(refused):
    (line,) = refused("plugins=[nowhere_parts]")
    assert line.startswith("plugin 'nowhere_parts' cannot be imported; check `plugins`, ")
    assert line.endswith(": ModuleNotFoundError: No module named 'nowhere_parts'")


def test_a_plugin_whose_name_is_taken(refused, plugin):
    plugin("greedy_parts", "from bsssl.registry import LOSSES\nLOSSES.register('cross_entropy')(print)\n")
    plugin("other_parts", "from bsssl.registry import LOSSES\ndef f(): ...\nLOSSES.register('mine')(f)\n")
    plugin("third_parts", "from bsssl.registry import LOSSES\ndef f(): ...\nLOSSES.register('mine')(f)\n")
    (line,) = refused("plugins=[other_parts, third_parts]")
    assert line == (
        "plugin 'third_parts': loss 'mine' of third_parts has the name of one of other_parts; register it under another"
    )
    (line,) = refused("plugins=[greedy_parts]")
    assert line.startswith("plugin 'greedy_parts': loss 'cross_entropy' of ") and "one of bsssl.optim.losses" in line


@pytest.mark.parametrize("workers", ["spawn", "fork"])
def test_a_plugin_that_fails_in_a_process_of_the_loader(refused, plugin, workers):
    plugin("shaky_parts", AUGMENTATION.format(first="", work="raise ValueError('I am not well')"))
    lines = refused(
        *("plugins=[shaky_parts]", "data.transforms.train_crop=shaky", "stage=teacher"),
        *("system.workers=1", f"system.start_method={workers}"),
        command="train",
    )
    assert lines == [
        "a process of the loader failed (run again with --debug for the traceback): ValueError: I am not well"
    ]


def test_a_plugin_that_does_not_import_in_a_process_of_the_loader(refused, plugin):
    """Where the dataset has a class of its own, it is imported to unpickle that."""
    first = f"if os.getpid() != {os.getpid()}: raise ValueError('I am no worker')"
    plugin("lazy_parts", AUGMENTATION.format(first=first, work=""))
    (line,) = refused(
        *("plugins=[lazy_parts]", "data.transforms.train_crop=shaky", "stage=teacher"),
        *("system.workers=1", "system.start_method=spawn"),
        command="train",
    )
    assert line.startswith("plugin 'lazy_parts' cannot be imported; ") and line.endswith(": ValueError: I am no worker")


def test_what_the_processes_of_the_loader_cannot_be_given(refused, plugin):
    text = "from bsssl.registry import AUGMENTATIONS\n@AUGMENTATIONS.register('local')\n"
    plugin("local_parts", text + "def make(*, size: int): return lambda picture: picture[:, :size, :size]\n")
    (line,) = refused(
        *("plugins=[local_parts]", "data.transforms.train_crop=local", "stage=teacher"),
        *("system.workers=1", "system.start_method=spawn"),
        command="train",
    )
    assert line.startswith("the loader's processes cannot be given the dataset; make what cannot be pickled a class")


@pytest.mark.parametrize(
    ("override", "lines"),
    [
        (
            "pretrain.loss_options.gama=1",
            ["pretrain.loss: loss 'example_focal' has no option 'gama': did you mean 'gamma'? valid: gamma"],
        ),
        (
            "select.variant_options.skore=1",
            ["selection rule 'example_middle' has no option 'skore': did you mean 'score'? valid: score"],
        ),
        (
            "data.train.options.cuont=1",
            ["dataset 'example_stripes' has no option 'cuont': did you mean 'count'? valid: count, seed"],
        ),
        (
            "system.loggers.example_csv={nam: x}",
            ["metric logger 'example_csv' has no option 'nam': did you mean 'name'? valid: name"],
        ),
        ("models.student.options.widht=3", ["model 'example_net' has no option 'widht': did you mean 'width'? "]),
        (
            "metrics.example_worst_class={least: 1}",
            ["metric 'example_worst_class' has no option 'least': there are none"],
        ),
        ("launcher.options={queue: 1}", ["launcher 'local' has no option 'queue': there are none"]),
        (
            "data.transforms.train_crop_options.strength=much",
            [
                "augmentation 'example_noise': strength='much': Input should be a valid integer, unable to "
                "parse string as an integer"
            ],
        ),
    ],
)  # fmt: skip
def test_an_option_that_a_part_does_not_have(bsssl, example, tmp_path, override, lines):
    outcome = bsssl("run", *example, override)
    assert len(outcome.errors) == 1 and outcome.errors[0].startswith(f"error: {lines[0]}")
    assert not (tmp_path / "run").exists()


def sure(**changes):
    settings = {"kind": "example_sure", "needs": "{selection: select}", "options": "{}", **changes}
    return "{" + ", ".join(f"{key}: {value}" for key, value in settings.items()) + "}"


NAMES = (
    "baseline, contents, data, evaluate-baseline, evaluate-finetune, evaluate-pretrain, evaluate-teacher, finetune, "
)


@pytest.mark.parametrize(
    ("stages", "lines"),
    [
        (
            {"f": sure(kind="example_shure")},
            ["stages.f.kind: unknown kind of stage 'example_shure': did you mean 'example_sure'? valid: choose, "],
        ),
        ({"f": sure(kind="score")}, ["stages.f.kind: 'score' is set by the recipe's own sections; no config can add"]),
        (
            {"f": sure(needs="{selection: selekt}")},
            [f"stages.f.needs.selection: there is no stage 'selekt': did you mean 'select'? valid: {NAMES[:40]}"],
        ),
        (
            {"f": sure(options="{min_skore: 1}"), "g": sure(options="{min_score: much}")},
            [
                "stages.f.options: unknown key 'min_skore': did you mean 'min_score'? valid: min_score",
                "stages.g.options: min_score: Input should be a valid number",
            ],
        ),
        (
            {"f": sure(needs="{selection: teacher}")},
            ["stages.f.needs.selection: teacher leaves no selection, which 'example_sure' reads: valid: weights"],
        ),
        (
            {"f": sure(needs="{choice: select}")},
            [
                "stages.f.needs: 'example_sure' needs a stage as its selection; add selection: NAME",
                "stages.f.needs: 'example_sure' has no role 'choice': valid: selection",
            ],
        ),
        (
            {"f": sure(needs="{selection: g}"), "g": sure(needs="{selection: f}")},
            ["stages: f -> g -> f need each other; each must need earlier ones alone"],
        ),
        ({"f": sure(needs="{selection: f}")}, ["stages: f -> f need each other; each must need earlier ones alone"]),
        (
            {"f": sure(instead_of="score")},
            ["stages.f.instead_of: no stage of the recipe after f reads score; leave it out"],
        ),
        (
            {"f": sure(instead_of="finetune")},
            ["stages.f.instead_of: evaluate-finetune reads weights (model.safetensors), which 'example_sure' does "],
        ),
        ({"f": sure(instead_of="selekt")}, ["stages.f.instead_of: there is no stage 'selekt': did you mean "]),
        (
            {"f": sure(instead_of="select"), "g": sure(instead_of="select")},
            ["stages: f, g are all instead_of select; let each need the one before it, and stand instead of that"],
        ),
        ({"pretrain": sure()}, ["stages.pretrain: the recipe has a stage of that name; rename it"]),
        ({"a/b": sure()}, ["stages.a/b: the name of a stage has letters, digits, - and _ alone; rename it"]),
        (
            {"f": "{needs: {}, opts: 1}"},
            ["'stages.f.kind' is missing; it must be given", "unknown key 'stages.f.opts': did "],
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("plan", [True, False])
def test_a_stage_that_is_impossible(bsssl, example, tmp_path, stages, lines, plan):
    override = "stages={" + ", ".join(f"{name}: {stage}" for name, stage in stages.items()) + "}"
    outcome = bsssl("run", *example, override, *(["--plan"] if plan else []))
    assert outcome.status == 1
    given = [line.removeprefix("error: ").removeprefix(f"{example[1]}: ") for line in outcome.errors]
    assert len(given) == len(lines), given
    for line, start in zip(given, lines, strict=True):
        assert line.startswith(start)
    assert not (tmp_path / "run").exists()
