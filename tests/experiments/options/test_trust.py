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
from latentmix.experiments.options.trust import configuration_file, importing, named_modules, trusted_modules

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


ASKED = [
    {"prior": {"class_path": "own_helpers.P"}},
    {"prior": "own_helpers.P"},
    {"prior.class_path": "own_helpers.P"},
    {"prior": "{class_path: own_helpers.P}"},
    {"prior": '{class_path: "own\\x5fhelpers.P"}'},
    {"optimizer": "own_helpers.P"},
    {"optimizer": "os.system"},
    {"optimizer": {"class_path": "builtins.eval"}},
    {"scheduler": "subprocess.Popen"},
    {"scheduler": {"class_path": "own_helpers.P", "init_args": {}}},
    {"objective": {"class_path": "latentmix.models.files.os.system"}},
    {
        "objective": {
            "class_path": "pyro.infer.Trace_ELBO",
            "init_args": {"num_particles": {"class_path": "own_helpers.P"}},
        }
    },
    {
        "objective": {
            "class_path": "pyro.infer.Trace_ELBO",
            "init_args": {"num_particles": [{"class_path": "own_helpers.P"}]},
        }
    },
    {"objective.init_args.retain_graph": "{a: {class_path: own_helpers.P}}"},
    {"optimizer": "torch.optim.adam.torch.hub.load"},
    {"prior": {"class_path": "latentmix.experiments.runs.artifacts.RunFolder"}},
    {"prior": {"class_path": "latentmix.experiments.__main__.main"}},
    {"mixture": {"svi": {"optimizer": "own_helpers.P"}}},
    {"mixture": "{svi: {optimizer: own_helpers.P}}"},
    {"mixture.svi": {"optimizer": {"class_path": "own_helpers.P"}}},
    {"data": {"class_path": "own_helpers.P"}},
    {"prior": {"class_path": "℘.P"}},
    {"prior": "inner.yaml"},
    {"prior": "word.yaml"},
    {"prior": "folder/relative.yaml"},
    {"prior": "folder/../word.yaml"},
    {"prior": "link.yaml"},
    {"prior": "~/word.yaml"},
    {"mixture": {"svi": "~/svi.yaml"}},
    {"data": "inner.yaml"},
]
OTHER = [
    {"decoder": {"class_path": "latentmix.models.MLPDecoder", "init_args": {"activation": "own_helpers.P"}}},
    {"prior": "'own_helpers.P'"},
    {"decoder": {"class_path": "latentmix.models.MLPDecoder", "init_args": {"inner": {"class_path": "own_helpers.P"}}}},
    {"data": "own_helpers.P"},
    {"data": {"source": {"class_path": "own_helpers.P"}}},
    {"measure": "inner.yaml"},
    {"prior": "own_helpers.P()"},
    {"prior": "own_helpers.P 3"},
    {"prior": "MixturePrior(2, own_helpers.P)"},
    {"optimizer": "own_helpers.P/"},
    {"name": (names := ["own_helpers.P"]), "optimizer": names},
    {"config": "inner.yaml"},
    {"config+": "inner.yaml"},
    {"prior": "file:///proc/self/cwd/word.yaml"},
    {"__default_config__": "inner.yaml", "prior.help": "own_helpers.P"},
    {"mixture": "{svi: svi.yaml}"},
    {"prior": "loop.yaml"},
    {"": {"name": "own_helpers.P"}},
    {"mixture": {"svi": {"guide": "own_helpers.P"}}},
]


@pytest.fixture
def files(helpers: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of options beside the module, that name a class of it."""
    monkeypatch.setenv("HOME", str(helpers))
    (helpers / "folder").mkdir()
    for name, text in {
        "inner.yaml": "class_path: own_helpers.P",
        "word.yaml": "own_helpers.P",
        "svi.yaml": "optimizer: own_helpers.P",
        "loop.yaml": "loop.yaml",
        "folder/relative.yaml": "../word.yaml",
    }.items():
        (helpers / name).write_text(text)
    (helpers / "link.yaml").symlink_to(helpers / "word.yaml")
    return helpers


@pytest.mark.parametrize("config", [*ASKED, *OTHER], ids=str)
def test_code_of_other_modules_is_refused_and_not_imported(
    files: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any]
) -> None:
    cause = (
        r"modules that you trust, in \S*own.yaml; got .*: if you know it .* --trust \S+" if config in ASKED else None
    )
    (files / "own.yaml").write_text(yaml.safe_dump(config))
    for folder, path in ((files, "own.yaml"), (Path("/"), files / "own.yaml")):
        monkeypatch.chdir(folder)
        with pytest.raises(ValueError, match=cause):
            parse_experiment(str(path), [])
        assert Path.cwd() == folder
        with pytest.raises(ValueError, match=cause):
            parse_experiment("digits", ["--config", str(path)])
    assert not (files / "imported").exists()


@pytest.mark.parametrize("config", [*ASKED, *OTHER], ids=str)
def test_neither_are_those_of_a_run(files: Path, config: dict[str, Any]) -> None:
    from latentmix.experiments.runs.artifacts import RunFolder

    (files / "run").mkdir()
    (files / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match="Expected"):
        RunFolder.existing(files / "run").load_experiment()
    assert not (files / "imported").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--prior=~/word.yaml"],
        ["--prior", "word.yaml"],
        ["--prior", "folder/relative.yaml"],
        ["--prior", "link.yaml"],
        ["--config=~/own.yaml"],
        ["--mixture.svi", "svi.yaml"],
        ["--mixture=~/mixture.yaml"],
        ["--data=inner.yaml"],
    ],
    ids=str,
)
def test_typed_files_are_not_trusted(files: Path, words: list[str]) -> None:
    (files / "own.yaml").write_text("prior: own_helpers.P")
    (files / "mixture.yaml").write_text("svi: svi.yaml")
    with pytest.raises(ValueError, match="if you know it and trust it"):
        parse_experiment("digits", words)
    assert not (files / "imported").exists()


def test_the_folder_of_a_file_of_options_holds_no_modules(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (files / "folder" / "sub_helpers.py").write_text(HELPERS)
    (files / "folder" / "own.yaml").write_text("prior: sub_helpers.P")
    monkeypatch.setattr(sys, "path", ["", ".", *sys.path])
    with pytest.raises(ValueError, match="if you know it and trust it"):
        parse_experiment("folder/own.yaml", [])
    with pytest.raises(ValueError, match=r"Expected the module sub_helpers of .* to be found; got none"):
        parse_experiment("folder/own.yaml", [], ["sub_helpers"])
    assert not (files / "folder" / "imported").exists()
    assert parse_experiment("digits", ["--prior", "own_helpers.P"]).prior.class_path == "own_helpers.P"


@pytest.mark.parametrize(
    "config",
    [
        {"prior": {"class_path": "latentmix.models.StandardNormal"}, "optimizer": "torch.optim.SGD"},
        {"scheduler": {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 3}}},
        {"prior": {"class_path": "latentmix.models.priors.StandardNormal"}, "objective": "pyro.infer.Trace_ELBO"},
        {"prior": "StandardNormal", "description": "own_helpers.P", "name": "own_helpers.P"},
        {"data": {"columns": ["time.start"], "classes": ["own_helpers.P"]}},
        {"data": {"source": "images.npy", "root": "own_helpers.P"}, "init_from": "runs.one"},
        {"prior": "folder/prior.yaml", "mixture": {"svi": "folder/fit.yaml"}},
    ],
    ids=str,
)
def test_own_classes_texts_and_files_pass(files: Path, config: dict[str, Any]) -> None:
    (files / "folder" / "prior.yaml").write_text("one.yaml")
    (files / "folder" / "one.yaml").write_text("StandardNormal")
    (files / "folder" / "fit.yaml").write_text("{epochs: 7, tol: 1e-3}")

    def hidden(path: str) -> dict[str, Any]:
        return {"class_path": path, "init_args": {"hidden": [8]}}

    base = {
        "encoder": hidden("latentmix.guides.MLPEncoder"),
        "decoder": hidden("latentmix.models.MLPDecoder"),
        "likelihood": "Bernoulli",
        "family": "DiagonalNormal",
    }
    (files / "own.yaml").write_text(yaml.safe_dump({"prior": "StandardNormal", **base, **config}))
    parsed = parse_experiment("own.yaml", [])
    assert parsed.prior.class_path.endswith(".StandardNormal")
    assert not (files / "imported").exists()


def test_files_of_settings_are_checked_too(helpers: Path) -> None:
    (helpers / "data.yaml").write_text("class_path: own_helpers.P")
    for words in (["--data", "data.yaml"], ["--data=data.yaml"]):
        with pytest.raises(ValueError, match="if you know it and trust it"):
            parse_settings(Data, words, prefix="data")
    (helpers / "data.yaml").write_text("source: own_helpers.P")
    assert parse_settings(Data, ["--data", "data.yaml"], prefix="data").source == "own_helpers.P"
    assert not (helpers / "imported").exists()


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"#" + b"x" * 17 * 2**20 + b"\nclass_path: own_helpers.P", "at most 16 MiB in \\S*inner.yaml; got more"),
        ("# \xe9\nclass_path: own_helpers.P".encode("latin-1"), "got bytes that are no UTF-8"),
        (None, "Expected a regular file; got a named pipe in \\S*inner.yaml"),
    ],
    ids=["large", "Latin-1", "pipe"],
)
def test_files_of_options_are_read_within_their_limits_alone(
    helpers: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, cause: str
) -> None:
    monkeypatch.setenv("HOME", str(helpers))
    if content is None:
        os.mkfifo(helpers / "inner.yaml")
    else:
        (helpers / "inner.yaml").write_bytes(content)
    for text in ("prior: inner.yaml", "decoder: ~/inner.yaml", "mixture: {svi: inner.yaml}"):
        (helpers / "own.yaml").write_text(text)
        with pytest.raises(ValueError, match=cause):
            parse_experiment("own.yaml", [])
    for words in (
        ["--prior", "inner.yaml"],
        ["--config", "inner.yaml"],
        ["--data=inner.yaml"],
        ["--mixture=inner.yaml"],
    ):
        with pytest.raises(ValueError, match=cause):
            parse_experiment("digits", words)
    with pytest.raises(ValueError, match=cause):
        parse_settings(Data, ["--data", "inner.yaml"], prefix="data")
    (helpers / "own.yaml").write_text("prior: file:///proc/self/cwd/inner.yaml")
    with pytest.raises(ValueError, match="for --prior, or the import path of a class of your own; got 'file:"):
        parse_experiment("own.yaml", [])


def test_folders_of_the_name_of_a_value_are_no_files_of_options(helpers: Path) -> None:
    (helpers / "StandardNormal").mkdir()
    assert (
        parse_experiment("digits", ["--prior", "StandardNormal"]).prior.class_path == "latentmix.models.StandardNormal"
    )


def test_trusted_modules_pass_and_typed_words_are_trusted(helpers: Path) -> None:
    (helpers / "own.yaml").write_text("prior: own_helpers.P")
    with pytest.raises(ValueError, match=r"got own_helpers\.P"):
        parse_experiment("own.yaml", [], ("own", "own_helpers.inner"))
    (helpers / "none.yaml").write_text("prior: missing_module.P")
    with pytest.raises(ValueError, match=r"module missing_module .* run the command in its folder"):
        parse_experiment("none.yaml", [], ("missing_module",))
    assert not (helpers / "imported").exists()
    assert (
        parse_experiment("digits_mlp2", ["--config", "own.yaml"], ["own_helpers"]).prior.class_path == "own_helpers.P"
    )
    assert (helpers / "imported").exists()
    sys.modules.pop("own_helpers")
    assert parse_experiment("digits_mlp2", ["--prior", "own_helpers.P"]).prior.class_path == "own_helpers.P"


def test_the_check_is_that_of_its_block_and_thread(helpers: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from latentmix.experiments.options.parts import import_object

    def ask() -> None:
        with importing("a file"), ThreadPoolExecutor(1) as pool:
            assert pool.submit(import_object, "collections.OrderedDict").result().__name__ == "OrderedDict"
            import_object("own_helpers.P")

    with pytest.raises(ValueError, match="if you know it"):
        ask()
    assert not (helpers / "imported").exists()
    assert import_object("own_helpers.P").__name__ == "P"


def test_no_home_folder_is_no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("LATENTMIX_CONFIG", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", unknown)
    assert configuration_file() is None
    assert trusted_modules(["mine"]) == ("mine",)


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
