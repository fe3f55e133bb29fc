import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from bsssl.errors import UserError
from bsssl.reports import recipe


def made_run(*, seed=0, top1=80.0, gain=5.0, rounds=1, precision=90.0, ceiling=False):
    """What the report asks of a finished run."""
    results = {}
    for number in range(1, rounds + 1):
        suffix = f"-{number}" if number > 1 else ""
        results |= {
            f"evaluate-pretrain{suffix}": top1 + 1 + number,
            f"evaluate-finetune{suffix}": top1 + gain + number - 1,
            f"select{suffix}": {"pairs": 10 * number, "samples": 8, "precision": precision},
        }
    results |= {"evaluate-teacher": top1 + 3, "evaluate-baseline": top1}
    results |= {"evaluate-ceiling": 99.0} if ceiling else {}
    figures = {
        name: value if isinstance(value, dict) else {"top1": float(value), "top5": 100.0, "ece": 2.5, "items": 500}
        for name, value in results.items()
    }
    stages = {name: SimpleNamespace(name=name, copies=None) for name in results}
    selected = [name for name in results if name.startswith("select")]
    stages |= {name.replace("select", "pretrain"): SimpleNamespace(needs={"selection": name}) for name in selected}
    path = Path("outputs") / f"seed-{seed}"
    return SimpleNamespace(seed=seed, path=path, result=figures.__getitem__, stages=stages)


def made_config(output=".", *, rounds=1):
    data, models = SimpleNamespace(tests={"test": None}), SimpleNamespace(teachers={"teacher": None})
    return SimpleNamespace(output_dir=str(output), rounds=rounds, data=data, models=models)


def test_one_seed():
    results = recipe.collect(made_config(), [made_run()])
    assert results.to_dict() == {
        "teacher": {"top1": 83.0, "top5": 100.0, "ece": 2.5, "items": 500, "per_seed": [83.0]},
        "supervised": {"top1": 80.0, "top5": 100.0, "ece": 2.5, "items": 500, "per_seed": [80.0]},
        "pretrained": {"top1": 82.0, "top5": 100.0, "ece": 2.5, "items": 500, "per_seed": [82.0]},
        "finetuned": {"top1": 85.0, "top5": 100.0, "ece": 2.5, "items": 500, "per_seed": [85.0]},
        "gain": {"top1": 5.0, "per_seed": [5.0]},
        "selection": {"pairs": 10, "samples": 8, "precision": 90.0},
        "seeds": [0],
    }
    assert results.networks["supervised"].top1 == 80 and results.gain.std is None


def test_several_seeds_give_mean_and_sample_deviation():
    runs = [made_run(seed=seed, top1=top1, gain=gain) for seed, top1, gain in ((0, 80, 4), (1, 82, 6), (2, 84, 8))]
    results = recipe.collect(made_config(), runs)
    supervised = results.networks["supervised"]
    assert (supervised.top1, supervised.std, supervised.per_seed) == (82, 2, (80, 82, 84))
    assert results.gain.to_dict() == {"top1": 6, "std": 2, "per_seed": [4, 6, 8]}
    assert results.seeds == (0, 1, 2)


def test_rounds_are_listed_and_the_last_one_counts():
    results = recipe.collect(made_config(rounds=3), [made_run(rounds=3)])
    assert [one.selection.pairs for one in results.rounds] == [10, 20, 30]
    assert results.networks["finetuned"] == results.rounds[2].finetuned
    assert results.gain.top1 == 7
    rounds = results.to_dict()["rounds"]
    assert [one["selection"]["pairs"] for one in rounds] == [10, 20, 30]
    assert rounds[1]["pretrained"]["top1"] == 83 and rounds[1]["finetuned"]["top1"] == 86


def test_where_the_networks_are():
    runs = [made_run(seed=seed, rounds=2, ceiling=True) for seed in range(2)]
    paths = recipe.collect(made_config(rounds=2), runs).paths
    assert set(paths) == {"teacher", "supervised", "pretrained", "finetuned", "ceiling"}
    assert paths["finetuned"] == (Path("outputs/seed-0/finetune-2"), Path("outputs/seed-1/finetune-2"))
    assert paths["supervised"][0] == Path("outputs/seed-0/baseline")


@pytest.mark.parametrize(("rounds", "ceiling", "precision"), [(1, False, None), (1, True, 87.4), (2, True, 90.0)])
def test_what_is_written(tmp_path, rounds, ceiling, precision):
    config = made_config(tmp_path, rounds=rounds)
    table = recipe.write(config, [made_run(rounds=rounds, precision=precision, ceiling=ceiling)])
    assert json.loads((tmp_path / "results.json").read_text())["teacher"]["top1"] == 83
    with Image.open(tmp_path / "results.png") as picture:
        assert picture.format == "PNG" and picture.width == 840
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "results.md", "results.png"}
    markdown = (tmp_path / "results.md").read_text()
    for text in (table, markdown):
        assert ("student, all labels" in text) == ceiling
        assert (", round 2" in text) == (rounds == 2)
        assert ("% of them right" in text) == (precision is not None)
        assert "selection: " in text and "seeds: 0" in text
    assert markdown.startswith(
        "|  | top-1 % | top-5 % | ECE % |\n|---|---:|---:|---:|\n| teacher | 83.0 | 100.0 | 2.5 |\n"
    )


def test_the_tables_columns_line_up():
    results = recipe.collect(made_config(), [made_run(seed=seed, top1=80 + seed) for seed in range(2)])
    lines = results.table.text().splitlines()
    rows = [line for line in lines if line.endswith(("ECE %", "2.5"))]
    assert len({len(line) for line in rows}) == 1 and len(rows) == 5
    assert "gain of the fine-tuned student" in lines[5] and "+5.0 ± 0.0" in lines[5]


def test_a_notebook_shows_the_table():
    html = recipe.collect(made_config(), [made_run()])._repr_html_()
    assert "<td>teacher</td><td>83.0</td>" in html and "seeds: 0<br>500 test items</p>" in html


def test_a_frame_has_a_row_per_network_and_round():
    pandas = pytest.importorskip("pandas")
    frame = recipe.collect(
        made_config(rounds=2), [made_run(rounds=2), made_run(rounds=2, seed=1, top1=82)]
    ).to_dataframe()
    assert isinstance(frame, pandas.DataFrame) and len(frame) == 6
    row = frame.loc["student, labels only"]
    assert (row["top1"], row["std"], row["top1_seed_0"], row["top1_seed_1"]) == (81, 1.41, 80, 82)
    assert frame.loc["student, then fine-tuned on the labels, round 2", "top1"] == 87


def test_a_frame_needs_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="needs pandas, which is not installed: pip install pandas"):
        recipe.collect(made_config(), [made_run()]).to_dataframe()
