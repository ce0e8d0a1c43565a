"""The room's public names, which load on first access."""

import ast
import pickle
import pkgutil
from importlib import import_module
from pathlib import Path

import pytest

from latentmix import experiments, inference

ROOMS = (inference, experiments)


def declared(room):
    """Names imported for type checkers alone, each with its module."""
    tree = ast.parse(Path(room.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.name: node.module for node in block.body for alias in node.names}


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_every_name_is_that_of_its_module(room):
    assert sorted(declared(room)) == sorted(room.__all__)
    for name, module in declared(room).items():
        value = getattr(room, name)
        assert getattr(import_module(module), name) is value
        assert getattr(value, "__name__", name) == name  # a constant has none
        assert getattr(value, "__module__", module) == module


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_names_are_listed_and_unknown_ones_refused(room):
    assert set(room.__all__) <= set(dir(room))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        room.nonsense  # noqa: B018


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.__name__)
def test_no_name_is_a_submodule_too(room):
    """Importing the submodule would put it in the place of the name."""
    assert not {module.name for module in pkgutil.iter_modules(room.__path__)} & set(room.__all__)


def test_star_import_and_pickles():
    names = {}
    exec("from latentmix.inference import *", names)
    assert set(inference.__all__) <= set(names)
    algorithm = pickle.loads(pickle.dumps(names["NUTS"](draws=3)))
    assert algorithm.get_params() == inference.NUTS(draws=3).get_params()
