from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.verify import __main__ as command
from tests.verify import registry
from tests.verify.dependencies import dependencies
from tests.verify.registry import Figures, Proof, Unavailable, proof, run, run_all, up_to_date


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "models" / "deep").mkdir(parents=True)
    (tmp_path / "models" / "a.py").write_text("a = 1\n")
    (tmp_path / "models" / "deep" / "preset.yaml").write_text("b: 1\n")
    (tmp_path / "models" / "notes.txt").write_text("not code\n")
    (tmp_path / "other.py").write_text("c = 1\n")
    return tmp_path


class Counted:
    def __init__(self, outcome: Callable[[], Figures]) -> None:
        self.outcome, self.calls = outcome, 0

    def proof(
        self, name: str = "counted", covers: tuple[str, ...] = ("models",), without: tuple[str, ...] = ()
    ) -> Proof:
        def call() -> Figures:
            """The claim."""
            self.calls += 1
            return self.outcome()

        return Proof(name, call, covers, without)


def passing() -> Figures:
    return {"passed": True, "error": 1e-9}


def failing() -> Figures:
    return {"passed": False, "error": 0.5}


def raising() -> Figures:
    raise ZeroDivisionError("no such number")


def interrupted() -> Figures:
    raise KeyboardInterrupt


def result(folder: Path, name: str = "counted") -> dict[str, Any]:
    return dict(json.loads((folder / f"{name}.json").read_text()))


def test_a_result_is_written_with_figures_and_digests(root: Path) -> None:
    counted = Counted(passing)
    assert run(counted.proof(), root / "out", root) == "passed"
    written = result(root / "out")
    assert written["claim"] == "The claim."
    assert written["figures"] == {"passed": True, "error": 1e-9}
    assert len(written["digest"]) == 64
    assert {"models/a.py", "models/deep/preset.yaml"} < set(written["files"])
    assert any(name.endswith("test_verify.py") for name in written["files"])
    assert not any(name.endswith(("notes.txt", "other.py")) for name in written["files"])
    assert written["versions"]["torch"]
    assert [path.name for path in (root / "out").iterdir()] == ["counted.json"]


def test_a_proof_that_passed_is_skipped_until_its_code_changes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counted = Counted(passing)
    claim = counted.proof()
    assert not up_to_date(claim, root / "out", root)
    assert run_all([claim], root / "out", root=root) == 0
    assert run_all([claim], root / "out", root=root) == 0
    assert counted.calls == 1
    assert "counted: up to date\n1 up to date, 0 passed, 0 failed, 0 unavailable" in capsys.readouterr().out
    (root / "other.py").write_text("c = 2\n")
    assert up_to_date(claim, root / "out", root)
    (root / "models" / "deep" / "preset.yaml").write_text("b: 2\n")
    assert run_all([claim], root / "out", root=root) == 0
    assert counted.calls == 2
    (root / "models" / "new.py").write_text("")
    assert not up_to_date(claim, root / "out", root)


def test_force_runs_it_again(root: Path) -> None:
    counted = Counted(passing)
    run_all([counted.proof()], root / "out", root=root)
    run_all([counted.proof()], root / "out", root=root, force=True)
    assert counted.calls == 2


@pytest.mark.parametrize("outcome", [failing, raising])
def test_a_failure_exits_1_and_is_run_again_after_the_others(outcome: Any, root: Path) -> None:
    bad, good = Counted(outcome), Counted(passing)
    proofs = [bad.proof("bad"), good.proof("good")]
    assert run_all(proofs, root / "out", root=root) == 1
    assert run_all(proofs, root / "out", root=root) == 1
    assert (bad.calls, good.calls) == (2, 1)
    assert result(root / "out", "bad")["status"] == "failed"


def test_an_exception_is_written_down(root: Path) -> None:
    run(Counted(raising).proof(), root / "out", root)
    assert result(root / "out")["error"] == "ZeroDivisionError: no such number"


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"error": 1.0}, "Expected figures with a boolean 'passed' from counted"),
        ({"passed": 1}, "Expected figures with a boolean 'passed' from counted"),
        ({"passed": True, "error": float("nan")}, "ValueError: Out of range float"),
        ({"passed": True, "error": object()}, "TypeError: "),
    ],
)
def test_invalid_figures_fail_a_proof(figures: dict[str, Any], message: str, root: Path) -> None:
    assert run(Counted(lambda: figures).proof(), root / "out", root) == "failed"
    assert message in result(root / "out")["error"]


def test_unavailable_neither_passes_nor_fails(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def needs_data() -> Figures:
        raise Unavailable("no MNIST: set LATENTMIX_DATA")

    claim = Counted(needs_data).proof()
    assert run_all([claim], root / "out", root=root) == 0
    assert not up_to_date(claim, root / "out", root)
    assert "no MNIST: set LATENTMIX_DATA" in capsys.readouterr().out


def test_an_interrupted_run_is_resumed(root: Path) -> None:
    first = Counted(passing)
    with pytest.raises(KeyboardInterrupt):
        run_all([first.proof("first"), Counted(interrupted).proof("second")], root / "out", root=root)
    assert not (root / "out" / "second.json").exists()
    assert run_all([first.proof("first")], root / "out", root=root) == 0
    assert first.calls == 1


def test_a_damaged_result_is_not_up_to_date(root: Path) -> None:
    claim = Counted(passing).proof()
    run(claim, root / "out", root)
    (root / "out" / "counted.json").write_text("{")
    assert not up_to_date(claim, root / "out", root)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# a comment\na = 1\n", "a = 1  # another\n"),
        ('"""A module."""\na = 1\n', '"""Another sentence.\n\nAnd more.\n"""\n\na = 1\n'),
        ('def f():\n    """F."""\n    return (1, 2)\n', "def f():\n    return (\n        1,\n        2,\n    )\n"),
        ('class C:\n    """C."""\n', 'class C:\n    """Another."""\n'),
    ],
)
def test_comments_docstrings_and_layout_do_not_make_a_proof_stale(root: Path, old: str, new: str) -> None:
    (root / "models" / "a.py").write_text(old)
    counted = Counted(passing).proof()
    run(counted, root / "out", root)
    (root / "models" / "a.py").write_text(new)
    assert up_to_date(counted, root / "out", root)


@pytest.mark.parametrize("new", ["a = 2\n", 'a = 1\nb = """text"""\n', "a = 1\na\n", "def a(): pass\n"])
def test_changed_code_makes_a_proof_stale(root: Path, new: str) -> None:
    counted = Counted(passing).proof()
    run(counted, root / "out", root)
    (root / "models" / "a.py").write_text(new)
    assert not up_to_date(counted, root / "out", root)


@pytest.fixture
def house(tmp_path: Path) -> Path:
    files = {
        "models/__init__.py": "from latentmix.models.a import A\nfrom latentmix.models.b import B\n",
        "models/a.py": "import torch\nfrom latentmix.models.mixture import c\nA = 1\n",
        "models/b.py": "B = 1\n",
        "models/mixture/__init__.py": "",
        "models/mixture/c.py": "def lazy():\n    from latentmix.models.d import D\n",
        "models/d.py": "D = 1\n",
        "experiments/__init__.py": "def __getattr__(name):\n    import latentmix.models.b\n",
        "tests/helper.py": "from latentmix.experiments import dynamic\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import math", set()),
        ("from latentmix.models import A", {"models/a.py", "models/mixture/c.py", "models/d.py"}),
        ("from latentmix.models.a import A", {"models/a.py", "models/mixture/c.py", "models/d.py"}),
        ("def f():\n    from latentmix.models import B as C", {"models/b.py"}),
        ("import latentmix.models.mixture.c", {"models/mixture/c.py", "models/d.py"}),
        ("from tests import helper", {"tests/helper.py", "experiments/__init__.py", "models/b.py"}),
        ("from latentmix.elsewhere import A", set()),
    ],
)
def test_imports_are_followed_to_the_files_that_define_them(house: Path, statement: str, expected: set[str]) -> None:
    start = house / "start.py"
    start.write_text(statement)
    assert dependencies([start], house) == {start, *(house / name for name in expected)}


def test_excluded_files_are_not_followed(house: Path) -> None:
    start = house / "start.py"
    start.write_text("from latentmix.models import A")
    assert dependencies([start], house, [house / "models" / "mixture"]) == {start, house / "models" / "a.py"}
    covering = Counted(passing).proof(covers=("models/a.py",), without=("models/mixture",))
    assert set(covering.files(house)) >= {"models/a.py"}
    assert not any("mixture" in name for name in covering.files(house))
    with pytest.raises(ValueError, match="got no 'models/gone' in the repository"):
        Counted(passing).proof(covers=(), without=("models/gone",)).files(house)


def test_proofs_depend_on_no_more_than_they_run() -> None:
    assert command.main(["--list"]) == 0
    files = {name: set(each.files()) for name, each in registry.PROOFS.items()}
    mixtures = files["batches_are_the_full_batch"]
    assert {"models/mixture/covariances.py", "inference/mixtures/em/em.py"} <= mixtures
    assert not any(name.startswith(("experiments/", "guides/", "inference/svi/")) for name in mixtures)
    whole = files["digits_are_classified"]
    assert {"models/flows.py", "guides/families.py", "experiments/presets/digits.yaml", "inference/svi/fit.py"} <= whole
    assert not any("figures" in name or name.endswith("mnist_conv64.yaml") for name in whole)
    assert not any(name.endswith("verify/registry.py") for each in files.values() for name in each)


def test_covering_a_missing_file_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected files for counted to cover; got no 'models/b\.py'"):
        run(Counted(passing).proof(covers=("models/b.py",)), root / "out", root)


def test_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PROOFS", {})
    assert proof("models")(passing) is passing
    assert registry.PROOFS["passing"].covers == ("models",)
    with pytest.raises(ValueError, match="got a second 'passing'"):
        proof("models")(passing)
    proof(without=["models"])(failing)
    assert registry.PROOFS["failing"].without == ("models",)


def test_every_registered_proof_covers_what_is_there() -> None:
    assert command.main(["--list"]) == 0
    for each in registry.PROOFS.values():
        assert each.files()
        assert each.run.__doc__, f"{each.name} makes no claim"


def test_unknown_name_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["no_such_proof"])
    assert "got no_such_proof." in capsys.readouterr().err


def test_runs_as_a_module() -> None:
    arguments = [sys.executable, "-m", "tests.verify", "--list"]
    assert subprocess.run(arguments, cwd=registry.ROOT, capture_output=True).returncode == 0
