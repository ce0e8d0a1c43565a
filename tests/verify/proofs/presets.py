"""Figures of whole runs of presets on test images."""

from __future__ import annotations

from typing import Any

from tests.verify.registry import Figures, proof
from tests.verify.runs import PARTS, WITHOUT, mnist_root, preset, summary_of


def figures_of(summary: dict[str, Any]) -> dict[str, Any]:
    """The figures of a summary's tables."""
    names = ("log_likelihood", "iterations", "seconds", "accuracy", "precision", "recall", "f1")
    mixtures = {
        f"{inference}, {budget}": {name: figures[name] for name in names}
        for inference, budgets in summary["mixtures"].items()
        for budget, figures in budgets.items()
    }
    return {"test": summary["test"], "seconds": summary["seconds"], "mixtures": mixtures}


@proof(*PARTS, *preset("digits"), without=WITHOUT)
def digits_are_classified() -> Figures:
    """On the ten digits with 5 labelled images each the mean accuracy of both fits is 0.80 or more."""
    summary = summary_of("digits")
    accuracies = [summary["mixtures"][inference]["few"]["accuracy"] for inference in ("em", "svi")]
    return {"passed": min(accuracies) >= 0.80, **figures_of(summary)}


@proof(*PARTS, *preset("mnist_conv64"), without=WITHOUT)
def mnist_is_reconstructed() -> Figures:
    """`mnist_conv64` on the digits 1, 4 and 8 reaches a test MSE below 0.0150 and an SSIM above 0.85."""
    summary = summary_of("mnist_conv64", "--data.root", mnist_root(), "--data.classes", "1,4,8")
    passed = summary["test"]["mse"] < 0.0150 and summary["test"]["ssim"] > 0.85
    return {"passed": passed, "parameters": summary["parameters"], **figures_of(summary)}
