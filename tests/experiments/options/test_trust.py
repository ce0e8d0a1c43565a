"""What a configuration may import, checked before anything is."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from latentmix.experiments.data.datasets import Data
from latentmix.experiments.options.command_line import parse_experiment, parse_settings
from latentmix.experiments.options.trust import check_imports, named_modules, trusted_modules

HELPERS = """
import pathlib
(pathlib.Path(__file__).parent / "imported").touch()
from latentmix.models import StandardNormal
class P(StandardNormal):
    pass
"""


@pytest.fixture
def helpers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of a name of its own in the working folder; a file `imported` appears when it is imported."""
    (tmp_path / "own_helpers.py").write_text(HELPERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("LATENTMIX_CONFIG", str(tmp_path / "mine.yaml"))
    monkeypatch.delitem(sys.modules, "own_helpers", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "config",
    [
        {"prior": {"class_path": "own_helpers.P"}},
        {"prior": "own_helpers.P"},
        {"prior.class_path": "own_helpers.P"},
        {"prior": "{class_path: own_helpers.P}"},
        {"prior": " own_helpers.P "},
        {
            "decoder": {
                "class_path": "latentmix.models.MLPDecoder",
                "init_args": {"inner": {"class_path": "own_helpers.P"}},
            }
        },
        {"decoder": {"class_path": "latentmix.models.MLPDecoder", "init_args": {"activation": "own_helpers.P"}}},
        {"decoder": {"class_path": "latentmix.models.MLPDecoder", "dict_kwargs": {"a": ["own_helpers.P"]}}},
        {"optimizer": "own_helpers.P"},
        {"optimizer": "os.system"},
        {"optimizer": {"class_path": "builtins.eval"}},
        {"scheduler": "subprocess.Popen"},
        {"objective": {"class_path": "latentmix.models.files.os.system"}},
        {"optimizer": "torch.optim.adam.torch.hub.load"},
        {"prior": {"class_path": "latentmix.experiments.runs.artifacts.RunFolder"}},
        {"prior": {"class_path": "latentmix.experiments.__main__.main"}},
        {"mixture": {"svi": {"optimizer": "own_helpers.P"}}},
        {"mixture": "{svi: {optimizer: own_helpers.P}}"},
        {"data": "own_helpers.P"},
        {"data": {"source": {"class_path": "own_helpers.P"}}},
        {"measure": "inner.yaml"},
        {"prior": {"class_path": "℘.P"}},
        {"prior": "own_helpers.P()"},
        {"prior": "own_helpers.P 3"},
        {"prior": "MixturePrior(2, own_helpers.P)"},
        {"optimizer": "own_helpers.P/"},
        {"name": (names := ["own_helpers.P"]), "optimizer": names},
        {"config": "inner.yaml"},
    ],
    ids=str,
)
def test_code_of_other_modules_is_refused_and_not_imported(
    helpers: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    (helpers / "inner.yaml").write_text("prior: own_helpers.P")
    with pytest.raises(
        ValueError, match=r"modules that you trust, in config.yaml; got .*: if you know it .* --trust \S+"
    ):
        check_imports(config, Path("config.yaml"))
    (helpers / "own.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="if you know it and trust it"):
        parse_experiment("own.yaml", [])
    monkeypatch.chdir("/")
    with pytest.raises(ValueError, match="if you know it and trust it"):
        parse_experiment(str(helpers / "own.yaml"), [])
    assert not (helpers / "imported").exists()


@pytest.mark.parametrize(
    "config",
    [
        {"prior": {"class_path": "latentmix.models.StandardNormal"}, "optimizer": "torch.optim.SGD"},
        {"scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR"}, "objective": "pyro.infer.Trace_ELBO"},
        {"prior": {"class_path": "latentmix.models.priors.StandardNormal"}},
        {"prior": "StandardNormal", "description": "own_helpers.P", "name": "own_helpers.P"},
        {"data": {"columns": ["time.start"], "classes": ["own_helpers.P"]}, "config": "own/sys.path"},
        {"data": {"source": "images.npy", "root": "own_helpers.P"}, "init_from": "runs.one"},
        {"encoder": {"class_path": "latentmix.guides.MLPEncoder", "init_args": {"name": "weights.npy"}}},
        None,
        [],
        {3: None},
    ],
    ids=str,
)
def test_own_classes_and_texts_pass(helpers: Path, config: Any) -> None:
    check_imports(config, Path("config.yaml"))
    assert not (helpers / "imported").exists()


def test_files_of_settings_are_checked_too(helpers: Path) -> None:
    (helpers / "data.yaml").write_text("class_path: own_helpers.P")
    for words in (["--data", "data.yaml"], ["--data=data.yaml"]):
        with pytest.raises(ValueError, match="if you know it and trust it"):
            parse_settings(Data, words, prefix="data")
        with pytest.raises(ValueError, match="if you know it and trust it"):
            parse_experiment("digits", words)
    (helpers / "data.yaml").write_text("source: own_helpers.P")
    check_imports({"source": "own_helpers.P"}, Path("data.yaml"), option="data")
    assert not (helpers / "imported").exists()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"#" + b"x" * 17 * 2**20 + b"\nclass_path: own_helpers.P", "at most 16 MiB in inner.yaml; got more"),
        ("# \xe9\nclass_path: own_helpers.P".encode("latin-1"), "got bytes that are no UTF-8"),
        (None, "Expected a regular file; got a named pipe in inner.yaml"),
    ],
    ids=["large", "Latin-1", "pipe"],
)
def test_files_that_cannot_be_checked_are_not_read_by_the_option_parser(
    helpers: Path, content: bytes | None, cause: str
) -> None:
    if content is None:
        os.mkfifo(helpers / "inner.yaml")
    else:
        (helpers / "inner.yaml").write_bytes(content)
    for config in (
        {"prior": "inner.yaml"},
        {"decoder": "inner.yaml"},
        {"mixture": {"svi": "inner.yaml"}},
    ):
        with pytest.raises(ValueError, match=cause):
            check_imports(config, Path("config.yaml"))
    for words in (["--prior", "inner.yaml"], ["--config", "inner.yaml"], ["--data=inner.yaml"]):
        with pytest.raises(ValueError, match=cause):
            parse_experiment("digits", words)
    with pytest.raises(ValueError, match=cause):
        parse_settings(Data, ["--data", "inner.yaml"], prefix="data")
    assert not (helpers / "imported").exists()


def test_folders_of_the_name_of_a_value_are_no_files_of_options(helpers: Path) -> None:
    (helpers / "StandardNormal").mkdir()
    assert (
        parse_experiment("digits", ["--prior", "StandardNormal"]).prior.class_path == "latentmix.models.StandardNormal"
    )


def test_aliases_of_yaml_end(helpers: Path) -> None:
    check_imports(yaml.safe_load("a: &a [*a]\nb: &b {c: *b}"), Path("config.yaml"))
    bomb = "a0: &a0 [x]\n" + "\n".join(f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]" for k in range(30))
    check_imports(yaml.safe_load(bomb), Path("config.yaml"))


def test_trusted_modules_pass_and_typed_words_are_trusted(helpers: Path) -> None:
    (helpers / "own.yaml").write_text("prior: own_helpers.P")
    config = {"prior": {"class_path": "own_helpers.P"}}
    check_imports(config, Path("config.yaml"), ("own_helpers",))
    with pytest.raises(ValueError, match=r"got own_helpers\.P"):
        check_imports(config, Path("config.yaml"), ("own", "own_helpers.inner"))
    with pytest.raises(ValueError, match=r"module missing_module .* run the command in its folder"):
        check_imports({"prior": {"class_path": "missing_module.P"}}, Path("config.yaml"), ("missing_module",))
    assert not (helpers / "imported").exists()
    assert parse_experiment("digits_mlp2", ["--prior", "own_helpers.P"]).prior.class_path == "own_helpers.P"
    assert (helpers / "imported").exists()


def test_the_users_configuration_lists_modules(helpers: Path) -> None:
    assert trusted_modules() == ()
    (helpers / "mine.yaml").write_text("trust: [own_helpers, other]")
    assert trusted_modules(["a,b.c", "other"]) == ("a", "b.c", "other", "own_helpers")
    for text in ("trust: own_helpers", "[]]", "trust: [3]", "- 3"):
        (helpers / "mine.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"Expected (`trust: \[module, ...\]` in )?your configuration"):
            trusted_modules()
    for text in ("", "# nothing yet", "trust:"):
        (helpers / "mine.yaml").write_text(text)
        assert trusted_modules() == ()
    (helpers / "mine.yaml").unlink()
    with pytest.raises(ValueError, match="got 'a/b'"):
        trusted_modules(["a/b"])


def test_typed_modules_are_those_of_classes() -> None:
    words = ["--prior", "mine.Prior(inner=yours.parts.Q)", "--lr=0.1", "--data.source", "images.npy", "--optimizer"]
    assert named_modules([*words, "torch.optim.SGD", "--out", "runs/a.b"]) == ["mine", "yours.parts"]
