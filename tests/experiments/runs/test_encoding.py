"""Latents of data: moments and draws of q, the same probabilities as `classify`, whatever the chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
from torch import Tensor

from latentmix.experiments.data.base import Split
from latentmix.experiments.runs import class_probabilities as module
from latentmix.experiments.runs.encoding import Encoding
from latentmix.experiments.runs.encoding_files import write_arrays, write_netcdf, write_table
from latentmix.experiments.runs.run import Run
from latentmix.guides import AutoregressiveFlow, DiagonalNormal, FullNormal
from latentmix.guides.families import Family
from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal

from tests.experiments.runs.test_class_probabilities import in_the_plane

FAMILIES = [DiagonalNormal(), FullNormal(), AutoregressiveFlow(transforms=1, hidden=(4,))]


def run_of(family: Family) -> tuple[Run, Tensor]:
    guide, fitted, images = in_the_plane(family)
    vae = VAE(MLPDecoder(latent_dim=2, hidden=(4,), shape=(1, 3, 3)), StandardNormal(2), Bernoulli())
    summary = {"data": {"classes": [0, 1], "class_names": ["cat", "dog"]}}
    return Run(vae, guide, {"em": {"none": fitted}}, {}, summary), images


@pytest.fixture(params=[1 << 21, 8])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All data at once, and two at a time."""
    monkeypatch.setattr(module, "_CHUNK", request.param)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("family", FAMILIES)
def test_mean_and_scale_are_those_of_q(family: Family) -> None:
    run, images = run_of(family)
    encoding = run.latents(images, average=None)
    torch.manual_seed(0)
    q = run.guide.posterior(images / 255.0)
    if isinstance(family, AutoregressiveFlow):
        draws = q.sample(torch.Size((40_000,)))
        mean, scale, tolerance = draws.mean(0), draws.std(0), 0.05
    else:
        mean, scale, tolerance = q.mean, q.variance.sqrt(), 1e-5
    np.testing.assert_allclose(encoding.mean, mean.detach(), atol=tolerance)
    np.testing.assert_allclose(encoding.scale, scale.detach(), atol=tolerance)
    assert encoding.draws is None
    said = "averages over draws of q" if isinstance(family, AutoregressiveFlow) else "exact"
    assert encoding.about["moments"] == said


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("average", ["draws", "noise", None])
def test_probabilities_are_those_of_classify_and_sum_the_responsibilities(average: str | None) -> None:
    run, images = run_of(FullNormal())
    options = {"average": average, "seed": 5}
    np.testing.assert_array_equal(
        run.latents(images, **options).probabilities, run.classify(images, draws=100, **options)
    )
    encoding = run.latents(images, draws=9, **options)
    np.testing.assert_allclose(encoding.probabilities, run.classify(images, draws=9, **options), rtol=1e-6)
    responsibilities = encoding.responsibilities
    assert encoding.components == ("0a", "1", "0b")
    np.testing.assert_allclose(responsibilities[:, 0] + responsibilities[:, 2], encoding.probabilities[:, 0])
    np.testing.assert_allclose(responsibilities[:, 1], encoding.probabilities[:, 1])


@pytest.mark.usefixtures("chunks")
def test_kept_draws_are_those_that_probabilities_average_over() -> None:
    run, images = run_of(FullNormal())
    encoding = run.latents(images, draws=9, seed=3)
    assert encoding.draws is not None
    plug_in = [run.fitted().classify(draws) for draws in encoding.draws]
    np.testing.assert_allclose(np.mean(plug_in, axis=0), encoding.probabilities, rtol=1e-9)
    for average in ("noise", None):
        np.testing.assert_array_equal(run.latents(images, draws=9, seed=3, average=average).draws, encoding.draws)
    assert not np.array_equal(run.latents(images, draws=9, seed=4).draws, encoding.draws)


def test_the_labels_of_a_split_are_named() -> None:
    run, images = run_of(DiagonalNormal())
    encoding = run.latents(Split(images, torch.arange(11) % 2))
    assert encoding.labels == ("cat", "dog") * 5 + ("cat",)
    assert encoding.to_dataset().coords["label"].values.tolist() == list(encoding.labels)


def test_options_are_refused_as_classify_does() -> None:
    run, images = run_of(AutoregressiveFlow(transforms=1, hidden=(4,)))
    with pytest.raises(ValueError, match=r"Expected a normal q, .* got AutoregressiveFlow"):
        run.latents(images, average="noise")
    with pytest.raises(ValueError, match="Expected draws from 1 to 100,000; got 0"):
        run.latents(images, draws=0)
    with pytest.raises(ValueError, match="Expected a fit of this run, em; got 'svi'"):
        run.latents(images, inference="svi")
    with pytest.raises(ValueError, match="Expected finite images"):
        run.latents(images * math.nan)


def test_bytes_remain_bytes_until_their_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Converting all images to floats at once would take four times their memory."""
    run, images = run_of(DiagonalNormal())
    monkeypatch.setattr(module, "_CHUNK", 8)
    sizes: list[int] = []
    monkeypatch.setattr(
        run.guide.encoder, "forward", lambda x, own=run.guide.encoder.forward: (sizes.append(len(x)), own(x))[1]
    )
    run.latents(images)
    assert max(sizes) <= 2 < len(images)


def encoded() -> Encoding:
    run, images = run_of(DiagonalNormal())
    return run.latents(Split(images, torch.arange(11) % 2), draws=3)


def test_arrays_and_netcdf_are_read_back_exactly(tmp_path: Path) -> None:
    encoding = encoded()
    write_arrays(tmp_path / "latents.npz", encoding)
    write_netcdf(tmp_path / "latents.nc", encoding)
    arrays = np.load(tmp_path / "latents.npz", allow_pickle=False)
    with xarray.open_dataset(tmp_path / "latents.nc", engine="h5netcdf") as dataset:
        dataset.load()
    assert dataset.sizes == {"image": 11, "latent": 2, "component": 3, "class": 2, "draw": 3}
    pairs = {"mean": "mean", "scale": "scale", "draws": "draws"}
    pairs |= {"responsibilities": "responsibility", "probabilities": "probability"}
    for array, variable in pairs.items():
        np.testing.assert_array_equal(arrays[array], getattr(encoding, array))
        np.testing.assert_array_equal(dataset[variable], getattr(encoding, array))
    for array, variable in (("classes", "class"), ("labels", "label"), ("components", "component")):
        assert arrays[array].tolist() == dataset[variable].values.tolist()
    assert arrays["predicted"].tolist() == dataset["predicted"].values.tolist() == encoding.predicted.tolist()
    assert {name: dataset.attrs[name] for name in encoding.about} == encoding.about
    assert {name: arrays[name].item() for name in encoding.about} == encoding.about


@pytest.mark.parametrize(
    "write",
    [
        lambda path, encoding: write_arrays(path, encoding),
        lambda path, encoding: write_netcdf(path, encoding),
        lambda path, encoding: write_table(path, iter([encoding])),
    ],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_leaves_no_file(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path, Encoding], None],
    error: type[BaseException],
) -> None:
    encoding = encoded()

    def interrupt(handle: int) -> None:
        raise error

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(error):
        write(tmp_path / "latents", encoding)
    assert list(tmp_path.iterdir()) == []
