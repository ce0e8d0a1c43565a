from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.figure import Figure

from latentmix.experiments.figures import save
from latentmix.experiments.presets import presets
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
        self.anchors: list[str] = []
        self.alternatives: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        self.anchors += [value or "" for name, value in attrs if name == "id"]
        self.alternatives += [value for name, value in attrs if name == "alt" and value]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_holds_every_picture_light_and_dark_and_refers_to_nothing_outside(run: Path) -> None:
    text = write_report(run).read_text("utf-8")
    page = Page(text)
    data = [reference for reference in page.references if not reference.startswith("#")]
    assert page.tags.count("img") == 2 * len(PICTURES)
    assert text.count('<img class="dark"') == len(PICTURES)
    assert len(data) == 2 * len(PICTURES) == len(set(data))
    assert all(reference.startswith("data:image/webp;base64,") for reference in data)
    assert not re.search(r"https?://|file:|url\(|@import", text)
    assert "script" not in page.tags
    assert str(run) not in text
    assert page.words.index("labels: none.") < page.words.index("labels: few.")


@pytest.mark.parametrize(("counts", "words"), [((0, 0), ""), ((1, 0), "1 step was"), ((1, 2), "3 steps were")])
def test_steps_that_were_skipped_are_told(run: Path, counts: tuple[int, int], words: str) -> None:
    file = run / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    lines = [json.dumps({**record, "skipped": count}) for record, count in zip(records, counts, strict=True)]
    file.write_text("\n".join(lines))
    text = write_report(run).read_text("utf-8")
    assert f"seed 0; {words}" in text if words else not re.search("steps? w[a-z]+ skipped", text)


def test_contents_link_every_section_and_every_picture(run: Path) -> None:
    text = write_report(run).read_text("utf-8")
    page = Page(text)
    links = {reference[1:] for reference in page.references if reference.startswith("#")}
    assert len(set(page.anchors)) == len(page.anchors)
    assert links == set(page.anchors)
    contents = set(re.findall(r'href="#([^"]+)"', text[text.index("<nav") : text.index("</nav>")]))
    assert contents == {anchor for anchor in page.anchors if not anchor.endswith("-large")}
    assert len(contents) == 4 + 1 + len(PICTURES)


def test_pictures_open_at_full_size_and_close_by_links(run: Path) -> None:
    text = write_report(run).read_text("utf-8")
    assert text.count('title="Open at full size"') == len(PICTURES)
    assert '<div class="frame" id="picture-losses-large"' in text
    assert '<a class="close" href="#picture-losses">Close</a>' in text
    assert '<a class="open" href="#picture-losses-large"' in text


def test_alternative_texts_say_more_than_names(run: Path) -> None:
    page = Page(write_report(run).read_text("utf-8"))
    assert len(page.alternatives) == len(PICTURES)
    assert page.alternatives[0].startswith("Curves of the terms of the bound over 2 epochs")
    assert any("100.0% on the diagonal" in text for text in page.alternatives)


def test_shows_date_command_and_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = Page(write_report(run).read_text("utf-8")).words
    assert run.name in words
    command = ["latentmix", "run", "digits", "--prior", "MixturePrior(10, covariance_type=full)"]
    values = {**summary(), "command": command, "date": "2026-11-29T09:36:01+01:00", "model": {"prior": "Vamp<i>"}}
    (run / "summary.json").write_text(json.dumps(values))
    monkeypatch.chdir(run.parent)
    text = write_report(Path(run.name)).read_text("utf-8")
    assert "<span>--prior</span> <span>" in text  # lines do not break at the dashes of an option
    page = Page(text)
    assert "2026-11-29, 09:36 (UTC+01:00)" in page.words
    assert "latentmix run digits --prior 'MixturePrior(10, covariance_type=full)'" in page.words
    assert "Vamp<i>" in page.words


def test_class_names_stand_in_the_tables(run: Path) -> None:
    values = summary()
    names = ["cat & dog", "1"]  # the second is the label of the first
    values["data"] |= {"classes": [1, 4], "class_names": names}
    for fits in values["mixtures"].values():
        for row in fits.values():
            row["per_class"] = dict(zip(names, row["per_class"].values(), strict=True))
    (run / "summary.json").write_text(json.dumps(values))
    text = write_report(run).read_text("utf-8")
    rows = re.findall(r'<th class="word" scope="row">(cat &amp; dog|1|4)</th>', text)
    assert rows == ["cat &amp; dog", "1"] * 3
    assert "classes cat & dog, 1:" in Page(text).words


def test_points_are_called_points(run: Path) -> None:
    values = summary()
    del values["test"]["ssim"]
    (run / "summary.json").write_text(json.dumps(values))
    words = Page(write_report(run).read_text("utf-8")).words
    assert "100 test points" in words
    assert "nats per point" in words
    assert "labelled points" in words
    assert "{things}" not in words


HOSTILE = "\"'><script>alert(1)</script><img src=https://example.org/x onerror=alert(1)>"


def hostile(value: Any) -> Any:
    """The value with every string replaced, and every key that is not of the format extended."""
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items()} | {HOSTILE: HOSTILE}
    if isinstance(value, list):
        return [HOSTILE for _ in value]
    return HOSTILE if isinstance(value, str) else value


def test_nothing_in_a_run_becomes_markup(run: Path) -> None:
    values = hostile(summary() | {"command": ["a"], "date": "b", "measure": "c", "device": "d"})
    fits = {"few": hostile(figures(0.5)) | {"per_class": {HOSTILE: {}}}, HOSTILE: {"accuracy": 0.5}}
    values["data"] |= {"classes": [1, 4], "class_names": [HOSTILE, f"{HOSTILE}2"]}
    values["mixtures"] = {"em": fits, HOSTILE: fits}
    values["agreement"] = {HOSTILE: {"weights": HOSTILE}}
    (run / "summary.json").write_text(json.dumps(values))
    (run / "config.yaml").write_text(HOSTILE)
    (run / "figures" / f"{HOSTILE.replace('/', '')}.png").write_bytes((run / "figures/extra.png").read_bytes())
    (run / "figures" / f"broken{HOSTILE.replace('/', '')}.png").write_bytes(b"")
    text = write_report(run).read_text("utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert page.tags.count("img") == 2 * (len(PICTURES) + 1)
    assert all(re.match(r"#[a-z0-9-]+$|data:image/webp;base64,[A-Za-z0-9+/=]+$", link) for link in page.references)
    assert HOSTILE in page.words
    assert "default-src 'none'" in text


@pytest.mark.parametrize("name", ["config.yaml", "figures/linked.png", "figures", "summary.json"])
def test_links_are_refused(run: Path, tmp_path: Path, name: str) -> None:
    write_report(run)
    before = (run / "report.html").read_bytes()
    if (run / name).exists():
        (run / name).rename(tmp_path / "private")
    else:
        (tmp_path / "private").write_bytes(b"secret")
    (run / name).symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match="which is not followed"):
        write_report(run)
    assert (run / "report.html").read_bytes() == before


@pytest.mark.parametrize("values", [[], 3, {"mixtures": {"em": [1]}}, {"data": {"classes": 3}}])
def test_a_summary_of_something_else_is_one_sentence(values: Any, run: Path) -> None:
    (run / "summary.json").write_text(json.dumps(values))
    with pytest.raises(
        ValueError, match=r"^Expected the figures of a finished run in .*summary\.json; got a (list|number)"
    ):
        write_report(run)


def test_shows_the_figures(run: Path) -> None:
    words = Page(write_report(run).read_text("utf-8")).words
    for figure in ("−98.76", "0.0123", "0.870", "647,337", "−3.2500", "1,200", "0.850 to 0.950", "97.3%", "2 epochs"):
        assert figure in words
    assert "6,000 training" in words
    assert "torch 2.15.0" in words


def test_shows_the_posterior_of_the_mixture(tmp_path: Path) -> None:
    count = 20
    posterior = {"point": [0.51] * count, "sd": [0.02] * count, "low": [-0.48] * count, "high": [0.54] * count}
    estimates = {
        "components": ["<i>"],
        "quantities": [["mean", 0, d] for d in range(count)],
        "fits": {"em": {"point": [0.5] * count, "sd": [0.03] * count}, "posterior": posterior},
        "sentence": "EM and the SVI posterior differ most.",
        "note": "the estimate is far from the maximum",
    }
    guide = {"guide": "AutoNormal", "bound": -1.25, "seconds": 0.5, "note": "a further step promises 9 nats"}
    interval = {"median": 0.8, "low": 0.75, "high": 0.85, "draws": 200}
    values = summary() | {"estimates": estimates}
    values["posterior"] = {"guide": "AutoNormal", "guides": [guide], "k_hat": 0.31, "k_hat_draws": 1000, "draws": 1000}
    values["mixtures"]["posterior"] = {"none": figures(0.7) | {"accuracy_interval": interval}}
    (tmp_path / "summary.json").write_text(json.dumps(values))
    page = Page(write_report(tmp_path).read_text("utf-8"))
    assert {"#posterior"} <= set(page.references)
    words = " ".join(page.words.split())
    for expected in (
        "EM and the SVI posterior differ most.",
        "mean of component <i>, dimension 20",
        "−0.480 to 0.540",
        "± 0.030",
        "median 0.800, 90% interval 0.750 to 0.850",
        "AutoNormal −1.2500 in 0.5 s",
        "AutoNormal: a further step promises 9 nats.",
        "k-hat, the Pareto k of its importance weights (of all 1,000 draws): 0.31",
        "EM: the estimate is far from the maximum.",
    ):
        assert expected in words, expected
    assert words.count("agree by construction") == 1
    assert words.count("mean of component <i>") == 12 + count  # the table that is open, and that of all


def test_a_posterior_that_failed_is_said(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(summary() | {"posterior": {"failed": "no memory"}}))
    assert "left out, for it failed: no memory." in Page(write_report(tmp_path).read_text("utf-8")).words


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


def test_a_description_is_that_of_the_run_and_not_of_its_preset(run: Path) -> None:
    own = presets()["digits"]
    (run / "summary.json").write_text(json.dumps({**summary(), "description": own}))
    (run / "config.yaml").write_text("data: {classes: [0, 1]}\nepochs: 100\n")
    words = Page(write_report(run).read_text("utf-8")).words.replace("\n", " ")
    assert f"The preset digits: {own} Here with data.classes 0, 1." in words
    (run / "config.yaml").write_text("epochs: [")
    assert own not in Page(write_report(run).read_text("utf-8")).words


@pytest.mark.parametrize("text", ["epochs: [", "- 1", "prior: {class_path: StandardNormal, init_args: [1]}"])
def test_a_description_of_ones_own_needs_no_configuration(run: Path, text: str) -> None:
    (run / "config.yaml").write_text(text)
    for own in ("Digits of mine.", presets()["digits"]):
        (run / "summary.json").write_text(json.dumps({**summary(), "description": own}))
        words = Page(write_report(run).read_text("utf-8")).words
        assert ("Digits of mine." in words) == (own == "Digits of mine.")


@pytest.mark.parametrize("epochs", [None, 100])
def test_the_listing_holds_no_description_that_the_run_contradicts(run: Path, epochs: int | None) -> None:
    own = presets()["digits"]
    (run / "summary.json").write_text(json.dumps({**summary(), "description": own}))
    config = {
        "name": "digits",
        "description": own,
        **({} if epochs is None else {"data": {"classes": [0, 1]}}),
        "seed": 0,
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    page = write_report(run).read_text("utf-8")
    listing = page.partition("The complete configuration")[2].partition("</details>")[0]
    assert ("description:" in listing) == (epochs is None)
    assert "name: digits" in listing
    assert "seed: 0" in listing
    assert (" ".join(own.split()) in " ".join(Page(listing).words.split())) == (epochs is None)
