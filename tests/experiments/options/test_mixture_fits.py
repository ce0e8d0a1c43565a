from pathlib import Path

import pytest
import yaml
from pyro.infer.autoguide import AutoDelta, AutoNormal

from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.options.mixture_fits import MixtureFits
from latentmix.experiments.presets import preset_path
from latentmix.inference import NORMAL_GUIDES, SVI


def experiment(*words: str) -> Experiment:
    return Experiment.from_config(parse_experiment("digits", words))


def test_the_posterior_is_by_default_the_best_of_the_normal_guides_under_weak_priors() -> None:
    for posterior in (experiment().mixture.posterior, MixtureFits().posterior):
        assert posterior is not None
        assert (posterior.guide, posterior.epochs, posterior.priors) == (NORMAL_GUIDES, 300, {})


def test_a_word_chooses_the_guide_or_leaves_the_posterior_out() -> None:
    assert experiment("--mixture.posterior.guide", "none").mixture.posterior is None
    posterior = experiment(
        "--mixture.posterior.guide", "AutoNormal", "--mixture.posterior.epochs", "7"
    ).mixture.posterior
    assert posterior is not None
    assert (posterior.guide, posterior.epochs, posterior.priors) == (AutoNormal, 7, {})


@pytest.mark.parametrize("guide", ["none", "best", "AutoLowRankMultivariateNormal"])
def test_a_configuration_gives_the_same_fits_again(guide: str, tmp_path: Path) -> None:
    first = experiment("--mixture.posterior.guide", guide)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(first.config))
    again = Experiment.from_config(parse_experiment(str(tmp_path / "config.yaml"), []))
    assert again.config == first.config
    assert repr(again.mixture) == repr(first.mixture)


def test_a_configuration_made_before_has_the_default(tmp_path: Path) -> None:
    values = yaml.safe_load(preset_path("digits").read_text())
    values["mixture"] = {**values.get("mixture", {}), "svi": {"epochs": 5}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    mixture = Experiment.from_config(parse_experiment(str(tmp_path / "config.yaml"), [])).mixture
    assert repr(mixture.posterior) == repr(MixtureFits().posterior)
    assert mixture.svi.epochs == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mixture.posterior.guide", "AutoDelta"], "or none for --mixture.posterior.guide; got 'AutoDelta'"),
        (["--mixture.posterior.epochs", "0"], "at least 1; got 0 \\(option --mixture.posterior\\)"),
        (["--mixture.posterior", "none"], "Expected options of mixture.posterior by their names"),
        (["--mixture.posterior.gide", "none"], "did you mean --mixture.posterior.guide"),
    ],
)
def test_other_words_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        experiment(*words)


def test_a_point_mass_is_no_posterior() -> None:
    with pytest.raises(ValueError, match=r"Expected a guide with a density for --mixture\.posterior\.guide.* a point"):
        MixtureFits(posterior=SVI(guide=AutoDelta))
