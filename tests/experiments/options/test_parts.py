"""Classes that options name by their import paths."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
from torch.optim import Muon

from latentmix.experiments.options.calls import as_call, call_form
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.parts import import_object


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("class P(:", "SyntaxError in it, "),
        ("1 / 0", "ZeroDivisionError in it, division by zero: correct the module"),
        ("{}['absent']", "KeyError in it, 'absent': correct the module"),
        ("None.absent", "AttributeError in it, "),
        ("import no_such_module", "no module no_such_module: run the command from the folder"),
        ("", "no 'P' in broken_helpers"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, cause: str
) -> None:
    (tmp_path / "broken_helpers.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_helpers", raising=False)
    for call in (
        lambda: import_object("broken_helpers.P"),
        lambda: parse_experiment("digits_mlp2", ["--prior", "broken_helpers.P"]),
        lambda: parse_experiment("digits_mlp2", ["--prior", "broken_helpers.P(3)"]),
    ):
        with pytest.raises(ValueError, match=r"^Expected ") as refused:
            call()
        assert cause in str(refused.value)


def test_no_folder_is_advised_for_a_module_of_a_package_that_is_there() -> None:
    with pytest.raises(ValueError, match=r"got no module latentmix\.models\.os\.$"):
        import_object("latentmix.models.os.system")


def test_a_part_is_written_as_it_is_typed() -> None:
    for text in ("StandardNormal", "MLPDecoder(hidden=[64, 32])", "StudentT(df=3)"):
        assert as_call(call_form(text)) == text
    own = {"class_path": "helpers.Own", "init_args": {"base": call_form("MLPDecoder([8])"), "shape": [3], "off": False}}
    assert as_call(own) == "Own(base=MLPDecoder(hidden=[8]), off=False)"  # nothing is imported to know its default
    for arguments in (None, [1], "text"):
        assert as_call({"class_path": "Bernoulli", "init_args": arguments}) == "Bernoulli"


@pytest.mark.parametrize("path", ["torch.optim.Muon", "Muon"])
def test_what_is_false_is_left_out_by_default_alone(path: str) -> None:
    def call(**arguments: object) -> str:
        return as_call({"class_path": path, "init_args": {"lr": 0.1, **arguments}})

    assert inspect.signature(Muon).parameters["nesterov"].default is True
    assert call(nesterov=False) == "Muon(lr=0.1, nesterov=False)"
    assert as_call({"class_path": "torch.optim.Adam", "init_args": {"amsgrad": False}}) == "Adam"
    assert as_call({"class_path": "torch.optim.Adam", "init_args": {"amsgrad": True}}) == "Adam(amsgrad=True)"
