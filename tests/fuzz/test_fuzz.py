"""A short run of what ``make fuzz`` does for as long as one likes: the same inputs every time."""

import os

import pytest

from tests.fuzz.kinds import KINDS, kind

INPUTS = 80


@pytest.mark.parametrize("name", KINDS)
def test_damaged_input_is_refused_in_a_line_or_read(name, tmp_path):
    refused = 0
    for seed in range(INPUTS):
        folder = tmp_path / str(seed)
        folder.mkdir()
        refused += kind(name).try_out(*kind(name).damaged(seed), folder) == "refused"
    assert refused > INPUTS / 5, "the inputs are hardly damaged"


@pytest.mark.parametrize("name", KINDS)
def test_what_is_whole_is_read(name, tmp_path):
    for number, (file, content, _) in enumerate(kind(name).originals):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert kind(name).try_out(file, content, folder) == "read", file


PLACES = {
    "nothing": lambda path: None,
    "an empty file": lambda path: path.write_bytes(b""),
    "a folder": lambda path: path.mkdir(),
    "a pipe": os.mkfifo,
    "a link to itself": lambda path: path.symlink_to(path),
    "a device": lambda path: path.symlink_to("/dev/null"),
}
BY_PATH = [name for name in KINDS if name not in ("override", "model folder", "picture")]


@pytest.mark.parametrize("name", BY_PATH)
@pytest.mark.parametrize("place", PLACES)
def test_what_is_no_file_is_refused(name, place, tmp_path):
    for number, file in enumerate({file for file, _, _ in kind(name).originals}):
        folder = tmp_path / str(number)
        folder.mkdir()
        PLACES[place](folder / file)
        assert kind(name).try_at(folder / file) == "refused", file
