"""An exclusion list in the whole recipe: what is left out, what runs again, and what is refused."""

import json

import pytest

from bsssl.selection import read_selection


def picked(output):
    table = read_selection(str(output / "seed-0" / "select" / "selection.parquet"))
    return [(row["key"], table.facts["class_names"][row["class"]]) for row in table.table.to_pylist()]


def select(bsssl, recipe, output, *arguments):
    return bsssl("select", "--config", recipe.config, f"output_dir={output}", *arguments)


def test_what_is_left_out_makes_room_for_others(finished, recipe, bsssl, tmp_path):
    before, excluded = picked(finished), tmp_path / "exclude.csv"
    (key, name), out = before[0], before[-1][1]
    excluded.write_text(f"key,class\n{key},{name}\n,{out}\n")
    outcome = select(bsssl, recipe, finished, f"select.exclude={excluded}")
    assert outcome.status == 0 and f"select.exclude={excluded}" not in outcome.err
    after = picked(finished)
    assert (key, name) not in after and all(one != out for _, one in after)
    assert sum(one == name for _, one in after) == sum(one == name for _, one in before)
    assert read_selection(str(finished / "seed-0/select/selection.parquet")).facts["exclude"] == str(excluded)
    assert (finished / "seed-0" / "aside" / "select").is_dir()


def test_the_list_is_known_by_its_content(finished, recipe, bsssl, tmp_path):
    excluded, argument = tmp_path / "exclude.jsonl", f"select.exclude={tmp_path / 'exclude.jsonl'}"
    (key, name), *_ = picked(finished)
    excluded.write_text(json.dumps({"key": key, "class": name}) + "\n")
    assert select(bsssl, recipe, finished, argument).status == 0
    finished_at = (finished / "seed-0" / "select" / "done.json").stat().st_mtime_ns
    excluded.write_text(excluded.read_text())
    assert select(bsssl, recipe, finished, argument).status == 0
    assert (finished / "seed-0" / "select" / "done.json").stat().st_mtime_ns == finished_at
    excluded.write_text(json.dumps({"key": key, "class": ""}) + "\n")
    assert "exclude has changed" in select(bsssl, recipe, finished, argument, "--plan").out
    assert select(bsssl, recipe, finished, argument).status == 0
    assert all(one != key for one, _ in picked(finished))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("key\na\n", "has no column class"),
        ("key,class\nnowhere.jpg,circle\n", "none of its 1 keys is an item of the pool"),
        ("key,class\n,circles\n", "unknown class 'circles': did you mean 'circle'"),
    ],
)
def test_what_is_wrong_is_one_line(finished, recipe, bsssl, tmp_path, content, message):
    if content is not None:
        (tmp_path / "exclude.csv").write_text(content)
    outcome = select(bsssl, recipe, finished, f"select.exclude={tmp_path / 'exclude.csv'}")
    assert outcome.status == 1 and len(outcome.errors) == 1 and message in outcome.errors[0]
