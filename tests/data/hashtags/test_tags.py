import logging
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bsssl.data.hashtags.tags import (
    normalize,
    read_pairs,
    read_tags,
    resampling,
    tag_rules,
    tagged_training_set,
    tags_from_file,
    write_tagged,
)
from bsssl.data.loading.targets import SparseTargets
from bsssl.data.records import Records
from bsssl.errors import UserError


def records(*tags, first=0):
    names = [f"{first + number}.jpg" for number in range(len(tags))]
    return Records.from_columns(key=names, path=[f"/x/{name}" for name in names], tags=tags)


def rules(mapping=None, spelling=None, targets=None):
    return tag_rules(spelling=spelling or {}, mapping=mapping, targets=targets)


@pytest.mark.parametrize(
    ("written", "tag"),
    [
        ("#Sea", "sea"),
        (" ice-cream ", "icecream"),
        ("Ice_Cream", "icecream"),
        ("i.c.e cream", "icecream"),
        ("\uff03\uff33\uff45\uff41", "sea"),  # fullwidth
        ("STRASSE", "strasse"),
        ("stra\u00dfe", "strasse"),
        ("caf\u00e9", "caf\u00e9"),
        ("cafe\u0301", "caf\u00e9"),
        ("\u0130stanbul", "i\u0307stanbul"),  # a dotted capital I
        ("t\u2011shirt", "tshirt"),  # a hyphen that does not break
        ("\u2764\ufe0f", "\u2764"),  # a heart, drawn as a picture
        ("a\u200db", "ab"),
        ("\u6d77", "\u6d77"),
        ("2015", "2015"),
        ("# _-.", ""),
    ],
)
def test_normalize(written, tag):
    assert normalize(written) == tag == normalize(tag)


@pytest.fixture
def write(tmp_path):
    def write_file(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write_file


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.yaml", "no: norway\n1: one\n'#Cat s': cat\n"),
        ("map.csv", "tag,class\nno,norway\n1,one\n#Cat s,cat\n"),
        (
            "map.jsonl",
            '{"tag": "no", "class": "norway"}\n{"tag": "1", "class": "one"}\n{"tag": "#Cat s", "class": "cat"}',
        ),
    ],
)
def test_files_of_pairs(write, name, text):
    assert read_pairs(write(name, text)) == {"no": "norway", "1": "one", "#Cat s": "cat"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("map.yaml", "a: [b\n", "is not valid YAML: "),
        ("map.yaml", "- a\n- b\n", "is not a map: it must hold 'tag: meaning' lines"),
        ("map.yaml", "a: [b, c]\n", ": 'a' must become one text, not \\['b', 'c'\\]"),
        ("map.csv", "name,class\na,b\n", "has the columns name, class; it must have two, tag and class"),
        ("map.csv", "tag\na\n", "has the columns tag; it must have two, tag and class"),
        ("map.csv", "tag,class\na,b\na,c\n", ": 'a' becomes 'b' and 'c'; keep one"),
        ("map.csv", "tag,class\na,\n", ": the row of 'a' has no class; give both"),
        ("map.csv", "tag,class\na,b,c\n", "cannot be read as a table"),
        ("map.txt", "a b\n", "must end in .csv, .jsonl or .parquet"),
    ],
)
def test_malformed_files_of_pairs(write, name, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read_pairs(write(name, text))
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_a_missing_file_of_pairs(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*none\.yaml"):
        read_pairs(str(tmp_path / "none.yaml"))


def test_rules():
    found = rules({"Sea Side": "water", "hund": "dog"}, {"SEAS": "sea-side"}, ["dog", "water", "T-shirt", "t shirt"])
    meanings = {tag: found.class_of(found.spell(tag)) for tag in ("#seas", "seaside", "Hund", "DOG", "cat", "tshirt")}
    assert meanings == {"#seas": "water", "seaside": "water", "Hund": "dog", "DOG": "dog", "cat": None, "tshirt": None}
    assert rules().class_of("cat") == "cat"
    assert rules({"a": "b"}).class_of("cat") is None
    assert rules({"dog": "cat"}, targets=["cat", "dog"]).class_of("dog") == "cat"  # the map comes first


@pytest.mark.parametrize(
    ("mapping", "spelling", "message"),
    [
        ({"a": "dgo"}, {}, r"the map: tag 'a' means the unknown class 'dgo': did you mean 'dog'\? valid: cat, dog"),
        ({"A": "dog", "#a": "cat"}, {}, "the map: the tag 'a' becomes 'dog' and 'cat'; keep one"),
        ({"#": "dog"}, {}, "the map: '#' is no tag, nothing is left of it"),
        ({}, {"a": "b", "_a": "c"}, "the spellings: the tag 'a' becomes 'b' and 'c'; keep one"),
    ],
)
def test_rules_that_make_no_sense(mapping, spelling, message):
    with pytest.raises(UserError, match=message):
        rules(mapping, spelling, ["cat", "dog"])


def test_tags_become_classes():
    """Worked by hand, in tables of any size."""
    tags = [["Cat", "#cat", "dog"], None, ["bird"], [], ["dogs", "cat#Bird"], ["# "], ["cat", None]]
    whole = records(*tags)
    for tables in ([whole], [whole[:2], whole[2:5], whole[5:]], [whole[:0], whole]):
        found = read_tags(tables, rules({"cat": "pet", "dog": "pet", "bird": "wild"}, {"dogs": "dog"}))
        assert dict(zip(found.tags, found.tag_samples.tolist(), strict=True)) == {"cat": 3, "dog": 2, "bird": 2}
        assert found.untagged == 3 and found.counts.tolist() == [1, 0, 1, 0, 2, 0, 1]
        assert found.samples_of(["wild", "pet", "none"]) == {"wild": 2, "pet": 3, "none": 0}
        rows, offsets, classes = found.of_classes(["pet", "wild"])
        assert rows.tolist() == [0, 2, 4, 6]
        assert [sorted(part.tolist()) for part in np.split(classes, offsets[1:-1])] == [[0], [1], [0, 1], [0]]
        rows, offsets, classes = found.of_classes(["wild"])
        assert (rows.tolist(), offsets.tolist(), classes.tolist()) == ([2, 4], [0, 1, 2], [0, 0])


def test_without_any_tag():
    for tables in ([], [records(None, None)]):
        found = read_tags(tables, rules())
        assert found.tags == found.classes == [] and len(found.of_classes(["cat"])[0]) == 0


def test_what_is_trained_on(tmp_path):
    """Targets that sum to 1, the same however the stream is cut."""
    tags = [["a", "b"], None, ["c"], ["a"], ["x"], ["a", "b", "c"]]
    whole, path = records(*tags), str(tmp_path / "tagged.parquet")
    rows, offsets, classes = read_tags([whole], rules()).of_classes(["a", "b", "c"])
    contents = []
    for tables in ([whole], [whole[:2], whole[2:3], whole[3:5], whole[5:]]):
        write_tagged(path, tables, rows=rows, offsets=offsets, classes=classes)
        kept, targets = tagged_training_set(path, num_classes=3)
        assert kept.key.to_pylist() == ["0.jpg", "2.jpg", "3.jpg", "5.jpg"]
        contents.append(np.stack([targets[row].numpy() for row in range(len(targets))]))
    expected = np.array([[1 / 2, 1 / 2, 0], [0, 0, 1], [1, 0, 0], [1 / 3] * 3], np.float32)
    assert np.array_equal(contents[0], expected) and np.array_equal(contents[1], expected)
    assert not list(tmp_path.glob("*.tmp"))


def test_resampling_follows_the_rarest_class():
    # Class 0 has four samples, class 1 two, class 2 one.
    offsets, classes = np.array([0, 1, 2, 4, 6, 7]), np.array([0, 0, 0, 1, 0, 2, 1], np.int32)
    targets = SparseTargets(offsets, classes, np.ones(7, np.float32), 3)
    assert resampling(targets, power=1).tolist() == [0.25, 0.25, 0.5, 1.0, 0.5]
    root = math.sqrt(0.5)
    assert resampling(targets, power=0.5).tolist() == pytest.approx([0.5, 0.5, root, 1.0, root])
    assert resampling(targets, power=0).tolist() == [1.0] * 5


def test_tags_of_a_file(write, caplog):
    path = write("tags.csv", "key,tags\n2.jpg,sea;sun\n0.jpg,sea\nother.jpg,sun\n")
    tables = [records(["old"], ["old"]), records(None, first=2)]
    with caplog.at_level(logging.WARNING, "bsssl"):
        found = [tags for table in tags_from_file(tables, path) for tags in table.tags.to_pylist()]
    assert found == [["sea"], None, ["sea", "sun"]]
    assert caplog.messages == [f"{path}: 1 of 3 keys are no sample's (such as other.jpg)"]


def test_tags_of_a_parquet_file(tmp_path):
    path = str(tmp_path / "tags.parquet")
    pq.write_table(pa.table({"key": ["1.jpg"], "tags": [["sea", "sun"]]}), path)
    found = Records.concat(tags_from_file([records(None, None)], path))
    assert found == records(None, ["sea", "sun"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "key,tags\na.jpg,sea\n",
            "none of its 1 keys is a sample's (the file has 'a.jpg', the samples '0.jpg'); write",
        ),
        ("path,tags\n0.jpg,sea\n", "has the columns path, tags; it must have key and tags"),
        ("key,tags\n0.jpg,sea\n,sun\n", "row 2 has no key; give every row one"),
        ("key,tags\n0.jpg,sea\n0.jpg,sun\n", "the key '0.jpg' is there twice; give each sample one row"),
    ],
)
def test_a_tag_file_that_does_not_match(write, text, message):
    with pytest.raises(UserError) as caught:
        list(tags_from_file([records(None)], write("tags.csv", text)))
    assert message in str(caught.value)
