import pytest

from bsssl.reports.tables import Table

TABLE = Table(["", "top-1 %", "C"], [["baseline", "80.0", 0.3], ["a | b <i>", 7, ""]], ["seeds: 0 & 1"], caption="here")


def test_text_lines_columns_up_without_trailing_spaces():
    assert Table(["key", "n"], [["a", 10], ["longer", 2]], ["a note"]).text() == (
        "key     n\na       10\nlonger  2\na note"
    )


def test_text_aligns_the_columns_that_are_said_to_the_right():
    assert Table(["", "n", "m"], [["a", 10, "x"]], right=[1]).text().splitlines()[1] == "a  10  x"
    assert Table(["", "first", "m"], [["a", 10, "x"]], right=[1]).text().splitlines()[1] == "a     10  x"


def test_a_table_without_rows_is_its_header():
    assert Table(["a", "b"], []).text() == "a  b"


def test_markdown():
    assert TABLE.markdown() == (
        "here:\n\n|  | top-1 % | C |\n|---|---:|---:|\n| baseline | 80.0 | 0.3 |\n| a \\| b <i> | 7 |  |\n\n"
        "seeds: 0 & 1  \n"
    )


def test_html_is_escaped():
    assert TABLE.html() == (
        "<table>\n<caption>here</caption>\n<tr><th></th><th>top-1 %</th><th>C</th></tr>\n"
        "<tr><td>baseline</td><td>80.0</td><td>0.3</td></tr>\n<tr><td>a | b &lt;i&gt;</td><td>7</td><td></td></tr>\n"
        "</table>\n<p>seeds: 0 &amp; 1</p>"
    )


def test_the_rows_of_a_csv_file_keep_their_types():
    assert TABLE.csv_rows() == [["", "top-1 %", "C"], ["baseline", "80.0", 0.3], ["a | b <i>", 7, ""]]


def test_rows_of_another_length_are_no_table():
    with pytest.raises(ValueError):
        Table(["a", "b"], [["only one"]]).text()
