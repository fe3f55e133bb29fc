"""Take the screenshots of reports in README.md, of the runs that the two quickstarts leave in outputs/.

    python -m docs.take_screenshots

It takes a Chromium.
"""

import io
from pathlib import Path

from PIL import Image

from bsssl.reports.page.opening import open_run
from bsssl.reports.page.writing import write_page
from tests.reports.browser import Page

FOLDER = Path(__file__).parent
WIDTH, PHONE, HEIGHT = 1000, 360, 720


def take(page: Page, name: str, section: str) -> None:
    """Write what the window shows of a section as ``docs/NAME.webp``."""
    page.run(f"document.getElementById('{section}').scrollIntoView({{behavior: 'instant'}})")
    page.wait("[...document.images].every((image) => !image.src || image.complete)")
    page.run("new Promise((done) => setTimeout(done, 500))")
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.convert("RGB").save(FOLDER / f"{name}.webp", quality=70, method=6)


def main() -> None:
    """Take all of them."""
    runs = {name: Path("outputs") / name for name in ("quickstart", "quickstart_video")}
    for run in runs.values():
        write_page(open_run(str(run)), str(run / "report.html"))
    with Page(width=WIDTH, height=HEIGHT) as page:
        page.prefer(color_scheme="light")
        page.open(runs["quickstart"] / "report.html")
        take(page, "report_verdict", "main")
        page.run("[...document.querySelectorAll('.class .pick')].slice(2, 4).forEach((one) => one.click?.())")
        page.run("document.querySelectorAll('.class details')[1].open = true")
        take(page, "report_selection", "selection")
        page.run("document.getElementById('clear').click()")
        page.run("document.querySelector('#confused button').click()")
        take(page, "report_confusion", "confusion")
        page.resize(PHONE, HEIGHT)
        page.prefer(color_scheme="dark", reduced_motion="reduce")
        page.open(runs["quickstart_video"] / "report.html")
        take(page, "report_video_phone", "gallery")


if __name__ == "__main__":
    main()
