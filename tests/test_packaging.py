"""The house: what lies where, what may import what, and what reaches the wheel."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.verify.dependencies import ROOMS, imports

ROOT = Path(__file__).parents[1]
SMALL_FILES = {
    ".ci",
    ".gitignore",
    ".python-version",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "constraints.txt",
    "pyproject.toml",
}
MACHINE_PATH = re.compile(r"(?<![\w.~])/(?:work|home|root|Users|opt|mnt|tmp)/\w")


def repository_files() -> list[Path]:
    """Every file that git tracks or would track, relative to the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not in a git checkout")
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> list[str]:
    return [name for name, _ in imports(path.read_bytes())]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_top_level_is_fixed() -> None:
    top = {path.parts[0] for path in repository_files()}
    assert top <= {*ROOMS, "tests"} | SMALL_FILES
    assert not (ROOT / "__init__.py").exists()


def test_packages_are_those_of_the_tree(project: dict[str, Any]) -> None:
    tree = {
        ".".join(("latentmix", *init.parent.relative_to(ROOT).parts))
        for room in ROOMS
        for init in (ROOT / room).rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == tree
    assert project["tool"]["setuptools"]["package-dir"] == {f"latentmix.{room}": room for room in ROOMS}


def test_every_file_of_a_room_reaches_the_wheel(project: dict[str, Any]) -> None:
    patterns = ["*.py", *project["tool"]["setuptools"]["package-data"]["*"]]
    for path in repository_files():
        if path.parts[0] in ROOMS and path.parts[:2] != ("experiments", "gallery"):  # the README's pictures
            assert any(fnmatch.fnmatch(path.name, pattern) for pattern in patterns), path
            assert (ROOT / path.parent / "__init__.py").is_file(), f"{path.parent} is no package"


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_typed(room: str) -> None:
    assert (ROOT / room / "py.typed").read_bytes() == b""


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_imports_the_bare_namespace(room: str) -> None:
    for path in sources(room):
        assert "latentmix" not in imported(path), f"{path.relative_to(ROOT)} imports the bare namespace"


@pytest.mark.parametrize("folder", [*ROOMS, "tests"])
def test_imports_are_absolute_and_never_load_a_room_twice(folder: str) -> None:
    for path in sources(folder):
        for name in imported(path):
            assert not name.startswith("."), f"{path.relative_to(ROOT)} imports {name}"
            assert name.split(".")[0] not in ROOMS, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("folder", [*ROOMS, "tests"])
def test_no_file_has_more_than_600_lines(folder: str) -> None:
    long = {path.name: n for path in sources(folder) if (n := path.read_text().count("\n")) > 600}
    assert not long


def test_no_machine_path_in_any_file() -> None:
    for path in repository_files():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        result = MACHINE_PATH.search(text)
        assert result is None, f"{path} names {result[0]}"


def test_constraints_are_exact_pins_of_every_dependency(project: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+!]*", pin) for pin in pins)
    pinned = {pin.split("==")[0].lower().replace("_", "-") for pin in pins}
    assert pinned.isdisjoint({"latentmix", "pip"})
    extras = project["project"]["optional-dependencies"].values()
    for requirement in [*project["project"]["dependencies"], *(each for extra in extras for each in extra)]:
        assert re.split(r"[\[<>=!~; ]", requirement)[0].lower().replace("_", "-") in pinned, requirement


def test_python_versions_agree(project: dict[str, Any]) -> None:
    assert project["project"]["requires-python"] == ">=3.12"
    assert (ROOT / ".python-version").read_text(encoding="utf-8") == "3.13\n"


def test_ci_is_executable() -> None:
    assert all(os.access(ROOT / ".ci" / name, os.X_OK) for name in ("run", "find-python"))


def test_every_import_is_declared(project: dict[str, Any]) -> None:
    names = {
        "PIL": "pillow",
        "sklearn": "scikit-learn",
        "pyro": "pyro-ppl",
        "yaml": "pyyaml",
        "mlflow": "mlflow-skinny",
        "mpl_toolkits": "matplotlib",
    }
    extras = project["project"]["optional-dependencies"]
    optional = ("bench", "mlflow", "parquet", "wandb")
    wanted = [*project["project"]["dependencies"], *(each for extra in optional for each in extras[extra])]
    declared = {re.split(r"[\[<>=!~; ]", each)[0] for each in wanted}
    for room in ROOMS:
        for path in sources(room):
            for name in {each.split(".")[0] for each in imported(path)} - {"latentmix", "__future__"}:
                package = names.get(name, name.replace("_", "-"))
                assert name in sys.stdlib_module_names or package in declared, f"{path.relative_to(ROOT)}: {name}"
