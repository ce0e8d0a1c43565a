"""The page of a comparison: complete, self-contained, escaped, and right where data are missing."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from latentmix.experiments.comparison.page import write_comparison
from latentmix.experiments.comparison.results import RunComparison
from latentmix.experiments.comparison.wording import difference_words

from tests.experiments.comparison.comparisons import points, seeds, single, sweep

pytestmark = pytest.mark.usefixtures("coarse")


class Parsed(HTMLParser):
    """Elements of a page with their attributes, its headings, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.elements[-1:] and self.elements[-1][0] != "style":
            self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def written(comparison: RunComparison, folder: Path) -> Parsed:
    paths = write_comparison(comparison, folder)
    assert all(path.is_file() for path in paths)
    assert paths[-1] == folder / "compare.html"
    assert {path.name for path in paths[:-1]} == {path.name for path in (folder / "figures").iterdir()}
    return Parsed(paths[-1].read_text("utf-8"))


@pytest.fixture(scope="module")
def page_of_seeds(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    return written(seeds(), tmp_path_factory.mktemp("seeds"))


def test_the_page_refers_to_nothing_outside_itself_and_runs_no_script(page_of_seeds: Parsed) -> None:
    for tag, attributes in page_of_seeds.elements:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:"))
    policy = next(each["content"] for each in page_of_seeds.all("meta") if each.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_picture_has_an_alternative_text_and_a_dark_variant(page_of_seeds: Parsed) -> None:
    layers = [layer for layer in page_of_seeds.all("img") if layer.get("class") == "dark"]
    pictures = [picture for picture in page_of_seeds.all("img") if picture not in layers]
    assert len(pictures) == len(layers) == 5
    assert not any(layer["alt"] for layer in layers)
    assert all(len(picture["alt"] or "") > 40 for picture in pictures)
    assert len({picture["alt"] for picture in pictures}) == 5


def test_every_address_of_the_contents_is_there_once(page_of_seeds: Parsed) -> None:
    identifiers = [attributes["id"] for _, attributes in page_of_seeds.elements if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    addresses = {link["href"] for link in page_of_seeds.all("a")}
    assert addresses <= {f"#{identifier}" for identifier in identifiers}


def test_headings_are_in_order_and_scrolled_tables_are_reached_by_keyboard(page_of_seeds: Parsed) -> None:
    levels = [int(tag[1]) for tag, _ in page_of_seeds.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    wide = [attributes for _, attributes in page_of_seeds.elements if attributes.get("class") == "wide"]
    assert all(each["tabindex"] == "0" and each["aria-label"] for each in wide)
    assert len({each["aria-label"] for each in wide}) == len(wide)


def test_seeds_have_intervals_and_differences_in_words(page_of_seeds: Parsed) -> None:
    comparison = seeds()
    text = page_of_seeds.text
    assert "6 runs of 2 configurations side by side" in text
    assert "Runs of a group differ in their seed alone." in text
    for group in comparison.groups:
        elbo = group.figures["elbo"]
        assert f"{elbo.mean:,.2f}".replace("-", "−") in text
        assert f"{elbo.low:,.2f} to {elbo.high:,.2f}".replace("-", "−") in text
    pair = comparison.pairs[0]
    difference, ends, unit = difference_words("elbo", pair.interval)
    assert f"digits_mlp2 is better than digits in ELBO by {difference[1:]}{unit} on the same 50 test images" in text
    assert f"{difference} {ends}; p < 0.001" in text
    assert "Intervals cover new seeds and new data." in text
    assert "LOO of the mixtures of a, b is not compared" in text
    assert "torch 2.15.0" in text  # of the runs, which that of the comparison is not
    assert "latentmix compare runs/run-0-0" in text


def test_single_runs_say_that_other_seeds_are_not_known(tmp_path: Path) -> None:
    page = written(single(), tmp_path)
    assert "2 runs side by side" in page.text
    assert "what other seeds would give is not known" in page.text
    assert "Intervals are those of these very runs on new data, and tell nothing about other seeds." in page.text
    assert "MixturePrior alone classifies" in page.text
    assert "run-0-0 (SVI posterior) has the highest ELPD, by 9.0 ± 4.0 nats over run-1-0" in page.text
    assert "Not compared" not in page.text


def test_a_sweep_has_letters_and_a_group_of_rows_for_each_measure(tmp_path: Path) -> None:
    page = written(sweep(), tmp_path)
    assert "measure of the likelihood: density" in page.text
    assert page.text.count("measure of the likelihood:") == 2
    assert "B and A are not told apart in" in page.text or "than A in ELBO by" in page.text
    assert "MixturePrior(n_components=10, covariance_type=diag)" in page.text
    assert page.text.count(" than A in ") + page.text.count(" and A are not told apart in ") == 11


def test_points_without_classes_leave_out_sections_and_values_are_escaped(tmp_path: Path) -> None:
    page = written(points(), tmp_path)
    assert len([picture for picture in page.all("img") if picture["alt"]]) == 3
    assert "Classes and their probabilities" not in page.text
    assert "nats per point" in page.text
    assert "<script>alert(2)</script>" in page.text
    assert not page.all("script")


def test_runs_of_one_configuration_have_no_differences(tmp_path: Path) -> None:
    comparison = seeds()
    group = comparison.groups[0]
    one = replace(
        comparison,
        runs=comparison.runs[:3],
        groups=(group,),
        differences=comparison.differences[-1:],
        pairs=(),
        mcnemar=(),
        refusals=(),
    )
    page = written(one, tmp_path)
    assert "3 runs of one configuration side by side" in page.text
    assert "The runs are alike in everything but their seed." in page.text
    assert "Paired differences" not in page.text


def test_fits_over_the_same_latents_are_ranked_apart(tmp_path: Path) -> None:
    comparison = single()
    other = tuple(replace(row, fit="nuts", elpd=row.elpd - 1) for row in comparison.loo)
    page = written(replace(comparison, loo=(*comparison.loo, *other)), tmp_path)
    assert page.text.count("has the highest ELPD, by 9.0 ± 4.0 nats") == 2


def test_the_command_that_was_typed_is_named(tmp_path: Path) -> None:
    words = ["latentmix", "compare", "my runs", "--out", "it"]
    text = Parsed(write_comparison(points(), tmp_path, command=words)[-1].read_text("utf-8")).text
    assert "latentmix compare 'my runs' --out it" in text


def test_links_in_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="link"):
        write_comparison(points(), tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())
