"""The examples in docstrings run as they stand, each by itself."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import latentmix.experiments
import latentmix.guides
import latentmix.inference
import latentmix.models
from latentmix.inference.isolation import isolated

IN_EXTRAS = ("svi.numpyro_scan",)  # a contestant that imports what only the extra `bench` installs


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for room in (latentmix.models, latentmix.guides, latentmix.inference, latentmix.experiments):
        for module in pkgutil.walk_packages(room.__path__, prefix=f"{room.__name__}."):
            if not module.name.endswith(("__main__", *IN_EXTRAS)):
                for example in finder.find(importlib.import_module(module.name), globs={}):
                    if example.examples:
                        yield pytest.param(example, id=example.name.removeprefix("latentmix."))


def test_the_readme_runs(capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len(blocks) == 5
    with isolated():
        exec(compile("\n".join(blocks), "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert "MixtureComparison" in printed
    assert "ESS bulk" in printed
    assert "..." not in printed


def test_the_pictures_of_the_readme_are_there():
    root = Path(__file__).parents[1]
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", (root / "README.md").read_text(encoding="utf-8"))
    assert len(pictures) == 3
    assert all((root / picture).is_file() for picture in pictures)


@pytest.mark.parametrize("example", list(examples()))
def test_example_runs(example):
    with isolated(seed=0):
        outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, clear_globs=False)
    assert outcome.failed == 0
