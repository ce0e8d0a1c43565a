"""Grids and classes in call form are parsed, and malformed ones refused in one sentence."""

import inspect
import json
import re

import pytest

from latentmix.experiments.options.calls import call_form, find_class
from latentmix.experiments.options.command_line import option_value, parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.options.grids import cells_of, check_names, parse_grid, words_of
from latentmix.experiments.sweeps.cells import base_configuration

GOOD = {
    "two classes": (["prior=StandardNormal,VampPrior"], {"prior": ["StandardNormal", "VampPrior"]}),
    "lists": (["decoder.hidden=[256],[128,64]"], {"decoder.hidden": ["[256]", "[128,64]"]}),
    "calls": (
        ["objective=RenyiELBO(alpha=0, num_particles=5),Trace_ELBO"],
        {"objective": ["RenyiELBO(alpha=0, num_particles=5)", "Trace_ELBO"]},
    ),
    "quotes": (["likelihood=Gaussian('a,b'),Bernoulli"], {"likelihood": ["Gaussian('a,b')", "Bernoulli"]}),
    "spaces": (["epochs = 1, 2"], {"epochs": ["1", "2"]}),
    "an equals sign within": (["likelihood=Gaussian(var_x=pixel)"], {"likelihood": ["Gaussian(var_x=pixel)"]}),
    "several": (["epochs=1", "data.seed=0,1"], {"epochs": ["1"], "data.seed": ["0", "1"]}),
}
BAD = {
    "no equals sign": (["prior"], "Expected --grid NAME=V1,V2,...; got 'prior'"),
    "no name": (["=1,2"], "Expected --grid NAME=V1,V2"),
    "nothing": ([], "at least one --grid"),
    "no value": (["prior="], "without an empty one"),
    "an empty value": (["epochs=1,,2"], "without an empty one"),
    "a name twice": (["epochs=1", "epochs=2"], "--grid epochs=... twice"),
    "a value twice": (["epochs=1,2,1"], "Expected different values of epochs"),
    "an open bracket": (["decoder.hidden=[1,2"], "got no ']'"),
    "a closed bracket": (["decoder.hidden=1],2"], "got ']' too many"),
    "brackets crossed": (["decoder.hidden=[(1])"], "got ']' in the place of ')'"),
    "an open quote": (["likelihood=Gaussian('a)"], 'got no "\'"'),
}
CALLS = {
    "StandardNormal": "StandardNormal",
    "[128, 64]": "[128, 64]",
    "images(1).npz": "images(1).npz",
    "Bernoulli()": ("Bernoulli", {}),
    "MLPDecoder([128, 64])": ("MLPDecoder", {"hidden": [128, 64]}),
    "MLPDecoder(hidden=[8])": ("MLPDecoder", {"hidden": [8]}),
    "latentmix.models.MLPDecoder([8])": ("latentmix.models.MLPDecoder", {"hidden": [8]}),
    "ConvEncoder([4, 8], batch_norm=[false, true])": (
        "ConvEncoder",
        {"channels": [4, 8], "batch_norm": [False, True]},
    ),
    "Gaussian(0.1)": ("Gaussian", {"var_x": 0.1}),
    "Gaussian(shared)": ("Gaussian", {"var_x": "shared"}),
    "Gaussian(var_x='pixel')": ("Gaussian", {"var_x": "pixel"}),
    "MixturePrior(10)": ("MixturePrior", {"n_components": 10}),
    "MixturePrior(n_components=10, covariance_type=full)": (
        "MixturePrior",
        {"n_components": 10, "covariance_type": "full"},
    ),
    "RenyiELBO(alpha=0, num_particles=5)": ("RenyiELBO", {"alpha": 0, "num_particles": 5}),
    "Adam(1e-2)": ("Adam", {"lr": 0.01}),
    "torch.optim.SGD(lr=.5)": ("torch.optim.SGD", {"lr": 0.5}),
}
BAD_CALLS = {
    "Gausian(0.1)": "Expected a class of LatentMix or an import path; got 'Gausian'",
    "latentmix.models.Nothing(1)": "got 'latentmix.models.Nothing'",
    "latentmix.nothing.Prior(1)": "got 'latentmix.nothing.Prior'",
    "Bernoulli(1)": "Expected arguments of Bernoulli out of none",
    "MLPDecoder([8], hidden=[9])": "each once",
    "MLPDecoder(hidden=[8], hidden=[9])": "each once",
    "ConvEncoder(channels=[8], [false])": "those without a name first",
    "MLPDecoder(hidden=)": "Expected a value for every argument",
    "MLPDecoder(,)": "Expected a value for every argument",
    "MLPDecoder(: [)": "got ')' in the place of ']'",
}


@pytest.mark.parametrize("case", GOOD)
def test_a_grid_is_read(case):
    items, grid = GOOD[case]
    assert parse_grid(items) == grid


@pytest.mark.parametrize("case", BAD)
def test_malformed_grids_are_refused(case):
    items, message = BAD[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_grid(items)


@pytest.mark.parametrize("text", CALLS)
def test_calls_are_expanded(text):
    expected = CALLS[text]
    if isinstance(expected, tuple):
        expected = {"class_path": expected[0], "init_args": expected[1]}
    parsed = call_form(text)
    if isinstance(parsed, dict):
        kind = find_class(parsed["class_path"])
        defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
        for name in parsed["init_args"].keys() - expected["init_args"].keys():  # nothing of an earlier class is left
            assert parsed["init_args"].pop(name) == (list(defaults[name]) if defaults[name] == () else defaults[name])
    assert parsed == expected


@pytest.mark.parametrize("text", BAD_CALLS)
def test_bad_calls_are_refused(text):
    with pytest.raises(ValueError, match=re.escape(BAD_CALLS[text])):
        call_form(text)


def test_a_class_of_another_option_is_refused():
    with pytest.raises(ValueError, match="got 'Bernoulli\\(\\)': Bernoulli is for --likelihood"):
        call_form("Bernoulli()", "prior")


def test_only_options_that_are_classes_are_expanded():
    assert json.loads(option_value("decoder", "MLPDecoder([8])"))["init_args"] == {"hidden": [8]}
    assert json.loads(option_value("decoder", "MLPDecoder")) == {"class_path": "MLPDecoder", "init_args": {}}
    assert json.loads(option_value("objective", "RenyiELBO"))["init_args"]["num_particles"] == 2
    assert option_value("description", "Bernoulli()") == "Bernoulli()"


def test_the_product_varies_the_last_option_fastest():
    cells = list(cells_of({"latent_dim": ["2", "3"], "decoder.hidden": ["[8]", "[9]", "[7]"]}))
    assert len(cells) == 6
    assert cells[0] == {"latent_dim": "2", "decoder.hidden": "[8]"}
    assert cells[1] == {"latent_dim": "2", "decoder.hidden": "[9]"}


def test_the_words_of_a_cell_make_an_experiment():
    options = {"decoder.hidden": "[9]", "decoder": "MLPDecoder([8])", "objective": "RenyiELBO(0, num_particles=3)"}
    words = words_of(options)
    assert words.index("--decoder") < words.index("--decoder.hidden")
    experiment = Experiment.from_config(parse_experiment("digits_mlp2", words))
    assert experiment.config["decoder"]["init_args"]["hidden"] == [9]
    assert experiment.elbo.num_particles == 3


NAMES = {
    "unknown": ({"epoch": ["1"]}, "did you mean --epochs?"),
    "a file": ({"config": ["a.yaml"]}, "got --config"),
    "unknown argument": ({"decoder.hiden": ["[1]"]}, "to name an argument of latentmix.models.MLPDecoder; got 'hiden'"),
    "an argument of no class of the grid": (
        {"encoder": ["MLPEncoder", "MLPEncoder([4])"], "encoder.channels": ["[1]"]},
        "argument of MLPEncoder, MLPEncoder([4]); got 'channels'",
    ),
    "linked": ({"decoder.latent_dim": ["1"]}, "latent_dim follows from the experiment"),
    "of the mixture's optimizer": ({"mixture.optimiser.lr": ["1"]}, "got --mixture.optimiser.lr"),
}


@pytest.mark.parametrize("case", NAMES)
def test_unknown_options_of_a_grid_are_refused(case):
    grid, message = NAMES[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        check_names(grid, base_configuration("digits_mlp2", []))


@pytest.mark.parametrize(
    "grid",
    [
        {"latent_dim": ["2"], "data.seed": ["1"], "mixture.svi.guide": ["AutoNormal"], "batch_size": ["1"]},
        {"optimizer.lr": ["0.1"], "objective.num_particles": ["2"], "decoder.hidden": ["[2]"]},
        {"encoder": ["MLPEncoder", "ConvEncoder([4])"], "encoder.channels": ["[4]"]},
        {"mixture.svi.optimizer": ["Adam"], "mixture.svi.optimizer.lr": ["0.1"]},
        {"prior": ["own.Prior"], "prior.heat": ["2"]},
    ],
    ids=lambda grid: ",".join(grid),
)
def test_options_at_any_depth_may_vary(grid):
    check_names(grid, base_configuration("digits_mlp2", []))
