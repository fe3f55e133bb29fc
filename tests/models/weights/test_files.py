import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from bsssl.errors import UserError
from bsssl.models import build_model, read_checkpoint, save_model, saved_facts

WEIGHTS = {name: torch.rand(3, generator=torch.Generator().manual_seed(0)) for name in "abcdefgh"}
FACTS = {"model": "net", "classes": ["ä", "b"], "options": {"width": 8}}


def save(path: Path, **facts: Any) -> None:
    save_model(str(path), WEIGHTS, name="net", classes=["ä", "b"], options={"width": 8}, **facts)


def test_weights_and_facts_come_back(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "model.safetensors")
    weights = {"a": torch.rand(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), "b": torch.tensor(7)}
    save_model(path, weights, name="net", classes=["ä", "b"], options={"width": 8})
    checkpoint = read_checkpoint(path)
    assert checkpoint.metadata == saved_facts(path) == FACTS
    assert torch.equal(checkpoint.state["a"], weights["a"]) and torch.equal(checkpoint.state["b"], weights["b"])


def test_equal_weights_make_equal_files(tmp_path: Path) -> None:
    for number in range(5):
        save(tmp_path / f"{number}.safetensors", **{f"fact {number}": "ä" * number for number in range(8)})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_files_of_earlier_versions_have_an_entry_for_each_fact(tmp_path: Path) -> None:
    path, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    metadata = {name: json.dumps(value) for name, value in FACTS.items()}
    path.write_bytes(safetensors.torch.save(WEIGHTS, metadata))
    assert read_checkpoint(str(path)).metadata == saved_facts(str(path)) == FACTS
    save(new)

    def tensors(path: Path) -> bytes:
        content = path.read_bytes()
        return content[8 + int.from_bytes(content[:8], "little") :]

    assert tensors(path) == tensors(new)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"model": "a name, not JSON"}])
def test_files_of_others_have_no_facts(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(safetensors.torch.save(WEIGHTS, metadata))
    assert read_checkpoint(str(path)).metadata == saved_facts(str(path)) == {}
    torch.save(WEIGHTS, tmp_path / "weights.pth")
    assert saved_facts(str(tmp_path / "weights.pth")) == {}


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _overwrite(path: Path) -> None:
    path.write_bytes(b"<html>404</html>" * 100)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _overwrite, _empty])
@pytest.mark.parametrize("name", ["weights.pth", "old.pth", "weights.safetensors"])
def test_damaged_files_are_named(name: str, damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / name
    state = build_model("small_resnet", num_classes=5).state_dict()
    if name.endswith("pth"):
        torch.save(state, path, _use_new_zipfile_serialization=name != "old.pth")
    else:
        path.write_bytes(safetensors.torch.save(state))
    read_checkpoint(str(path))
    damage(path)
    with pytest.raises(UserError, match=f"{name} is damaged or not a file of weights .*fetch it again") as caught:
        read_checkpoint(str(path))
    assert "\n" not in str(caught.value)


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["BSSSL_TRAP"],)


@pytest.mark.parametrize("protocol", ["new", "old"])
def test_code_in_a_file_is_never_run(protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BSSSL_TRAP", str(tmp_path / "sprung"))
    path = str(tmp_path / "trap.pth")
    content = {"state_dict": {"weight": torch.zeros(1)}, "extra": _Trap()}
    torch.save(content, path, _use_new_zipfile_serialization=protocol == "new")
    with pytest.raises(
        UserError,
        match=r"trap\.pth holds Python objects besides weights .posix\.mkdir.*torch\.save",
    ):
        read_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "facts",
    [{"classes": "3"}, {"classes": "[1]"}, {"model": "null"}, {"model": "resnet"}, {"options": "[]"}],
)
def test_facts_that_are_none(facts: dict[str, str], tmp_path: Path) -> None:
    path, said = str(tmp_path / "a.safetensors"), {"model": '"resnet"', "classes": '["a"]', **facts}
    safetensors.torch.save_file({"weight": torch.zeros(1)}, path, said)
    assert saved_facts(path) == {}
    with pytest.raises(UserError, match=r"a\.safetensors is damaged or not a file of weights"):
        read_checkpoint(path)


def test_files_without_weights_and_paths_without_files(tmp_path: Path) -> None:
    path = str(tmp_path / "numbers.pth")
    for content in ({"state_dict": {"epoch": 3}}, [1, 2], {}):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"numbers\.pth has no weights by name"):
            read_checkpoint(path)
    with pytest.raises(UserError, match=r"no such file: .*nowhere"):
        read_checkpoint(str(tmp_path / "nowhere.pth"))
    with pytest.raises(UserError, match="is a folder, not a file; give a file"):
        read_checkpoint(str(tmp_path))
