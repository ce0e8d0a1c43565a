from __future__ import annotations

import pyro
import pytest
from torch import nn

from latentmix.models.pyro_modules import TrainingModes, evaluation_mode, register


def test_evaluation_mode_keeps_shared_and_nested_modes() -> None:
    inner = nn.Dropout()
    first, other = nn.Sequential(inner, nn.ReLU()), nn.Sequential(inner)
    other.eval()
    before = (first.training, inner.training, first[1].training, other.training)
    with evaluation_mode(first, other):
        assert not any((first.training, inner.training, first[1].training, other.training))
    assert (first.training, inner.training, first[1].training, other.training) == before


def test_an_error_inside_restores_the_modes() -> None:
    module = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    with pytest.raises(RuntimeError), evaluation_mode(module):
        raise RuntimeError
    assert [part.training for part in module.modules()] == [True, True, False]


def test_training_modes_are_those_before_the_first_evaluation() -> None:
    module, modes = nn.Dropout(), TrainingModes()
    modes.evaluate(module)
    modes.evaluate(module)
    modes.restore()
    assert module.training


def test_register_is_pyro_module() -> None:
    layer = nn.Linear(2, 3)
    layer.bias.requires_grad_(False)
    with evaluation_mode(layer):
        register("layer", layer)
    assert list(pyro.get_param_store()) == ["layer$$$weight"]
    assert pyro.get_param_store()["layer$$$weight"] is layer.weight
