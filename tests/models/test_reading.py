"""Files that are cut, of another kind, or no files are refused in a sentence that names them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from latentmix.models.reading import damaged, one_sentence, open_regular, read_json, read_tensors, read_text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    for read in (lambda path: open_regular(path), lambda path: read_json(path, "figures"), read_tensors):
        with pytest.raises(ValueError, match=r"^Expected a regular file; got a named pipe in .*pipe\.json\.$"):
            read(tmp_path / "pipe.json")


@pytest.mark.parametrize(("path", "kind"), [("/dev/null", "a device"), ("/", "a folder")])
def test_devices_and_folders_are_refused(path: str, kind: str) -> None:
    with pytest.raises(ValueError, match=f"Expected a regular file; got {kind} in {path}"):
        open_regular(Path(path))


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "an empty file"),
        (b'{"a": ', r"no JSON \(Expecting value"),
        (b"\xff\xfe\x00", "no UTF-8 at byte 0"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 10_000, "no JSON"),
    ],
)
def test_broken_json_is_refused(tmp_path: Path, content: bytes, cause: str) -> None:
    file = tmp_path / "summary.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"Expected figures in .*summary\.json; got .*{cause}"):
        read_json(file, "figures")


def test_a_text_beyond_the_limit_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long").write_text("x" * 2000)
    with pytest.raises(ValueError, match=r"Expected words of at most 0\.000976562 MiB in .*long; got more"):
        read_text(tmp_path / "long", "words", most=1024)


@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.95])
def test_truncated_safetensors_are_refused(tmp_path: Path, kept: float) -> None:
    file = tmp_path / "vae.safetensors"
    save_file({"weight": torch.zeros(40)}, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    with pytest.raises(ValueError, match=r"Expected safetensors in .*vae\.safetensors; got .*: restore the file"):
        read_tensors(file)


def test_a_part_of_a_state_has_its_own_error_and_remedy() -> None:
    def block(error: Exception) -> str:
        with pytest.raises(UnicodeError) as caught, damaged("the state", "counters", remedy="begin anew", kind=Own):
            raise error
        return str(caught.value)

    assert block(KeyError("epoch")) == "Expected counters in the state; got none with 'epoch': begin anew."
    assert block(ValueError("Expected 3 in the state; got 4.")) == "Expected 3 in the state; got 4."
    assert block(ValueError("Expected 3; got 4.")) == "the state: Expected 3; got 4."
    assert block(Own("Expected 3 in the state; got 4.")) == "Expected 3 in the state; got 4."


class Own(UnicodeError):
    """An error of one kind of state."""


@pytest.mark.parametrize(
    ("action", "cause"),
    [
        (lambda: {}["epochs"], "got none with 'epochs'"),
        (lambda: iter(3), "got other values:"),
        (lambda: int("many"), r"got other values \(invalid literal"),
        (lambda: [][3], "got other values:"),
    ],
)
def test_errors_on_unexpected_values_name_the_file(action, cause: str) -> None:
    with (
        pytest.raises(ValueError, match=f"Expected figures in summary.json; {cause}"),
        damaged(Path("summary.json"), "figures"),
    ):
        action()


def test_an_error_of_the_system_is_worded_by_its_cause() -> None:
    assert one_sentence(OSError(2, "No such file or directory", "a.png")) == "No such file or directory"
    assert one_sentence(OSError("image file is truncated")) == "image file is truncated"
    assert one_sentence(MemoryError()) == "MemoryError"
