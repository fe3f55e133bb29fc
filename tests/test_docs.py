"""What the pages say exists: their links lead somewhere, and their commands are ones that the program takes."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from bsssl import __version__, cli
from bsssl.config import Config, Reproduction, Transfer, load_config
from docs.write_settings import PAGE, make_page

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("projects/*/*.md"), *ROOT.glob("*/README.md")]
    if not path.is_symlink()
)
SCHEMAS = {"reproduce": Reproduction, "transfer": Transfer}
NAMES = [str(path.relative_to(ROOT)) for path in PAGES]


def prose(page: Path) -> str:
    """The text of a page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What a link can name in a page: its headings, as code hosts spell them."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(page: Path) -> list[list[str]]:
    """The calls of ``bsssl`` and of the tools in the blocks of a page, as words."""
    text = page.read_text()
    blocks = re.findall(r"^```(?:bash|)\n(.*?)^```|((?:^    .*\n)+)", text, re.MULTILINE | re.DOTALL)
    lines = re.sub(r"\\\n\s*", "", "\n".join(fenced or indented for fenced, indented in blocks)).splitlines()
    words = [
        shlex.split(line, comments=True) for line in lines if re.match(r"\s*(\.venv/bin/)?(bsssl |python tools/)", line)
    ]
    return [[Path(first).name, *others] for first, *others in words]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} is not there"
        assert not anchor or anchor in anchors(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_are_ones_that_the_program_takes(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for program, *words in commands(page):
        command, arguments = None, words
        if program == "python":
            (command,) = re.findall(r'command="([\w ]+)"', Path(words[0]).read_text())
            arguments = words[1:]
        parsed = cli._parse(cli._parser(command), arguments)  # ends the test where it does not go
        name, config = command or parsed.command, getattr(parsed, "config", None)
        if config and name != "sweep" and Path(config).exists():  # the values of a sweep are lists
            load_config(config, getattr(parsed, "overrides", []), SCHEMAS.get(name, Config))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_that_are_mentioned_are_there(page):
    known = {name.split()[0] for name in cli.COMMANDS}
    assert {*re.findall(r"`bsssl ([a-z]+)\b", prose(page))} <= known


def test_there_is_a_page_with_commands():
    assert sum(len(commands(page)) for page in PAGES) > 25


def test_the_settings_are_those_of_the_schema():
    assert PAGE.read_text() == make_page(), "write them anew: make docs"


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__ and citation["preferred-citation"]["url"].endswith("1905.00546")
