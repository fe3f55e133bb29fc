"""The report in a real browser: a headless Chromium, where there is one."""

import csv
import io
import itertools
import json
import shutil

import pytest
import yaml
from sklearn.datasets import load_digits

from bsssl.data.datasets.generated import MovingDigits
from bsssl.selection import read_selection
from tests.reports.browser import NAMES, Page, find_browser
from tests.reports.conftest import ODD_NAMES, call

pytestmark = pytest.mark.skipif(find_browser() is None, reason=f"there is no browser: none of {', '.join(NAMES)}")
PICTURE = "[...document.images].some((image) => image.naturalWidth > 0)"
SCRIPT = f"document.getElementById('class-{sorted(ODD_NAMES).index(ODD_NAMES[0])}')"


@pytest.fixture(scope="module")
def window():
    with Page() as page:
        yield page


@pytest.fixture
def page(window, odd):
    window.events.clear()
    window.open(odd / "report.html", until=PICTURE)
    return window


def marked(page):
    """The exclusion list of the page, as rows."""
    rows = csv.DictReader(io.StringIO(page.run("document.getElementById('exclusions').value")))
    return [(row["key"], row["class"]) for row in rows]


def test_the_page_opens_without_a_complaint_and_asks_for_nothing(page):
    assert page.troubles() == []
    assert page.run("document.documentElement.dataset.ready") == "yes"
    assert (
        page.run("performance.getEntriesByType('resource').filter((one) => !one.name.startsWith('data:')).length") == 0
    )


def test_names_that_try_to_be_markup_are_text(page):
    assert page.run("document.title") == "Report: run"
    assert page.run(f"{SCRIPT}.textContent") == ODD_NAMES[0]
    assert page.run(f"{SCRIPT}.childElementCount") == 0
    assert page.run("[...document.querySelectorAll('h3')].every((one) => one.textContent.length <= 100)")


def test_injected_scripts_do_not_run(page):
    page.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"document.title=1\">')")
    made = "Object.assign(document.createElement('script'), { textContent: 'document.title=2' })"
    page.run(f"document.body.append({made})")
    assert page.run("document.title") == "Report: run"


def test_picks_are_marked_by_keyboard_and_exported(page):
    page.run("document.querySelector('.class button.pick').focus()")
    key = json.loads(page.run("document.activeElement.dataset.mark"))
    page.press(" ", code=32, text=" ")
    assert page.run("document.activeElement.getAttribute('aria-pressed')") == "true"
    names = page.run("JSON.parse(document.getElementById('data').textContent).classes")
    assert not page.run("document.getElementById('marks').hidden")
    assert marked(page) == [(key[0], names[key[1]])]
    page.run(f"{SCRIPT}.closest('article').querySelector('header button').click()")
    assert marked(page)[1] == ("", ODD_NAMES[0])
    assert page.run("document.getElementById('marked').textContent") == "1 picture and 1 class marked"
    page.run("document.getElementById('everywhere').click()")
    assert marked(page)[0] == (key[0], "")
    page.reload()
    page.wait("document.getElementById('marked').textContent === '1 picture and 1 class marked'")  # they are kept
    page.run("document.getElementById('clear').click()")
    assert marked(page) == [] and page.run("document.getElementById('marks').hidden")


def test_the_slider_goes_over_the_ranks_by_keyboard(page):
    page.run("document.querySelector('.class details').open = true")
    page.wait("document.querySelector('.class input[type=range]')")
    page.run("document.querySelector('.class input[type=range]').focus()")
    before = page.run("document.activeElement.getAttribute('aria-valuetext')")
    page.press("ArrowRight", code=39)
    after = page.run("document.activeElement.getAttribute('aria-valuetext')")
    assert before.startswith("rank 1 of 6, score ") and after.startswith("rank 2 of 6, score ")
    assert page.run("document.querySelector('.class details .pick .line').textContent").startswith("2 · ")
    assert page.run("document.querySelectorAll('.class details svg polyline').length") >= 2


def test_filters_by_class_and_by_score(page):
    page.run("document.getElementById('filter-class').focus()")
    for letter in "script":
        page.press(letter, code=ord(letter.upper()), text=letter)
    page.wait("document.getElementById('filtered').textContent.startsWith('1 of 3 classes')")
    page.run("document.querySelector('#filters [type=reset]').click()")
    page.wait("document.getElementById('filtered').textContent.startsWith('3 of 3 classes')")
    page.run("document.getElementById('filter-low').focus()")
    for letter in "0.9999":
        page.press(letter, code=ord(letter), text=letter)
    page.wait("document.getElementById('filtered').textContent.includes('picks that have a picture')")
    scores = page.run(
        "[...document.querySelectorAll('#gallery .pick .line:first-child')].map((one) => one.textContent)"
    )
    assert all(score.endswith("1.000") for score in scores)


def test_wrong_picks_alone(page):
    picks = page.run("JSON.parse(document.getElementById('data').textContent).picks")
    wrong = sum(of["right"].count(False) for of in picks)
    page.run("document.getElementById('filter-wrong').click()")
    assert page.run("document.querySelectorAll('#gallery .pick').length") == wrong


def test_a_cell_of_the_confusion_matrix_opens_its_pictures(page):
    page.run("document.querySelector('#matrix button').click()")
    assert not page.run("document.getElementById('cell').hidden")
    assert page.run("document.activeElement.id") == "cell"
    page.wait("[...document.querySelectorAll('#cell img')].some((image) => image.naturalWidth > 0)")


def test_the_table_of_classes_is_sorted_by_its_headers(page):
    page.run("document.querySelector('#class-table thead button').click()")
    assert page.run("document.querySelector('#class-table th').getAttribute('aria-sort')") == "ascending"
    names = page.run("[...document.querySelectorAll('#class-table tbody th')].map((one) => one.textContent)")
    page.run("document.querySelector('#class-table thead button').click()")
    assert (
        page.run("[...document.querySelectorAll('#class-table tbody th')].map((one) => one.textContent)") == names[::-1]
    )


def test_light_and_dark(page):
    grounds = []
    for scheme in ("light", "dark"):
        page.prefer(color_scheme=scheme)
        grounds.append(page.run("getComputedStyle(document.body).backgroundColor"))
    page.prefer(color_scheme="light")
    assert grounds == ["rgb(255, 255, 255)", "rgb(20, 23, 28)"]


@pytest.mark.parametrize("width", [360, 768, 1600])
def test_no_width_scrolls_sideways(page, width):
    page.resize(width, 800)
    assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
    page.resize(1200, 900)


def test_screen_readers_are_told_everything(page):
    page.run("for (const one of document.querySelectorAll('details')) one.open = true")
    page.run("document.querySelector('#matrix button').click()")
    assert page.run("document.querySelectorAll('h1').length") == 1
    assert page.run("[...document.images].every((image) => image.hasAttribute('alt'))")
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    for node in tree:
        role, name = node.get("role", {}).get("value"), node.get("name", {}).get("value", "")
        if role in ("button", "link", "slider", "combobox", "checkbox", "spinbutton", "searchbox", "textbox", "region"):
            assert name.strip() or node.get("ignored"), node
    roles = {node.get("role", {}).get("value") for node in tree}
    assert {"main", "navigation", "slider", "search", "status", "columnheader", "rowheader"} <= roles
    levels = page.run("[...document.querySelectorAll('h1,h2,h3,h4')].map((one) => Number(one.tagName[1]))")
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_the_exported_list_is_what_a_selection_takes(page, odd, tmp_path):
    page.run("[...document.querySelectorAll('.class button.pick')].slice(0, 3).forEach((one) => one.click())")
    (tmp_path / "exclude.csv").write_text(page.run("document.getElementById('exclusions').value"))
    out = set(marked(page))
    run = shutil.copytree(odd, tmp_path / "run")
    arguments = [f"output_dir={run}", f"select.exclude={tmp_path / 'exclude.csv'}"]
    call("select", "--config", odd.parent / "odd.yaml", *arguments)
    chosen = read_selection(str(run / "seed-0" / "select" / "selection.parquet"))
    names = chosen.facts["class_names"]
    left = {(row["key"], names[row["class"]]) for row in chosen.table.to_pylist()}
    assert (
        len(out) == 3
        and not out & left
        and len(left) == len(read_selection(str(odd / "seed-0/select/selection.parquet")))
    )


@pytest.fixture(scope="module")
def video_report(tmp_path_factory):
    """The report of a recipe of one step on 24 moving digits."""
    folder, loaded = tmp_path_factory.mktemp("videos"), load_digits()
    source = MovingDigits(path=str(folder), split="train")
    for number, (name, content) in enumerate(source.members(range(24), loaded.images, loaded.target)):
        path = folder / ("train" if number < 18 else "test") / str(number % 2) / name.replace("/", "-")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    network = {"name": "small_r2plus1d", "options": {"width": 4, "blocks": [1], "stem_stride": 2}}
    short = {"length": "1 steps", "batch_size": 4, "base_lr": 0.1, "warmup": "0 steps"}
    values = {
        "output_dir": str(folder / "run"),
        "data": {
            **{part: {"dataset": "folder", "path": str(folder / part)} for part in ("train", "test")},
            "labels_per_class": 2,
            "transforms": {"size": 16, "train_crop": "short_side", "flip": False},
            "clips": {"frames": 2, "stride": 2, "test_clips": 1, "score_clips": 1},
        },
        "models": {"teacher": network, "student": network},
        **dict.fromkeys(("teacher", "baseline", "pretrain", "finetune"), short),
        "score": {"top_p": 1},
        "select": {"top_k": 3},
        "system": {"device": "cpu", "threads": 1, "workers": 0},
    }
    (folder / "video.yaml").write_text(yaml.safe_dump(values))
    call("run", "--config", folder / "video.yaml")
    return folder / "run" / "report.html"


def test_videos_move_until_they_are_stopped(window, video_report):
    window.open(video_report, until=PICTURE)
    assert window.run("document.querySelectorAll('#gallery canvas').length") == 0
    window.run("document.getElementById('still').click()")
    assert window.run("document.querySelectorAll('#gallery canvas').length") > 0
    assert window.run("document.querySelector('#gallery canvas').previousElementSibling.offsetParent") is None
    window.run("document.getElementById('still').click()")
    assert window.run("document.querySelectorAll('#gallery canvas').length") == 0


def test_videos_stand_still_for_who_prefers_that(window, video_report):
    window.prefer(reduced_motion="reduce")
    window.open(video_report, until="document.querySelectorAll('#gallery canvas').length > 0")
    assert window.run("document.getElementById('still').getAttribute('aria-pressed')") == "true"
    window.prefer(reduced_motion="no-preference")
