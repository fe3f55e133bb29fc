import os
from pathlib import Path

import pytest
import yaml

from bsssl.config import Config, Length, Reproduction, Select, Train, check_warmup, load_config, options
from bsssl.data.datasets.sources import Folder
from bsssl.errors import UserError

RECIPES = Path(__file__).parents[2] / "projects" / "image"

SOURCE = {"dataset": "folder", "path": "pictures"}
NETWORK = {"name": "resnet18"}
LEAST = {
    "output_dir": "out",
    "data": {"train": SOURCE, "test": SOURCE, "pool": [SOURCE]},
    "models": {"teacher": NETWORK, "student": NETWORK},
}


@pytest.fixture
def write(tmp_path):
    def write_file(text: object, name: str = "config.yaml") -> str:
        path = tmp_path / name
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
        return str(path)

    return write_file


@pytest.fixture
def problems(write):
    """The lines about a config that is the least possible one but for some overrides."""

    def find(*overrides: str) -> list[str]:
        path = write(LEAST)
        with pytest.raises(UserError) as caught:
            load_config(path, list(overrides))
        lines = str(caught.value).splitlines()
        assert all(line.startswith(f"{path}: ") or path not in line for line in lines)
        return [line.removeprefix(f"{path}: ") for line in lines]

    return find


def test_defaults_are_the_papers(write):
    config = load_config(write(LEAST), [])
    assert (config.score.top_p, config.select.top_k) == (10, 16_000)
    assert config.pretrain.length == Length(amount=1e9, unit="samples")
    assert (config.pretrain.batch_size, config.pretrain.base_lr, config.pretrain.intervals) == (1536, 0.1, 13)
    assert (config.finetune.base_lr, str(config.finetune.length)) == (0.00025, "30 epochs")
    assert config.finetune.init_from == "pretrain"
    assert config.ceiling is None


def test_overrides_reach_any_depth_and_are_yaml(write):
    path = write(LEAST)
    config = load_config(
        path,
        [
            "finetune.base_lr=1e-3",
            "data.transforms.size=32",
            "models.student.options.width=4",
            "ceiling.length='5 epochs'",
            "data.pool=[{dataset: tars, path: a.tar}]",
            "teacher.clip_norm=null",
            "select.top_k=1_000",
        ],
    )
    assert config.finetune.base_lr == 0.001
    assert config.data.transforms.size == 32
    assert config.models.student.options == {"width": 4}
    assert config.models.teacher.options == {}
    assert config.ceiling is not None and str(config.ceiling.length) == "5 epochs"
    assert config.data.pool[0].dataset == "tars"
    assert config.select.top_k == 1000


def test_the_last_override_wins(write):
    assert load_config(write(LEAST), ["seed=1", "seed=2"]).seed == 2


def test_base_files_are_merged_key_by_key(write):
    write(LEAST, "base.yaml")
    write("_BASE_: base.yaml\nselect: {top_k: 5}\nscore: {top_p: 3}\n", "middle.yaml")
    config = load_config(write("_BASE_: middle.yaml\nscore: {batch_size: 7}\noutput_dir: other\n"), [])
    assert (config.output_dir, config.select.top_k) == ("other", 5)
    assert (config.score.top_p, config.score.batch_size) == (3, 7)


ALIASES = yaml.safe_dump(LEAST) + "teacher: &same {base_lr: 0.4}\nbaseline: *same\n"


def test_an_override_changes_one_of_two_sections_that_share_an_alias(write):
    config = load_config(write(ALIASES), ["teacher.base_lr=0.3"])
    assert (config.teacher.base_lr, config.baseline.base_lr) == (0.3, 0.4)


def test_a_child_changes_one_of_two_sections_that_share_an_alias_in_its_base(write):
    write(ALIASES, "base.yaml")
    config = load_config(write("_BASE_: base.yaml\nbaseline: {base_lr: 0.1}\n"), [])
    assert (config.teacher.base_lr, config.baseline.base_lr) == (0.4, 0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config.yaml is not a config: it must hold 'key: value' lines"),
        ("- a\n- b\n", "is not a config"),
        ("a: [1\n", "is not valid YAML: "),
        ("a: !!python/object:os.system x\n", "is not valid YAML: "),
        ("_BASE_: none.yaml\n", "_BASE_ names a file that does not exist: .*none.yaml"),
        ("_BASE_: config.yaml\n", "its _BASE_ leads back to itself"),
        ("_BASE_: 3\n", "_BASE_ must name a file, or list some, not 3"),
        ('_BASE_: "a\\0"\n', "_BASE_ must name a file, or list some, not "),
        ("_BASE_: .\n", "is not a file; _BASE_ must name one"),
        ("_BASE_: pipe\n", "/pipe is not a file; _BASE_ must name one"),
        ("a: !!timestamp 2026-02-30\n", "is not valid YAML: day is out of range"),
        ("a: !!binary AAAA\n", "is not valid YAML: bytes is no kind of value here"),
        ("a: !!set {b}\n", "is not valid YAML: set is no kind of value here"),
        ("a: !!int x\n", "is not valid YAML: invalid literal for int"),
        ("a: !!bool 7\n", "is not valid YAML: '7'"),
        ("a: !!timestamp 1\n", "is not valid YAML: "),
        (f"a: {'9' * 5000}\n", "is not valid YAML: "),
        (
            "seed: 1\ndata: {}\nseed: 2\n",
            "is not valid YAML: the key 'seed' is there twice, again in line 3; leave one",
        ),
        ("seeds: {3: 1, '3': 2}\n", "is not valid YAML: the key '3' is there twice"),
        ("? [a]\n: 1\n", "is not valid YAML: "),
        ("a: {? !!binary '' : 1}\n", "is not valid YAML: a key must be text, not b''"),
        (f"a: {'[' * 999}\n", "is not valid YAML: values lie more than 100 deep in each other"),
        ("a: &a [*a]\n", "is not valid YAML: an alias stands for what it lies in"),
        (
            "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
            "is not valid YAML: its aliases stand for more than 1,000,000 values",
        ),
    ],
)
def test_files_that_are_no_configs(write, text, message, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=message) as caught:
        load_config(write(text), [])
    assert "\n" not in str(caught.value)


def test_a_missing_file():
    with pytest.raises(UserError, match=r"no such config: nowhere\.yaml; `bsssl init --list` names"):
        load_config("nowhere.yaml", [])


def test_every_problem_is_reported_at_once_with_its_path(problems):
    lines = problems(
        "teacher.base_lrr=1", "select.top_k=0", "seed=many", "data.train.dataset=null", "models.teacher={}"
    )
    assert len(lines) == 5
    for start in ("data.train.dataset: ", "seed: ", "'models.teacher.name' is missing", "select.top_k: "):
        assert sum(line.startswith(start) for line in lines) == 1, start
    assert any(line.startswith("unknown key 'teacher.base_lrr': did you mean 'base_lr'? valid: ") for line in lines)


def test_k_grows_evenly_with_the_rounds():
    growing = Select(top_k=7, grow=True)
    assert [growing.top_k_of(number, rounds=5) for number in range(1, 6)] == [1, 2, 4, 5, 7]
    assert [Select(top_k=2, grow=True).top_k_of(number, rounds=5) for number in (1, 2, 5)] == [1, 1, 2]
    assert Select(top_k=7).top_k_of(1, rounds=5) == 7


def test_every_impossible_combination_is_reported_at_once(problems):
    lines = problems("data.num_classes=3", "select.grow=true", "output_dir=s3://bucket")
    assert [line.split(" ")[0] for line in lines] == ["output_dir:", "score.top_p", "select.grow"]
    lines = problems("teacher={accumulate: 5, warmup: 91 epochs}")
    assert [line.split(" ")[1] for line in lines] == ["accumulate", "warmup"]
    lines = problems("pretrain.elr=3", "pretrain.cutmix=1")
    assert [line.split(", ")[0] for line in lines] == ["pretrain: elr remembers a prediction per sample"]
    assert problems("data.imbalance=10") == ["data: imbalance needs labels_per_class; set it, or leave imbalance out"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("selct.top_k=3", "unknown key 'selct': did you mean 'select'? valid: baseline, ceiling, data, "),
        ("data.pool=[{dataset: folder, path: a, lable: b}]", "unknown key 'data.pool.0.lable': valid: dataset, "),
        ("ceiling.lenght=3", "unknown key 'ceiling.lenght': did you mean 'length'? "),
        ("seed=many", "seed: Input should be a valid integer, unable to parse string as an integer (given: 'many')"),
        (
            "data.pool=pictures",
            "data.pool must be a list: write data.pool='[{dataset: folder, path: ...}]' (given: 'pictures')",
        ),
        ("data.train=pictures", "data.train has keys of its own: write for example data.train.dataset="),
        ("teacher.length=30", "teacher.length: '30' is not a length; write for example '30 epochs'"),
        ("teacher.length=-3 epochs", "teacher.length: '-3 epochs' is not a length"),
        (
            "teacher.optimizer=adam",
            "teacher.optimizer: unknown optimizer 'adam': did you mean 'adamw'? valid:",
        ),
        ("select.top_k=0", "select.top_k: Input should be greater than or equal to 1 (given: 0)"),
        ("teacher.base_lr=0", "teacher.base_lr: Input should be greater than 0 (given: 0)"),
        ("finetune.layer_decay=0", "finetune.layer_decay: Input should be greater than 0 (given: 0)"),
        ("finetune.layer_decay=1.5", "finetune.layer_decay: Input should be less than or equal to 1 (given: 1.5)"),
        ("teacher.freeze=conv1", "teacher.freeze must be a list: write teacher.freeze='[conv1]' (given: 'conv1')"),
        ("teacher.freeze=[[conv1]]", "teacher.freeze.0: Input should be a valid string"),
        ("teacher.decay_norms=half", "teacher.decay_norms: Input should be a valid boolean"),
        ("data.max_failure_rate=2", "data.max_failure_rate: Input should be less than or equal to 1 (given: 2)"),
        ("teacher.warmup=91 epochs", "teacher: warmup (91 epochs) is longer than length (90 epochs); shorten it"),
        (
            "pretrain.length=1000 steps",
            "pretrain: warmup (5000000 samples) is longer than length (1000 steps); shorten it",
        ),
        ("teacher={nesterov: true, momentum: 0}", "teacher: nesterov needs momentum; set it above 0"),
        (
            "data.transforms.test_resize=200",
            "data.transforms: test_resize (200) is below size (224); the crop would not",
        ),
        ("data.transforms={size: 4, train_crop: padded}", "data.transforms: padding (4) must be below size (4)"),
        (
            "data.transforms.train_crop=paded",
            "data.transforms.train_crop: unknown augmentation 'paded': did you mean 'padded'? valid: affine, none, ",
        ),
        (
            "data.transforms={train_crop_options: {padding: 2}}",
            "data.transforms: train_crop_options.padding: set padding itself, beside train_crop",
        ),
        (
            "data.clips={reader: ffmpeg}",
            "data.clips.reader: unknown video reader 'ffmpeg': valid: av, decord, torchcodec",
        ),
        (
            "select.variant=balancd",
            "select.variant: unknown selection rule 'balancd': did you mean 'balanced'? valid: balanced, random, ",
        ),
        ("data.transforms.std=[1, 0, 1]", "data.transforms: std (1.0, 0.0, 1.0) must be above 0"),
        ("output_dir=s3://bucket/run", "output_dir: s3://bucket/run is a URL; results go to a local or mounted folder"),
        ("teacher.accumulate=5", "teacher: accumulate (5) must divide batch_size (1536)"),
        ("data.num_classes=3", "score.top_p (10) is above data.num_classes (3); lower it"),
        ("teacher.init_from=finetune", "teacher.init_from: finetune is not trained before teacher; give an earlier"),
        ("pretrain.init_from=pretrain", "pretrain.init_from: pretrain is not trained before pretrain; "),
        ("finetune.init_from=ceiling", "finetune.init_from: ceiling is not trained before finetune; "),
        ("seeds=1000000000", "seeds: Input should be less than or equal to 10000 (given: 1000000000)"),
        ("no_equals_sign", "'no_equals_sign' is not an override; write key=value, for example "),
        ("=3", "'=3' is not an override"),
        ("seed=[", "'seed=[': the value is not valid YAML: "),
        ("seed=2026-02-30", "seed: Input should be a valid integer"),
        (
            "seed=!!int x",
            "'seed=!!int x': the value is not valid YAML: invalid literal for int() with base 10: ",
        ),
        ("seed={a: 1, a: 2}", "'seed={a: 1, a: 2}': the value is not valid YAML: the key 'a' is there twice, "),
    ],
)
def test_problems_name_the_key_and_what_is_valid(problems, override, message):
    lines = problems(override)
    assert len(lines) == 1
    assert lines[0].startswith(message), lines[0]


@pytest.mark.parametrize("missing", ["output_dir", "data", "models"])
def test_required_keys(write, missing):
    path = write({key: value for key, value in LEAST.items() if key != missing})
    with pytest.raises(UserError, match=f"^{path}: '{missing}' is missing; it must be given$"):
        load_config(path, [])


def test_a_stage_may_start_from_an_earlier_one_or_from_a_file(write):
    config = load_config(write(LEAST), ["pretrain.init_from=teacher", "baseline.init_from=weights.pth"])
    assert (config.pretrain.init_from, config.baseline.init_from) == ("teacher", "weights.pth")


def test_a_leading_tilde_is_the_users_own_folder(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert load_config(write(LEAST), ["output_dir=~/runs"]).output_dir == "/home/me/runs"
    assert Folder(path="~/photos").path == "/home/me/photos"


def test_a_date_is_text(write):
    config = load_config(write(LEAST), ["output_dir=2026-02-30", "data.train.path=2026-11-27"])
    assert (config.output_dir, config.data.train.path) == ("2026-02-30", "2026-11-27")


def test_values_do_not_change_after_loading(write):
    with pytest.raises(ValueError, match="frozen"):
        load_config(write(LEAST), []).seed = 1  # type: ignore[misc]


def test_a_config_survives_its_own_yaml(write):
    from bsssl.recipes.runs import as_yaml

    options = "{a: .inf, 1: {2: null, yes: [{~: 3}]}}"
    config = load_config(
        write(LEAST), ["ceiling.length=3 steps", "teacher.warmup=0.5 epochs", f"launcher.options={options}"]
    )
    assert load_config(write(as_yaml(config)), []) == config


def test_keys_are_the_text_that_is_written(write):
    values = {"recipe": "a.yaml", "output_dir": "out", "set": {"data.train.options": {"classes": [0, {2: None}]}}}
    text = yaml.safe_dump(values) + "experiments: {top_k: {&point 04: {select.top_k: 4}, 1e1: {select.top_k: *point}}}"
    config = load_config(write(text), [], Reproduction)
    assert config.set == {"data.train.options": {"classes": [0, {"2": None}]}}
    assert config.experiments == {"top_k": {"04": {"select.top_k": 4}, "1e1": {"select.top_k": 4}}}
    assert Reproduction.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        ("7 steps", 7),
        ("1024 samples", 8),
        ("1e3 samples", 8),
        ("1 sample", 1),
        ("2 epochs", 16),
        ("0.5 epoch", 4),
        (".01 epochs", 1),
        ("0 epochs", 0),
    ],
)
def test_lengths_in_steps(length, steps):
    train = Train(length=length, base_lr=0.1)  # type: ignore[arg-type]
    assert train.length.steps(batch_size=128, rows=1000) == steps


def test_a_warm_up_in_another_unit_is_checked_in_steps():
    train = Train(length="10 steps", warmup="2 epochs", base_lr=0.1)  # type: ignore[arg-type]
    check_warmup("teacher", train, steps=10, warmup_steps=10)
    with pytest.raises(UserError, match=r"teacher\.warmup \(2 epochs, 11 steps\) is longer than teacher\.length \(10"):
        check_warmup("teacher", train, steps=10, warmup_steps=11)


def test_every_key_is_documented():
    assert [path for path, _, _, meaning in options() if not meaning] == []


def test_options_list_every_key_once_with_type_and_default():
    rows = list(options())
    paths = [path for path, *_ in rows]
    assert len(paths) == len(set(paths))
    found = {path: (kind, default) for path, kind, default, _ in rows}
    assert found["output_dir"] == ("str", "(required)")
    assert found["score.top_p"] == ("int", "10")
    assert "'auto'" in found["select.top_k"][0] and found["select.top_k"][1] == "16000"
    assert found["pretrain.length"][1] == "1000000000 samples"
    assert found["pretrain.targets"][0] == "['per_pair', 'multi', 'soft', 'live']"
    assert found["data.pool"] == ("list[Source]", "[]")
    assert found["data.pool[].path"] == ("str", "(required)")
    assert found["ceiling"] == ("Supervised | null", "null")
    assert found["ceiling.length"][1] == "90 epochs"
    assert {name.split(".")[0] for name in paths} == set(Config.model_fields)


def test_quickstart_loads():
    path = RECIPES / "quickstart.yaml"
    assert load_config(str(path), ["seeds=5"]).seeds == 5


@pytest.mark.parametrize(
    ("command", "given", "is_one_of", "needed"),
    [
        ("transfer", "quickstart", "the recipe", "a transfer"),
        ("run", "transfer_cub", "a transfer", "the recipe"),
        ("run", "reproduce", "a reproduction", "the recipe"),
        ("reproduce", "quickstart", "the recipe", "a reproduction"),
    ],
)
def test_a_config_of_another_command(bsssl, command, given, is_one_of, needed):
    outcome = bsssl(command, "--config", RECIPES / f"{given}.yaml")
    assert outcome.status == 1 and len(outcome.errors) == 1
    assert f"is a config of {is_one_of} (`bsssl" in outcome.err and f"here is one of {needed} (`bsssl" in outcome.err
