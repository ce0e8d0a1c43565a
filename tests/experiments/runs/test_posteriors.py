"""The posterior of a run's mixture: fitted from EM's answer, kept, measured, compared; and never a run lost by it."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from latentmix.experiments.options.mixture_fits import MixtureFits
from latentmix.experiments.runs import mixtures as runs
from latentmix.experiments.runs import posteriors
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.runs.captions import alternative_text
from latentmix.experiments.runs.estimates_table import (
    accuracy_sentences,
    accuracy_values,
    estimates_rows,
    estimates_text,
    posterior_notes,
)
from latentmix.experiments.runs.latents import LatentSplit
from latentmix.experiments.runs.mixtures import FittedMixture, fit_mixtures
from latentmix.experiments.runs.stored import _wrong_posterior
from latentmix.inference import NORMAL_GUIDES, SVI
from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.parameters import MixtureParameters

Outcome = tuple[dict[str, dict[str, FittedMixture]], dict[str, Any], list[str]]

BRIEF: dict[str, Any] = {"n_init": 1, "draws": 1, "svi": SVI(epochs=3)}


def split(n: int, n_features: int, labelled: bool, seed: int) -> LatentSplit:
    random = np.random.RandomState(seed)
    labels = np.arange(n) % 3
    return LatentSplit(5.0 * labels[:, None] + random.randn(n, n_features), labels if labelled else None)


def fitted(labelled: bool = True, n: int = 90, n_features: int = 2, **options: Any) -> Outcome:
    told: list[str] = []
    settings = MixtureFits(3, **{**BRIEF, **options})
    parts = (split(n, n_features, labelled, seed) for seed in (0, 1))
    classes = [0, 1, 2] if labelled else []
    mixtures, figures = fit_mixtures(
        *parts, classes, settings, labels_per_class=2, seed=0, label_seed=0, tell=told.append
    )
    return mixtures, figures, told


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return fitted(posterior=SVI(guide=NORMAL_GUIDES, priors={}, epochs=60))


def test_the_posterior_is_fitted_from_the_answer_of_em(outcome: Outcome) -> None:
    mixtures, figures, told = outcome
    assert set(mixtures["posterior"]) == {"none", "all"}
    assert mixtures["posterior"]["none"].component_classes == mixtures["em"]["none"].component_classes
    described = figures["posterior"]
    assert [tried["guide"] for tried in described["guides"]] == [kind.__name__ for kind in NORMAL_GUIDES]
    used = [tried for tried in described["guides"] if tried["used"]]
    assert [tried["guide"] for tried in used] == [described["guide"]]
    assert used[0]["bound"] == max(tried["bound"] for tried in described["guides"])
    assert any(sentence.startswith(f"SVI posterior: {described['guide']}, bound ") for sentence in told)
    assert figures["agreement"]["none, EM and SVI posterior"]["assigned_alike"] > 0.95
    json.dumps(figures, allow_nan=False)


def test_its_draws_are_kept_with_their_densities(outcome: Outcome) -> None:
    mixtures, figures, _ = outcome
    kept = FittedMixture.from_state_dict(mixtures["posterior"]["none"].state_dict()).mixture.posterior_
    assert kept.n_draws == 500
    result = mixtures["posterior"]["none"].mixture.result_
    log_p = result.log_joint(kept, split(90, 2, True, 0).latents)
    bound = float((log_p - kept.sample_stats["log_q"]).mean()) / 90
    assert bound == pytest.approx(figures["posterior"]["bound"], abs=0.02)


def test_draws_that_budgets_share_are_written_once(outcome: Outcome, tmp_path: Path) -> None:
    mixtures, _, _ = outcome
    sizes = []
    for name, budgets in {"one": ("none",), "both": ("none", "all")}.items():
        folder = RunFolder.create(tmp_path / name)
        folder.save_mixtures({"posterior": {budget: mixtures["posterior"][budget] for budget in budgets}})
        sizes.append((folder.checkpoints / "mixtures.safetensors").stat().st_size)
    assert sizes[1] - sizes[0] < 0.2 * sizes[0]
    loaded = folder.load_mixtures()["posterior"]
    first, second = (loaded[budget].mixture.posterior_ for budget in ("none", "all"))
    for site, values in first.sites.items():
        assert torch.equal(values, second.sites[site])


def test_accuracies_under_draws_have_an_interval(outcome: Outcome) -> None:
    _, figures, _ = outcome
    for budget, row in figures["mixtures"]["posterior"].items():
        interval = row["accuracy_interval"]
        assert interval["low"] <= interval["median"] <= interval["high"]
        assert interval["draws"] == 200
        assert accuracy_values(figures)[budget]["SVI posterior"] == [interval[k] for k in ("median", "low", "high")]
    assert "accuracy_interval" not in figures["mixtures"]["em"]["none"]
    assert [sentence.split(":")[0] for sentence in accuracy_sentences(figures)] == [
        f"Accuracy under the draws of the SVI posterior, labels {budget}" for budget in ("none", "all")
    ]


def test_accuracies_are_those_of_each_draw() -> None:
    """Three draws of two points' classes, right for both, one and none of them."""
    means = torch.tensor([[[0.0], [10.0]], [[0.0], [-10.0]], [[10.0], [0.0]]], dtype=torch.float64)[None]
    ones = torch.ones(1, 3, 2, dtype=torch.float64)
    structure, floor = covariance_structure("spherical"), torch.zeros(1, dtype=torch.float64)
    posterior = MixturePosterior({"weights": ones / 2, "means": means, "scales": ones}, structure, floor, "svi")
    latents: NDArray[np.float64] = np.array([[0.0], [10.0]])
    figures = posteriors.accuracy_intervals(posterior, latents, np.array([4, 8]), {"all": [4, 8]})["all"]
    assert (figures["median"], figures["draws"]) == (0.5, 3)
    np.testing.assert_allclose([figures["low"], figures["high"]], [0.05, 0.95])


def test_accuracies_are_those_of_classes_of_several_components() -> None:
    """The class of two components is likelier together than the likeliest component: as `FittedMixture` predicts."""
    means = torch.tensor([[0.0], [0.0], [1.0]], dtype=torch.float64)
    weights, ones = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    sites = {name: values[None, None] for name, values in (("weights", weights), ("means", means), ("scales", ones))}
    posterior = MixturePosterior(sites, covariance_structure("spherical"), torch.zeros(1, dtype=torch.float64), "svi")
    latents: NDArray[np.float64] = np.array([[0.5]])
    assert posterior.draw(0, 0).responsibilities(torch.from_numpy(latents)).argmax() == 2
    (figures,) = posteriors.accuracy_intervals(posterior, latents, np.array([4]), {"all": [4, 4, 8]}).values()
    assert figures["median"] == 1


@pytest.mark.parametrize(
    ("n_points", "epochs", "cut"),
    [
        (1_000, 300, ""),
        (20_000, 50, "50 steps of each guide, for there are 20,000 points and 659 parameters"),
        (60_000, 50, "AutoNormal alone, with 50 steps, for there are 60,000 points and 659 parameters"),
    ],
)
def test_the_fit_of_many_points_is_cut(n_points: int, epochs: int, cut: str) -> None:
    parameters = MixtureParameters(
        torch.full((10,), 0.1), torch.zeros(10, 10), torch.eye(10).expand(10, 10, 10), covariance_structure("full")
    )
    svi, words = posteriors.affordable(SVI(guide=NORMAL_GUIDES, priors={}, epochs=300), parameters, n_points)
    assert svi is not None
    assert (svi.epochs, words) == (epochs, cut)
    single = SVI(guide=NORMAL_GUIDES[2], priors={}, epochs=300)
    assert posteriors.affordable(single, parameters, n_points) == (single, "")
    assert posteriors.affordable(SVI(guide=NORMAL_GUIDES, priors={}), parameters, 10**7)[0] is None


@pytest.mark.parametrize("most", [0, 700_000])
def test_a_posterior_that_is_cut_or_left_out_is_told(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(posteriors, "MOST_OF_GUIDES", most)
    mixtures, figures, told = fitted(n=30, posterior=SVI(guide=NORMAL_GUIDES, priors={}, epochs=300))
    notes = " ".join(posterior_notes(figures))
    json.dumps(figures)
    assert _wrong_posterior(figures) == ""
    if most:
        assert len(figures["posterior"]["guides"]) == 1
        assert "The fit is cut: AutoNormal alone, with 50 steps, for there are 30 points and 17 parameters." in notes
    else:
        assert set(mixtures) == {"em", "svi"}
        assert notes.endswith("ask for one guide by --mixture.posterior.guide.")
        assert notes in estimates_text(figures)
        assert any("left out, for 30 points" in sentence for sentence in told)


def test_k_hat_of_many_points_is_that_of_some_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posteriors, "MOST_OF_DENSITIES", 0)
    _, figures, _ = fitted(labelled=False, n=30, posterior=SVI(guide=NORMAL_GUIDES[0], priors={}, epochs=5))
    assert figures["posterior"]["k_hat_draws"] == 100
    assert figures["posterior"]["k_hat"] is not None
    assert "(of 100 draws)" in posterior_notes(figures)[-1]


def test_estimates_stand_side_by_side_in_the_order_of_the_classes(outcome: Outcome) -> None:
    mixtures, figures, _ = outcome
    estimates = figures["estimates"]
    assert estimates["components"] == ["0", "1", "2"]
    assert list(estimates["fits"]) == ["em", "svi", "posterior"]
    em = mixtures["em"]["none"]
    order = np.argsort(em.component_classes)
    np.testing.assert_allclose(estimates["fits"]["em"]["point"][:3], em.mixture.weights_[order], rtol=1e-5)
    np.testing.assert_allclose(estimates["fits"]["em"]["point"][3:9], em.mixture.means_[order].ravel(), rtol=1e-5)
    assert estimates["quantities"][3:5] == [["mean", 0, 0], ["mean", 0, 1]]
    (difference,) = estimates["differences"]
    posterior = estimates["fits"]["posterior"]
    distances = np.abs(np.subtract(estimates["fits"]["em"]["point"], posterior["point"])) / posterior["sd"]
    assert difference["by"] == pytest.approx(distances.max(), rel=1e-3)
    assert re.fullmatch(
        r"EM and the SVI posterior differ most in the \w+ of component \d(, dimension \d)?: [\d.]+ posterior standard "
        r"deviations\.",
        estimates["sentence"],
    )


def test_the_table_of_many_quantities_holds_those_that_differ_most(outcome: Outcome) -> None:
    _, figures, _ = outcome
    names, rows, total = estimates_rows(figures, 4)
    assert (names, len(rows), total) == (["EM", "SVI", "SVI posterior"], 4, 15)
    estimates = figures["estimates"]
    posterior = estimates["fits"]["posterior"]
    distances = np.abs(np.subtract(estimates["fits"]["em"]["point"], posterior["point"])) / posterior["sd"]
    every = [name for name, _ in estimates_rows(figures)[1]]
    assert [name for name, _ in rows] == [every[k] for k in sorted(np.argsort(-distances)[:4])]
    text = estimates_text(figures)
    assert "10 of 15 quantities" in text
    assert "EM with standard errors; posteriors: means" in text
    assert estimates["sentence"] in text
    assert text.count("by construction") == 1
    assert f"\n{posterior_notes(figures)[-1]}\n" in text
    assert "k-hat, the Pareto k of its importance weights (of all 1,000 draws): " in text
    assert estimates["sentence"] in alternative_text("posterior_forest", figures)


@pytest.mark.parametrize("covariance_type", ["full", "tied", "diag", "spherical", "tied_diag"])
def test_points_without_classes_have_a_posterior_for_every_structure(covariance_type: str) -> None:
    brief = SVI(guide=NORMAL_GUIDES[0], priors={}, epochs=5)
    mixtures, figures, _ = fitted(labelled=False, n=30, covariance_type=covariance_type, posterior=brief)
    assert set(mixtures["posterior"]) == {"none"}
    assert figures["estimates"]["components"] == ["1", "2", "3"]
    assert not accuracy_values(figures)
    shared = covariance_type.startswith("tied")
    scales = [quantity for quantity in figures["estimates"]["quantities"] if quantity[0] == "scale"]
    assert all((component is None) == shared for _, component, _ in scales)


def test_more_quantities_than_are_kept_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posteriors, "MOST_QUANTITIES", 5)
    _, figures, _ = fitted(labelled=False, n=30, posterior=SVI(guide=NORMAL_GUIDES[0], priors={}, epochs=5))
    estimates = figures["estimates"]
    assert (len(estimates["quantities"]), estimates["left_out"]) == (5, 10)
    assert estimates_rows(figures)[2] == 15


def test_a_posterior_that_fails_is_told_and_leaves_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("no\nmemory")

    monkeypatch.setattr(runs, "described_guide", failing)
    mixtures, figures, told = fitted(n=30, posterior=SVI(guide=NORMAL_GUIDES[0], priors={}, epochs=2))
    assert set(mixtures) == {"em", "svi"}
    assert figures["posterior"] == {"failed": "no memory"}
    assert "estimates" not in figures
    assert any("left out, for it failed: no memory" in sentence for sentence in told)
    assert posterior_notes(figures) == ["The posterior by SVI is left out, for it failed: no memory."]
    assert estimates_text(figures) == posterior_notes(figures)[0]


def test_estimates_that_fail_are_told_and_leave_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> Any:
        raise ValueError("singular")

    monkeypatch.setattr(runs, "estimates_figures", failing)
    mixtures, figures, told = fitted(n=30, posterior=SVI(guide=NORMAL_GUIDES[0], priors={}, epochs=2))
    assert "posterior" in mixtures
    assert "estimates" not in figures
    assert any(sentence.startswith("estimates side by side: left out") for sentence in told)


@pytest.mark.parametrize("wrong", ["x", [["x"]], {"a": 1}, float("inf"), "missing"])
def test_figures_of_another_kind_are_refused_or_told(outcome: Outcome, wrong: object) -> None:
    """Each figure of the posterior and of estimates, of each list the first, is exchanged in turn."""
    _, figures, _ = outcome
    for place in [path for part in ("posterior", "estimates") for path in places(figures[part], (part,))]:
        changed = copy.deepcopy(figures)
        node: Any = changed
        for key in place[:-1]:
            node = node[key]
        if wrong == "missing":
            del node[place[-1]]
        else:
            node[place[-1]] = wrong
        if not _wrong_posterior(changed):
            assert isinstance(estimates_text(changed) + " ".join(posterior_notes(changed)), str), place


def places(node: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    children = node.items() if isinstance(node, dict) else enumerate(node[:1]) if isinstance(node, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def test_without_it_nothing_is_said_of_a_posterior() -> None:
    mixtures, figures, told = fitted(n=30, posterior=None)
    assert set(mixtures) == {"em", "svi"}
    assert not {"posterior", "estimates"} & set(figures)
    assert not any("posterior" in sentence for sentence in told)
    assert estimates_text(figures) == ""
    assert posterior_notes(figures) == []


def test_guides_that_have_not_converged_are_said() -> None:
    tried = {"error": 0.1, "seconds": 1.0, "converged": True, "used": True, "note": "", "guide": "A", "bound": -1.0}
    other = {**tried, "used": False, "converged": False, "note": "ended below A", "guide": "B", "bound": -2.0}
    unfitted = {**other, "note": "not fitted for 4000 unconstrained values", "guide": "C", "bound": None}
    figures = {"guide": "A", "bound": -1.0, "seconds": 2.0, "k_hat": 0.9, "guides": [tried, other, unfitted]}
    sentence = posteriors.guides_sentence(figures)
    assert "B -2.0000, C not fitted for 4000 unconstrained values" in sentence
    assert sentence.endswith("B has not converged: ended below A")
    notes = posterior_notes({"posterior": figures})
    assert "B: ended below A." in notes
    assert "cannot be weighted" in notes[-1]
