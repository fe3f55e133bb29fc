import json
from types import SimpleNamespace

import pytest
from PIL import Image

from bsssl.reports import recipe as report


def made_run(output, *, seed=0, top1=80.0, gain=5.0, rounds=1, ceiling=False, precision=90.0):
    """What the report asks of a finished run."""
    results = {}
    for number in range(1, rounds + 1):
        suffix = f"-{number}" if number > 1 else ""
        results |= {
            f"evaluate-pretrain{suffix}": top1 + 1 + number,
            f"evaluate-finetune{suffix}": top1 + gain + number - 1,
            f"select{suffix}": {"pairs": 10 * number, "samples": 8, "precision": precision},
        }
    results |= {"evaluate-teacher": top1 + 3, "evaluate-baseline": top1, "evaluate-ceiling": 99.0}
    figures = {
        name: value if isinstance(value, dict) else {"top1": value, "top5": 100.0, "ece": 2.5, "items": 500}
        for name, value in results.items()
    }
    config = SimpleNamespace(output_dir=str(output), rounds=rounds, ceiling=object() if ceiling else None, weak=None)
    return SimpleNamespace(config=config, seed=seed, result=figures.__getitem__)


def test_one_seed(tmp_path):
    results = report.collect([made_run(tmp_path)])
    assert results["supervised"] == {"top1": 80.0, "top5": 100.0, "ece": 2.5, "per_seed": [80.0]}
    assert results["gain"] == {"top1": 5.0, "per_seed": [5.0]}
    assert results["selection"] == {"pairs": 10, "samples": 8, "precision": 90.0}
    assert results["seeds"] == [0] and "ceiling" not in results and "rounds" not in results


def test_several_seeds_give_mean_and_sample_deviation(tmp_path):
    runs = [
        made_run(tmp_path, seed=seed, top1=top1, gain=gain) for seed, top1, gain in ((0, 80, 4), (1, 82, 6), (2, 84, 8))
    ]
    results = report.collect(runs)
    assert results["supervised"]["top1"] == 82 and results["supervised"]["std"] == 2
    assert results["supervised"]["per_seed"] == [80, 82, 84]
    assert results["gain"] == {"top1": 6, "std": 2, "per_seed": [4, 6, 8]}
    assert results["seeds"] == [0, 1, 2]


def test_rounds_are_listed_and_the_last_one_counts(tmp_path):
    results = report.collect([made_run(tmp_path, rounds=3)])
    assert [found["selection"]["pairs"] for found in results["rounds"]] == [10, 20, 30]
    assert results["finetuned"] == results["rounds"][2]["finetuned"]
    assert results["gain"]["top1"] == 7


@pytest.mark.parametrize(("rounds", "ceiling", "precision"), [(1, False, None), (1, True, 87.4), (2, True, 90.0)])
def test_what_is_written(tmp_path, rounds, ceiling, precision):
    table = report.write([made_run(tmp_path, rounds=rounds, ceiling=ceiling, precision=precision)])
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


def test_the_tables_columns_line_up(tmp_path):
    lines = report.write([made_run(tmp_path, seed=seed, top1=80 + seed) for seed in range(2)]).splitlines()
    rows = [line for line in lines if line.endswith(("ECE %", "2.5"))]
    assert len({len(line) for line in rows}) == 1 and len(rows) == 5
    assert "gain of the fine-tuned student" in lines[5] and "+5.0 ± 0.0" in lines[5]
