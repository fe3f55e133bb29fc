import sys

from PIL import Image

from bsssl.reports.plots import picture


def test_a_picture_of_two_axes(tmp_path):
    before = set(sys.modules)
    with picture(str(tmp_path / "curve.png"), size=(6, 2), columns=2) as (left, right):
        left.plot([1, 2], [3, 4])
        right.plot([1, 2], [4, 3])
    with Image.open(tmp_path / "curve.png") as drawn:
        assert drawn.format == "PNG" and drawn.size == (720, 240)
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]
    assert "matplotlib.pyplot" not in set(sys.modules) - before  # its backend is the user's
