from __future__ import annotations

from typing import Any

import pytest

from latentmix.experiments.runs.captions import PICTURES, alternative_text, caption, kind_of, lost_accuracy, things


def fit(confusion: list[list[int]]) -> dict[str, Any]:
    total = sum(map(sum, confusion))
    accuracy = sum(row[k] for k, row in enumerate(confusion)) / total
    return {"accuracy": accuracy, "log_likelihood": -1.5, "iterations": 7, "confusion": confusion}


def summary(**changed: Any) -> dict[str, Any]:
    em, svi = fit([[8, 2], [1, 9]]), fit([[10, 0], [0, 10]])
    return {
        "data": {"classes": [0, 1], "class_names": ["cat", "dog"]},
        "test": {"mse": 0.0123, "ssim": 0.9, "kl_per_dimension": [0.5, 2.0], "active": [False, True]},
        "mixtures": {"em": {"none": em}, "svi": {"none": svi}},
        "agreement": {"none": {"assigned_alike": 0.973}},
        **changed,
    }


COVERAGE = {"covered": 1, "components": 2, "covered_components": [True, False], "outside": 0.125}
EPOCHS = [{"training": {"loss": loss}, "validation": {"loss": loss + 1}} for loss in (1234.5, 99.0)]


@pytest.mark.parametrize(
    ("stem", "phrases"),
    [
        ("losses", ["over 2 epochs", "from 1,234.50 to 99.00 nats", "100.00 on validation data"]),
        ("usage", ["2 latent dimensions, from 2.00 down to 0.50 nats; 1 is active"]),
        ("reconstructions", ["0.0123", "0.900 of 1"]),
        ("map", ["test images of 2 classes", "a colour and marker per class"]),
        ("latents_none", ["without labels", "EM gives 85.0% of them", "SVI gives 100.0%"]),
        ("em_against_svi", ["EM ends at −1.5000 nats per latent after 7 iterations", "97.3% of the latents"]),
        ("worst", ["those of greatest error", "0.0123"]),
        ("traversals", ["one for each of 2 latents, as it alone changes", "2.00 nats"]),
        ("prior", ["over contours of the prior, and beside them"]),
        ("components_none", ["each of EM and SVI", "the class that it stands for"]),
        (
            "confusion_none",
            [
                "of EM without labels on 20 test images: 85.0% on the diagonal",
                "(most often confused: cat as dog, 2 times)",
            ],
        ),
        ("confusion_none", ["of SVI without labels on 20 test images: 100.0% on the diagonal (none is confused)"]),
    ],
)
def test_a_text_says_what_is_seen(stem: str, phrases: list[str]) -> None:
    text = alternative_text(stem, summary(), EPOCHS)
    assert all(phrase in text for phrase in phrases), text


@pytest.mark.parametrize(
    ("size", "phrase"), [(1, "Curves of the densities"), (2, "For the latents"), (5, "For pairs of latents")]
)
def test_a_text_knows_the_panels_and_the_name_of_the_prior(size: int, phrase: str) -> None:
    text = alternative_text("prior", summary(model={"latent_dim": size, "prior": "VampPrior(n_components=20)"}))
    assert text.startswith(phrase)
    assert "of the prior (VampPrior)" in text


def test_a_traversal_says_how_many_latents_it_leaves_out() -> None:
    many = {"kl_per_dimension": [0.5] * 40, "active": [True] * 40}
    assert "each of 12 latents of 40" in alternative_text("traversals", summary(test=many))


@pytest.mark.parametrize("stem", ["points_in_space", "points_pairwise", "coverage"])
def test_points_are_called_points(stem: str) -> None:
    values = summary(coverage=COVERAGE, test={"mse": 0.1})
    text = alternative_text(stem, values)
    assert "image" not in text
    assert "of 2 components" in text
    assert ("not covered: dog" in text) == (stem == "coverage")
    assert things(values) == "points"


@pytest.mark.parametrize("kind", ["latent", "confusion"])
def test_captions_say_class_or_component_as_the_picture_does(kind: str) -> None:
    assert "component" in caption(kind, summary(coverage=COVERAGE))
    assert "class" not in caption(kind, summary(coverage=COVERAGE))
    assert "class" in caption(kind, summary())


@pytest.mark.parametrize("stem", ["map", "latents_none"])
def test_a_text_says_class_or_component_as_the_picture_does(stem: str) -> None:
    assert " of 2 components" in alternative_text(stem, summary(coverage=COVERAGE))
    assert "class" not in alternative_text(stem, summary(coverage=COVERAGE))


def test_pictures_differ_in_name() -> None:
    names = [name for name, _ in PICTURES.values()]
    assert len(set(names)) == len(names)
    assert PICTURES[str(kind_of("points_in_space"))] != PICTURES[str(kind_of("points_pairwise"))]


def test_components_without_names_are_numbered_as_in_the_picture() -> None:
    assert "not covered: 1." in alternative_text("coverage", summary(coverage=COVERAGE, data={}))


@pytest.mark.parametrize(
    ("size", "of_map", "of_latents"),
    [
        (2, "Scatter plot of the latents of test images of 2 classes, a", "side by side:"),
        (5, "Scatter plots of the latents of test images of 2 classes from 5 dimensions, a", "a panel for each comp"),
    ],
)
def test_a_text_knows_the_panels_of_the_latents(size: int, of_map: str, of_latents: str) -> None:
    values = summary(model={"latent_dim": size})
    assert alternative_text("map", values).startswith(of_map)
    assert of_latents in alternative_text("latents_none", values)


@pytest.mark.parametrize("stem", [*PICTURES, "latents_few", "confusion_all", "mine"])
@pytest.mark.parametrize("values", [{}, {"test": 3, "mixtures": [], "data": None}, {"test": {"active": None}}])
def test_a_text_without_figures_is_the_name(stem: str, values: dict[str, Any]) -> None:
    assert alternative_text(stem, values).strip(".")
    assert "None" not in alternative_text(stem, values)


def calibrated(ece: float) -> dict[str, Any]:
    way = {"accuracy": 0.9, "ece": ece, "nll": 0.5}
    return {"calibration": {"n_draws": 100, "plug_in": {**way, "ece": ece + 0.02}, "draws": way}}


def test_bad_calibration_is_said() -> None:
    fits = {"none": calibrated(0.161), "few": calibrated(0.03), "all": calibrated(0.13)}
    values = summary(mixtures={"em": fits, "svi": fits})
    sentence = "Without labels and with all labels they stay badly calibrated when averaged (ECE 0.13 to 0.16)"
    assert sentence in caption("reliability", values)
    text = alternative_text("reliability_few", values)
    assert "EM: expected calibration error 0.050 at the mean of q, 0.030 averaged over draws; SVI: " in text
    assert "badly" not in text
    assert "Without labels they stay badly calibrated" in alternative_text("reliability_none", values)
    poor = summary(mixtures={"em": dict.fromkeys(fits, calibrated(0.2))})
    assert "Without labels, with few labels and with all labels they stay badly calibrated" in caption(
        "reliability", poor
    )
    assert "badly" not in caption("reliability", summary(mixtures={"em": {"few": calibrated(0.09)}}))
    assert "badly" not in caption("reliability", summary())


def test_accuracy_lost_by_averaging_is_that_of_the_fit_in_use() -> None:
    few, none = calibrated(0.2), calibrated(0.2)
    few["calibration"]["draws"]["accuracy"] = 0.142
    few["calibration"]["noise"] = {"accuracy": 0.8, "ece": 0.1, "nll": 0.5}
    values = summary(mixtures={"em": {"none": none, "few": few}, "svi": {"none": none}})
    sentence = (
        "averaged over draws of q, this run's test data are classified with accuracy 0.142; by --average none 0.900, "
        "--average noise 0.800"
    )
    for fit, labels, expected in (
        ("em", None, sentence),
        ("em", "few", sentence),
        ("em", "none", ""),
        ("svi", None, ""),
        ("nuts", None, ""),
    ):
        assert lost_accuracy(values, fit, labels) == expected
    assert lost_accuracy({}, "em", None) == ""


def test_accuracy_lost_by_averaging_is_said() -> None:
    row = calibrated(0.2)
    row["calibration"]["plug_in"]["accuracy"] = 0.95
    text = caption("reliability", summary(mixtures={"em": {"few": calibrated(0.2)}, "svi": {"few": row}}))
    assert "Averaging over draws costs accuracy here, at most from 0.950 to 0.900:" in text
    assert "--average noise" in text
    row["calibration"]["plug_in"]["accuracy"] = 0.91
    assert "costs" not in caption("reliability", summary(mixtures={"svi": {"few": row}}))
