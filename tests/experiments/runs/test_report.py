from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from latentmix.experiments.figures import save
from latentmix.experiments.runs.report import summary_table, write_report

PICTURES = ["losses", "reconstructions", "em_against_svi", "confusion_few", "confusion_none", "extra"]


def figures(accuracy: float) -> dict[str, Any]:
    row = {"precision": accuracy, "recall": accuracy, "f1": accuracy, "support": 12}
    return {
        "log_likelihood": -3.25,
        "test_log_likelihood": -3.5,
        "iterations": 1200,
        "seconds": 0.5,
        "accuracy": accuracy,
        "precision": accuracy,
        "recall": accuracy,
        "f1": accuracy,
        "ari": 0.5,
        "nmi": 0.6,
        "per_class": {"1": row, "4": row},
        "confusion": [[1, 0], [0, 1]],
    }


def summary() -> dict[str, Any]:
    few = {**figures(0.9), "accuracy_min": 0.85, "accuracy_max": 0.95, "draws": [0.85, 0.95]}
    fit = {"none": figures(0.7), "few": few, "all": figures(0.8)}
    test = {"mse": 0.0123, "ssim": 0.87, "elbo": -98.76, "log_likelihood": -90.0, "kl": 8.76}
    sizes = {"train": 6000, "validation": 100, "test": 100}
    return {
        "preset": "a<b>&c",
        "seed": 0,
        "versions": {"latentmix": "0.1.0", "torch": "2.15.0"},
        "parameters": 647337,
        "latents": "mean",
        "data": {"source": "<script>alert(1)</script>", "classes": [1, 4], "binarize": "dynamic", **sizes},
        "seconds": {"train": 12.3, "mixtures": 4.5, "total": 20.0},
        "test": test,
        "validation": test,
        "mixtures": {"em": fit, "svi": fit},
        "agreement": {"none": {"weights": 0.01, "means": 0.02, "covariances": 0.03, "assigned_alike": 0.973}},
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "summary.json").write_text(json.dumps(summary()))
    (tmp_path / "config.yaml").write_text("seed: 0\nname: </pre><b>bold</b>\n")
    bound = {"loss": 100.0, "log_likelihood": -90.0, "kl": 10.0}
    epochs = [{"epoch": epoch, "training": bound, "validation": None} for epoch in (1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    for size, name in enumerate(PICTURES, start=1):
        save(Figure(figsize=(0.1 * size, 0.1)), tmp_path / "figures" / f"{name}.png")
    return tmp_path


class Page(HTMLParser):
    """Tags, references and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_holds_every_picture_and_refers_to_nothing_outside(run: Path) -> None:
    text = write_report(run).read_text("utf-8")
    page = Page(text)
    assert page.tags.count("img") == len(PICTURES) == len(page.references)
    for name in PICTURES:
        data = base64.b64encode((run / "figures" / f"{name}.png").read_bytes()).decode()
        assert f"data:image/png;base64,{data}" in page.references
    assert not re.search(r"https?://|file:|url\(|@import", text)
    assert str(run) not in text
    assert page.words.index("labels: none.") < page.words.index("labels: few.")


def test_shows_the_figures(run: Path) -> None:
    words = Page(write_report(run).read_text("utf-8")).words
    for figure in ("−98.76", "0.0123", "0.870", "647,337", "−3.2500", "1,200", "0.850 to 0.950", "97.3%", "2 epochs"):
        assert figure in words
    assert "6,000 training" in words
    assert "torch 2.15.0" in words


def test_escapes_values(run: Path) -> None:
    page = Page(write_report(run).read_text("utf-8"))
    assert "script" not in page.tags
    assert page.tags.count("pre") == 1
    assert "<script>alert(1)</script>" in page.words
    assert "</pre><b>bold</b>" in page.words
    assert "a<b>&c" in page.words


@pytest.mark.parametrize("lacks", [["mixtures", "agreement"], ["test", "validation"], list(summary())])
def test_omits_sections_without_data(tmp_path: Path, lacks: list[str]) -> None:
    values = {key: value for key, value in summary().items() if key not in lacks}
    (tmp_path / "summary.json").write_text(json.dumps(values))
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert "img" not in page.tags
    assert ("The mixtures" in page.words) == ("mixtures" not in lacks)
    assert ("The autoencoder" in page.words) == ("test" not in lacks)


def test_mixtures_without_labels(tmp_path: Path) -> None:
    fit = {"none": {"log_likelihood": -3.25, "iterations": 12, "seconds": 0.5}}
    (tmp_path / "summary.json").write_text(json.dumps({"mixtures": {"em": fit, "svi": fit}}))
    words = Page(write_report(tmp_path).read_text("utf-8")).words
    assert "−3.2500" in words
    assert "accuracy" not in words
    assert summary_table({"mixtures": {"em": fit}}).splitlines()[2].split()[:4] == ["none", "EM", "-3.2500", "12"]


def test_refuses_a_folder_without_summary(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected summary\.json in "):
        write_report(tmp_path)


def test_summary_table_is_aligned() -> None:
    lines = summary_table(summary()).splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [
        [budget, fit] for budget in ("none", "few", "all") for fit in ("EM", "SVI")
    ]
    columns = ["mean log p(z)", "iterations", "seconds", "accuracy", "precision", "recall", "F1"]
    assert re.split("  +", lines[0])[2:] == columns
    assert len({len(line) for line in lines}) == 1
    assert "0.900" in lines[4]
