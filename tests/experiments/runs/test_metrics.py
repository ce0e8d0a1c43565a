"""Metrics against their definitions."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_score, recall_score

from latentmix.experiments.runs import metrics
from latentmix.experiments.runs.metrics import classification, reconstruction


def test_classification_matches_scikit_learn():
    generator = np.random.default_rng(0)
    labels = generator.choice([1, 4, 8], 200)
    predicted = np.where(generator.random(200) < 0.7, labels, generator.choice([1, 4], 200))
    figures = classification(labels, predicted, predicted, [1, 4, 8])
    assert figures["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert figures[name] == pytest.approx(score(labels, predicted, average="macro"))
        each = score(labels, predicted, average=None)
        assert [figures["per_class"][label][name] for label in ("1", "4", "8")] == pytest.approx(each)
    assert np.sum(figures["confusion"]) == 200
    assert [sum(row) for row in figures["confusion"]] == [np.sum(labels == label) for label in (1, 4, 8)]


def test_a_class_that_does_not_occur_does_not_count():
    figures = classification(np.array([1, 4, 1]), np.array([1, 4, 4]), np.array([0, 1, 1]), [0, 1, 4])
    assert figures["recall"] == pytest.approx((0.5 + 1.0) / 2)
    assert figures["precision"] == pytest.approx((1.0 + 0.5) / 2)
    assert figures["per_class"]["0"]["support"] == 0.0


def test_a_class_that_is_never_predicted_counts_as_zero():
    figures = classification(np.array([0, 1]), np.array([0, 0]), np.array([0, 0]), [0, 1])
    assert figures["per_class"]["1"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 1.0}
    assert figures["ari"] == 0.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("labels", "predicted", "classes", "confusion"),
    [
        ([7, 7], [7, 7], [7], [[2]]),
        ([7], [7], [7], [[1]]),
        ([7, 7], [7, 7], [1, 7], [[0, 0], [0, 2]]),
        ([1, 7], [7, 7], [7, 1], [[1, 0], [1, 0]]),
        ([0, 1, 2], [0, 1, 2], [0, 1, 2], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    ],
)
def test_few_classes_and_few_data_warn_of_nothing(labels, predicted, classes, confusion):
    figures = classification(np.array(labels), np.array(predicted), np.array(predicted), classes)
    assert figures["confusion"] == confusion
    assert all(np.isfinite(figures[name]) for name in ("accuracy", "precision", "recall", "f1", "ari", "nmi"))


@pytest.mark.parametrize("batch_size", [3, 100])
def test_reconstruction_is_the_mean_over_pixels(monkeypatch, batch_size):
    images = torch.randint(0, 256, (7, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(metrics, "reconstruct", lambda vae, guide, chunk: chunk / 255 + 0.1)
    shifted, squares = reconstruction(None, None, images, batch_size=batch_size)
    assert shifted["mse"] == pytest.approx(0.01, rel=1e-5)
    assert 0.9 < shifted["ssim"] < 1.0
    monkeypatch.setattr(metrics, "reconstruct", lambda vae, guide, chunk: chunk / 255)
    assert squares.shape == (7,)
    assert squares.mean() == shifted["mse"]
    exact, _ = reconstruction(None, None, images, batch_size=batch_size)
    assert exact == {"mse": pytest.approx(0.0, abs=1e-12), "ssim": pytest.approx(1.0, abs=1e-5)}
