"""The part of a report in which the decoder runs: its elements, its data and its refusals."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from latentmix.experiments.data.base import Dataset, Split
from latentmix.experiments.runs.latents import latents_of
from latentmix.experiments.runs.page_walk import WALK, walk_section, walk_starts
from latentmix.experiments.runs.report import write_report
from latentmix.guides import AmortizedGuide
from latentmix.models import ContinuousBernoulli, ConvDecoder, Likelihood, MLPDecoder

from tests.experiments.runs.walked_runs import OwnDecoder, walked_run

VOID = {"meta", "input", "img", "br", "source", "link", "hr"}
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


class Nesting(HTMLParser):
    """Elements with those around them; `wrong` are ends that close another element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def with_attribute(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if name in attributes]


def section(folder: Path) -> dict[str, Any]:
    values = walk_section(folder, json.loads((folder / "summary.json").read_text()))
    assert values is not None
    return values


def data_of(text: str) -> dict[str, Any]:
    stored = re.search(r'<script type="application/json" class="walk-data">(.*?)</script>', text, re.DOTALL)
    assert stored is not None
    return dict(json.loads(stored[1]))


@pytest.mark.parametrize(("latent_dim", "shape"), [(2, (1, 6, 6)), (14, (3, 6, 8)), (2, (3,)), (1, (1, 6, 6))])
def test_the_section_is_whole_and_its_scripts_alone_may_run(
    latent_dim: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    walked_run(tmp_path, latent_dim, shape)
    text = write_report(tmp_path).read_text("utf-8")
    page = Nesting(text)
    assert not page.wrong
    assert not page.open
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0])
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert policy.split("; ")[0] == "default-src 'none'"
    assert policy.split("; ")[-1] == " ".join(["script-src", *(f"'sha256-{digest}'" for digest in digests)])
    assert len(scripts) == 2
    assert text.count("<script") == 3
    assert not re.search(r"https?://|file:|url\(|@import|\beval\b|Function\(", text)
    assert '<a href="#walk">' in text
    assert text.count("This part needs JavaScript") == 1
    labelled = {attributes["for"] for tag, attributes in page.tags if tag == "label" and "for" in attributes}
    assert {f"walk-z{k + 1}" for k in range(latent_dim)} == labelled
    ids = [attributes["id"] for attributes in page.with_attribute("id")]
    assert len(set(ids)) == len(ids)
    assert text.count('role="application"') == (latent_dim == 2)


def test_sliders_are_in_the_order_of_their_use_and_few_at_once(tmp_path: Path) -> None:
    walked_run(tmp_path, 14, (1, 6, 6))
    usage = json.loads((tmp_path / "summary.json").read_text())["test"]["kl_per_dimension"]
    values = section(tmp_path)
    order = [latent["index"] for latent in (*values["first"], *values["more"])]
    assert order == sorted(range(14), key=lambda k: -usage[k])
    assert len(values["first"]) == 12
    assert "2 more latents" in write_report(tmp_path).read_text("utf-8")


def test_sliders_span_the_samples_of_q(tmp_path: Path) -> None:
    walked_run(tmp_path, 3, (1, 6, 6))
    starts, values = json.loads((tmp_path / WALK).read_text()), section(tmp_path)
    latents = np.array(starts["latents"])
    assert latents.shape == (12, 3)
    assert (np.array(starts["low"]) < latents).mean() > 0.9
    assert (np.array(starts["high"]) > latents).mean() > 0.9
    assert len(base64.b64decode(starts["pixels"])) == 12 * 36
    assert values["names"][:2] == ["1, class cat & dog", "2, class <b>bird</b>"]
    assert "plane" not in starts


def test_large_images_are_fewer(tmp_path: Path) -> None:
    walked_run(tmp_path, 2, (3, 200, 200), decoder=ConvDecoder(2, (4,), (3, 200, 200)))
    starts = json.loads((tmp_path / WALK).read_text())
    assert len(starts["latents"]) == 2
    assert len(base64.b64decode(starts["pixels"])) == 2 * 120_000
    assert len(section(tmp_path)["names"]) == 2


def test_latents_of_no_spread_have_sliders_all_the_same(tmp_path: Path) -> None:
    walked_run(tmp_path, 2, (1, 6, 6))
    guide = AmortizedGuide.from_pretrained(tmp_path / "checkpoints")
    one = Split(torch.zeros(1, 1, 6, 6, dtype=torch.uint8))
    dataset = Dataset("own", one, one, one)
    starts = walk_starts(guide, dataset, latents_of(guide, one, "mean", 0), torch.arange(1), seed=0)
    (tmp_path / WALK).write_text(json.dumps(starts))
    values = section(tmp_path)
    assert not values["note"]
    assert values["names"] == ["1"]
    assert all(latent["low"] < latent["centre"] < latent["high"] for latent in values["first"])


def test_points_are_listed_in_their_units(tmp_path: Path) -> None:
    walked_run(tmp_path, 2, (3,))
    values = section(tmp_path)
    assert values["features"] == ["column 0", "column 1", "column 2"]
    assert values["data"]["units"] == {"centre": [10.0] * 3, "scale": [2.0] * 3}
    assert len(values["data"]["plane"]["latents"]) == 40
    assert "pixels" not in json.loads((tmp_path / WALK).read_text())
    text = write_report(tmp_path).read_text("utf-8")
    assert "from a test point" in text
    assert 'class="walk-strip' not in text


def test_without_places_of_latents_sliders_span_the_prior(tmp_path: Path) -> None:
    walked_run(tmp_path, 2, (1, 6, 6))
    (tmp_path / WALK).unlink()
    values = section(tmp_path)
    assert values["data"]["low"] == [-3.0, -3.0]
    assert not values["names"]
    assert not values["plane"]
    assert not Nesting(write_report(tmp_path).read_text("utf-8")).wrong


BROKEN: dict[str, Any] = {
    "low": [0.0],
    "high": [-1e3, 1.0],
    "centre": [None, 0.0],
    "latents": [[0.0, HOSTILE]],
    "labels": [HOSTILE] * 12,
    "pixels": "AAAA",
    "plane": {"latents": [[1e9, 0.0]], "labels": None},
}


@pytest.mark.parametrize("name", [*BROKEN, "all", "text"])
def test_broken_places_of_latents_are_told_and_left_out(name: str, tmp_path: Path) -> None:
    walked_run(tmp_path, 2, (1, 6, 6))
    starts = json.loads((tmp_path / WALK).read_text())
    broken = [HOSTILE] if name == "all" else starts | {name: BROKEN.get(name)}
    (tmp_path / WALK).write_text("{" if name == "text" else json.dumps(broken))
    text = write_report(tmp_path).read_text("utf-8")
    assert "Where test data lie cannot be read from walk.json." in text
    assert data_of(text)["low"] == [-3.0, -3.0]
    assert "alert(1)" not in text


def test_names_never_become_markup(tmp_path: Path) -> None:
    walked_run(tmp_path, 2, (1, 6, 6), names=(HOSTILE, f"{HOSTILE}2"))
    text = write_report(tmp_path).read_text("utf-8")
    page = Nesting(text)
    assert not page.wrong
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert "img" not in [tag for tag, _ in page.tags]


class OwnLikelihood(Likelihood):
    support = "unit_interval"

    def forward(self, outputs: Tensor) -> Any:
        return ContinuousBernoulli()(outputs)

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs[..., 0].sigmoid() ** 2


@pytest.mark.parametrize("imported", [True, False])
@pytest.mark.parametrize("part", ["decoder", "likelihood"])
def test_a_part_of_ones_own_is_told_in_a_sentence(part: str, imported: bool, tmp_path: Path) -> None:
    parts: dict[str, Any] = {"decoder": OwnDecoder(2, (1, 6, 6)), "likelihood": OwnLikelihood()}
    walked_run(tmp_path, 2, (1, 6, 6), **{part: parts[part]})
    kind = type(parts[part])
    name = f"{kind.__module__}.{kind.__name__}"
    if not imported:
        file = tmp_path / "checkpoints/vae.json"
        file.write_text(file.read_text().replace(kind.__module__, "of_another_machine"))
        name = f"of_another_machine.{kind.__name__}"
    text = write_report(tmp_path).read_text("utf-8")
    assert f"Its {part} is of the class {name}, for which there is no JavaScript." in text
    assert "<script" not in text
    assert "script-src" not in text
    assert "The autoencoder" in text


def test_the_class_of_the_prior_need_not_be_known(tmp_path: Path) -> None:
    walked_run(tmp_path, 2, (1, 6, 6))
    file = tmp_path / "checkpoints/vae.json"
    file.write_text(file.read_text().replace("latentmix.models.StandardNormal", "of_another_machine.Prior"))
    assert not section(tmp_path)["reason"]


def test_a_large_decoder_is_left_out(tmp_path: Path) -> None:
    walked_run(tmp_path, 2, (1, 6, 6), decoder=MLPDecoder(2, (1000, 1200), (1, 6, 6)))
    assert section(tmp_path)["reason"].startswith("Expected a decoder of at most 3 MB for the page; got one of 3.3 MB")
    text = write_report(tmp_path).read_text("utf-8")
    assert "got one of 3.3 MB" in text
    assert len(text) < 50_000


@pytest.mark.parametrize("change", [b"{", b'{"init_args": {"decoder": 3}}', b"[]", b'{"init_args": {}}'])
def test_broken_weights_are_told_without_paths(change: bytes, tmp_path: Path) -> None:
    walked_run(tmp_path, 2, (1, 6, 6))
    (tmp_path / "checkpoints/vae.json").write_bytes(change)
    text = write_report(tmp_path).read_text("utf-8")
    assert "The decoder is not in this page, and the rest of the page does without it. Expected" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize("name", [WALK, "checkpoints/vae.json", "checkpoints"])
def test_links_are_refused(name: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    walked_run(run, 2, (1, 6, 6))
    (run / name).rename(tmp_path / "private")
    (run / name).symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match="which is not followed"):
        write_report(run)


def test_a_run_without_weights_has_no_section(tmp_path: Path) -> None:
    assert walk_section(tmp_path, {}) is None


def test_random_states_stay_as_they_were(tmp_path: Path) -> None:
    walked_run(tmp_path, 2, (1, 6, 6))
    before = torch.get_rng_state()
    section(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
