"""Files of options beyond the limits, with keys twice, or of other values are refused in a sentence."""

from __future__ import annotations

import re
import time
from argparse import ArgumentError
from pathlib import Path

import pytest

from latentmix.experiments.cli import main
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.reading.options import read_options

LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{now}: &{now} [{','.join([f'*{before}'] * 9)}]\n" for before, now in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "an empty file"),
        (b"[1, 2]", "a list"),
        (b"words", "a word"),
        (b"3", "a single value"),
        (b"\xff\xfe\x00", "bytes that are no UTF-8 at byte 0"),
        (b"[" * 50_000, "in line 1, column .*nested more than 100 levels deep"),
        (b"- " * 5_000, "in line 1, column .*nested more than 100 levels deep"),
        (b"epochs: 3\nepochs: 5", "in line 2, column 1: 'epochs' twice"),
        (b"data: {seed: 1, seed: 2}", "in line 1, column 17: 'seed' twice"),
        (b"1: 2", "in line 1, column 1: '1' where a name belongs"),
        (b"null: 2", "'null' where a name belongs"),
        (b"? [a]\n: 2", "a list or a mapping where a name belongs"),
        (b"a: !!python/object/apply:os.system ['true']", "the tag 'tag:yaml.org,2002:python/object"),
        (b"a: !!binary aGVsbG8=", "the tag 'tag:yaml.org,2002:binary'"),
        (b"a: &a [*a]", r"\*a before or within &a"),
        (b"a: ]", "in line 1"),
        (b"a: \x08", r"the character U\+0008 at position 3, which YAML does not allow\.$"),
        (b"a: 1\n---\nb: 2", "another document"),
        (b"a: " + b"9" * 5000, "a value that is none"),
        (LAUGHS.encode(), "more than 100,000 values, aliases counted where they stand"),
    ],
)
def test_what_is_no_file_of_options_is_refused(tmp_path: Path, content: bytes, cause: str) -> None:
    file = tmp_path / "options.yaml"
    file.write_bytes(content)
    began = time.perf_counter()
    with pytest.raises(ValueError, match=rf"Expected options by their names in .*options\.yaml; got .*{cause}"):
        read_options(file)
    assert time.perf_counter() - began < 5


def test_anchors_and_merges_of_a_usual_size_are_read(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("base: &base {epochs: 3, seed: 1}\nmine: {<<: *base, seed: 2}\nday: 2024-99-99\n")
    assert read_options(file)["mine"] == {"epochs": 3, "seed": 2}
    assert read_options(file)["day"] == "2024-99-99"


def test_aliases_within_a_word_of_options_are_bounded(tmp_path: Path) -> None:
    for words in (["--mixture", LAUGHS], ["--encoder", LAUGHS], ["--encoder.hidden", LAUGHS]):
        began = time.perf_counter()
        with pytest.raises((ValueError, ArgumentError)):
            parse_experiment("digits", words)
        assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("{class_path: 3}", r"Expected a word as encoder\.class_path; got 3"),
        ("{class_path: latentmix.guides.MLPEncoder, init_args: 7}", r"Expected a mapping as encoder\.init_args; got 7"),
        ("{class_path: {class_path: 3}}", r"Expected a word as encoder\.class_path; got"),
    ],
)
def test_classes_of_other_values_are_refused(tmp_path: Path, part: str, message: str) -> None:
    (tmp_path / "options.yaml").write_text(f"encoder: {part}\n")
    with pytest.raises(ValueError, match=message):
        parse_experiment(str(tmp_path / "options.yaml"), [])


def test_an_option_of_any_command_raises_the_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tmp_path / "many.yaml"
    many.write_text(f"unknown: [{'0,' * 1001}]\n")
    long = tmp_path / "long.yaml"
    long.write_text(f"# {' ' * 2**21}\nunknown: 1\n")
    monkeypatch.setenv("LATENTMIX_MAX_YAML_MIB", "1")
    monkeypatch.setenv("LATENTMIX_MAX_YAML_VALUES", "1000")
    for file, option, most in ((many, "--max_yaml_values", 2000), (long, "--max_yaml_mib", 4)):
        assert main(["run", str(file)]) == 2
        assert f"allow more by {option}." in capsys.readouterr().err
        assert main(["run", str(file), f"{option}={most}"]) == 2
        assert "unknown" in capsys.readouterr().err
        for wrong in ("many", "0", "-1", "1.5", ""):
            assert main(["run", str(file), option, wrong]) == 2
            assert re.match(r"latentmix: Expected a whole number above 0 .*; got .*\.\n$", capsys.readouterr().err)
