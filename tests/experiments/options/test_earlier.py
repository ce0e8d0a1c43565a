from pathlib import Path

import pytest
import yaml

from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.earlier import refuse_earlier_names, renewed
from latentmix.experiments.options.experiment import Experiment, experiment_parser
from latentmix.experiments.options.included import included
from latentmix.experiments.presets import preset_path
from latentmix.inference import NUTS, SVI

EARLIER = Path(__file__).parents[1] / "runs" / "earlier_run"


@pytest.mark.parametrize("name", ["finished", "interrupted"])
def test_configurations_of_an_earlier_version_are_read(name: str) -> None:
    path = EARLIER / name / "config.yaml"
    config = yaml.safe_load(path.read_text())
    by_object = Experiment.from_config(experiment_parser().parse_object(config))
    by_file = Experiment.from_config(parse_experiment(str(path), []))
    for experiment in (by_object, by_file):
        assert experiment.mixture.svi.epochs == config["mixture"]["svi_steps"]
        assert experiment.mixture.svi.guide.__name__ == config["mixture"]["guide"]
        assert experiment.mixture.nuts.draws == config["mixture"]["nuts_draws"]
        assert experiment.mixture.nuts.max_tree_depth == config["mixture"]["nuts_max_tree_depth"]
        assert experiment.mixture.svi_start == config["mixture"]["svi_start"]
    given = config["mixture"]["optimizer"]
    assert by_object.config["mixture"]["svi"]["optimizer"] == given


def test_the_configuration_of_a_run_gives_the_same_run() -> None:
    words = ["--mixture.svi.optimizer", "Adam", "--mixture.svi.optimizer.lr", "0.1", "--mixture.nuts.draws", "7"]
    first = Experiment.from_config(parse_experiment("digits", [*words, "--mixture.svi.guide", "AutoNormal"]))
    again = Experiment.from_config(experiment_parser().parse_object(first.config))
    assert again.config == first.config
    assert repr(again.mixture) == repr(first.mixture)
    assert first.mixture.svi.optimizer.keywords == {"lr": 0.1}  # type: ignore[union-attr]


def test_defaults_are_those_of_the_algorithms_but_for_a_few() -> None:
    mixture = Experiment.from_config(parse_experiment("digits", [])).mixture
    assert mixture.svi.get_params() == SVI(epochs=2000).get_params()
    assert mixture.nuts.get_params() == NUTS(draws=0, chains=2).get_params()


@pytest.mark.parametrize("asked", [True, False])
def test_the_option_tensorboard_of_an_earlier_version_is_a_logger(tmp_path: Path, asked: bool) -> None:
    text = (EARLIER / "interrupted" / "config.yaml").read_text()
    file = tmp_path / "config.yaml"
    file.write_text(text.replace("tensorboard: false", f"tensorboard: {asked}".lower()))
    by_object = Experiment.from_config(experiment_parser().parse_object(yaml.safe_load(file.read_text())))
    for experiment in (by_object, Experiment.from_config(parse_experiment(str(file), []))):
        assert [type(logger).__name__ for logger in experiment.training.loggers] == ["TensorBoard"] * asked
        assert "tensorboard" not in experiment.config
    with pytest.raises(ValueError, match="to be true or false; got 'maybe'"):
        renewed({"tensorboard": "maybe"})
    with pytest.raises(ValueError, match="Expected --loggers TensorBoard; got --tensorboard, its earlier name"):
        refuse_earlier_names(["tensorboard"])


def test_names_of_today_win_and_the_given_configuration_stays() -> None:
    config = {"mixture": {"svi_steps": 5, "svi": {"epochs": 7}}}
    assert renewed(config) == {"mixture": {"svi": {"epochs": 7}}}
    assert config["mixture"]["svi_steps"] == 5
    assert renewed({"epochs": 3}) == {"epochs": 3}
    assert renewed("word") == "word"


@pytest.mark.parametrize(
    ("mixture", "option"),
    [
        (3, "mixture"),
        ([1], "mixture"),
        (None, "mixture"),
        ("missing.yaml", "mixture"),
        ({"svi": 3}, "mixture.svi"),
        ({"nuts": None}, "mixture.nuts"),
        ({"svi_steps": 4, "svi": 3}, "mixture.svi"),
    ],
)
def test_options_that_are_no_mapping_are_refused(mixture, option: str, tmp_path: Path) -> None:
    message = rf"Expected options of {option} by their names, or a file of them; got"
    with pytest.raises(ValueError, match=message):
        renewed({"mixture": mixture})
    config = yaml.safe_load(preset_path("digits").read_text())
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump({**config, "mixture": mixture}))
    with pytest.raises(ValueError, match=message):
        parse_experiment(str(file), [])


def test_earlier_names_of_a_file_given_as_an_option_are_read(tmp_path: Path) -> None:
    file = tmp_path / "mixture.yaml"
    file.write_text("svi_steps: 33\nn_init: 2\n")
    for given in (str(file), '{"svi_steps": 33, "n_init": 2}'):
        mixture = Experiment.from_config(parse_experiment("digits", ["--mixture", given])).mixture
        assert (mixture.svi.epochs, mixture.n_init) == (33, 2)


def test_earlier_names_beside_a_file_of_todays(tmp_path: Path) -> None:
    file = tmp_path / "svi.yaml"
    file.write_text("tol: 1.0e-5\nepochs: 9\n")
    config = {"mixture": {"svi_steps": 5, "svi_start": "own", "svi": str(file)}}
    assert renewed(included(config, "", tmp_path)) == {
        "mixture": {"svi_start": "own", "svi": {"epochs": 9, "tol": 1e-5}}
    }


@pytest.mark.parametrize(
    ("name", "now"),
    [
        ("mixture.svi_steps", "mixture.svi.epochs"),
        ("mixture.guide", "mixture.svi.guide"),
        ("mixture.optimizer.lr", "mixture.svi.optimizer.lr"),
        ("mixture.nuts_max_tree_depth", "mixture.nuts.max_tree_depth"),
    ],
)
def test_earlier_names_are_refused_with_todays(name: str, now: str) -> None:
    with pytest.raises(ValueError, match=rf"Expected --{now}; got --{name}, its earlier name"):
        refuse_earlier_names([name])
    refuse_earlier_names([now, "epochs", "optimizer.lr", "mixture.svi_start"])


def parts() -> str:
    """A preset as text, without its mixtures and its name."""
    values = yaml.safe_load(preset_path("digits_mlp2").read_text())
    return yaml.safe_dump({name: value for name, value in values.items() if name not in ("mixture", "name")})


@pytest.mark.parametrize(
    "text",
    [
        "mixture: {svi_steps: 7}",
        "mixture.svi_steps: 7",
        "mixture: mine.yaml",
        "mixture: '{svi_steps: 7}'",
    ],
)
def test_earlier_names_are_read_in_every_form_of_a_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("svi_steps: 7")
    (tmp_path / "own.yaml").write_text(f"{parts()}{text}\n")
    assert parse_experiment(str(tmp_path / "own.yaml"), []).mixture.svi.epochs == 7


@pytest.mark.parametrize("name", ["'1e-3'", "2024-99-99", "'2024-01-01'", "'null'"])
def test_words_of_a_file_stay_words(name: str, tmp_path: Path) -> None:
    for more in ("", "mixture: {svi_steps: 7}"):
        (tmp_path / "own.yaml").write_text(f"{parts()}name: {name}\n{more}\n")
        if more and name == "2024-99-99":
            continue
        assert parse_experiment(str(tmp_path / "own.yaml"), []).name == name.strip("'")
