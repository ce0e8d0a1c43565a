"""`posterior.nc`: what a run writes, its bounds, what plain ArviZ and xarray read, and files that are refused."""

from __future__ import annotations

import io
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import arviz
import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from pyro.infer.autoguide import AutoNormal
from sklearn.exceptions import ConvergenceWarning

from latentmix.experiments import load_run
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.runs import posterior_tree
from latentmix.experiments.runs.artifacts import RunFolder
from latentmix.experiments.runs.mixtures import FittedMixture
from latentmix.experiments.runs.pipeline import run_experiment
from latentmix.experiments.runs.posterior import POSTERIOR, posterior_bytes, read_posterior
from latentmix.experiments.runs.posterior_fits import chosen_fit
from latentmix.experiments.runs.posterior_tree import MOST_BYTES, run_tree
from latentmix.inference import NUTS, SVI, GaussianMixture, to_datatree
from latentmix.inference.datatree import obstacle

EARLIER = Path(__file__).parent / "earlier_run" / "finished"
QUICK = [
    *("--epochs", "1", "--data.limit", "120", "--data.classes", "1,4", "--data.labels_per_class", "2"),
    *("--encoder.hidden", "8", "--decoder.hidden", "8", "--mixture.draws", "1", "--mixture.n_init", "1"),
    *("--mixture.svi.epochs", "3", "--measure.samples", "2", "--mixture.covariance_type", "diag"),
]
CHAINS = ["--mixture.nuts.draws", "30", "--mixture.nuts.warmup", "80", "--mixture.nuts.chains", "2"]
LATENTS = np.random.RandomState(0).randn(90, 3) + np.repeat([[-3.0], [0.0], [3.0]], 30, 0)


def run(folder: Path, *options: str) -> Path:
    experiment = Experiment.from_config(parse_experiment("digits_mlp2", [*QUICK, *options]))
    run_experiment(experiment, folder, progress=False, pictures=False, tell=lambda _: None)
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("runs") / "one", *CHAINS)


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def mixtures() -> dict[str, dict[str, FittedMixture]]:
    """Three fits under the names of a run: two by SVI, the latter of full covariances, and NUTS."""
    algorithms = {
        "em": ("diag", "em"),
        "svi": ("diag", SVI(guide=AutoNormal, priors={}, epochs=50)),
        "posterior": ("full", SVI(guide=AutoNormal, priors={}, epochs=50)),
        "nuts": ("diag", NUTS(chains=2, draws=400, warmup=60)),
    }
    fits = {}
    for name, (kind, algorithm) in algorithms.items():
        mixture = GaussianMixture(3, covariance_type=kind, random_state=0, inference=algorithm)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(LATENTS)
        fits[name] = {"none": FittedMixture(mixture, (1, 4), (4, 1, 4), ("one", "four"))}
    return fits


def test_a_run_writes_its_posterior(finished: Path) -> None:
    tree = load_run(finished).to_datatree()
    assert tree.attrs["fit"] == "nuts"
    assert tree.attrs["fits"].split(", ")[0] == "nuts"
    assert dict(tree.posterior["means"].sizes) == {"chain": 2, "draw": 30, "component": 2, "feature": 2}
    assert {"sample_stats", "log_likelihood", "log_prior", "prior", "posterior_predictive"} <= set(tree.children)
    saved = load_run(finished).mixtures["nuts"]["none"].mixture.posterior_
    assert np.array_equal(tree.posterior["means"], saved.sites["means"])
    assert np.array_equal(tree.sample_stats["energy"], saved.sample_stats["energy"])
    assert set(tree.attrs["component_classes"].split(", ")) <= {"1", "4"}
    assert (finished / POSTERIOR).stat().st_size < MOST_BYTES


def test_plain_xarray_and_arviz_read_it(finished: Path) -> None:
    with xr.open_datatree(finished / POSTERIOR) as tree:
        assert tree.load().identical(read_posterior(finished))
        assert len(arviz.summary(tree, var_names=["weights"], kind="stats")) == 2
        arviz.loo(tree)
    assert read_posterior(finished / POSTERIOR).identical(read_posterior(str(finished)))


def test_to_datatree_takes_a_run(finished: Path) -> None:
    loaded = load_run(finished)
    assert to_datatree(loaded).identical(loaded.to_datatree())


def test_the_same_run_gives_the_same_file(finished: Path, tmp_path: Path) -> None:
    again = run(tmp_path / "again", *CHAINS)
    assert (again / POSTERIOR).read_bytes() == (finished / POSTERIOR).read_bytes()


def test_a_run_from_before_makes_it_on_request(copied: Path) -> None:
    whole = load_run(copied).to_datatree()
    (copied / POSTERIOR).unlink()
    tree = load_run(copied).to_datatree()
    for group in ("posterior", "sample_stats"):
        assert tree[group].to_dataset().equals(whole[group].to_dataset())
    assert "log_likelihood" not in tree
    assert "X=latents" in (obstacle(tree, "loo") or "")
    latents = whole.observed_data["x"].values
    remade = to_datatree(load_run(copied).mixtures["nuts"]["none"].mixture, X=latents)
    assert np.allclose(remade.log_likelihood["x"], whole.log_likelihood["x"], rtol=1e-5)
    assert xr.testing.assert_allclose(remade.log_prior.to_dataset(), whole.log_prior.to_dataset()) is None


def test_a_run_without_draws() -> None:
    with pytest.raises(ValueError, match=r"^Expected a run with draws .*--mixture\.nuts\.draws 500\.$"):
        load_run(EARLIER).to_datatree()


def test_each_fit_of_a_run_is_chosen_without_the_others(mixtures: dict[str, dict[str, FittedMixture]]) -> None:
    tree = run_tree(mixtures)
    for name, node in (("nuts", ""), ("posterior", "fit_posterior/"), ("svi", "fit_svi/")):
        chosen = chosen_fit(tree, name, Path("run"))
        assert chosen.attrs["fit"] == name
        assert chosen["posterior"].equals(tree[f"{node}posterior"])
        assert not any(child.startswith("fit_") for child in chosen.children)
    del tree["fit_svi"]  # of a file that others have changed
    with pytest.raises(ValueError, match=r"of which run has draws \(nuts, posterior\); got 'svi'"):
        chosen_fit(tree, "svi", Path("run"))


def test_fits_are_ordered_and_apart(mixtures: dict[str, dict[str, FittedMixture]]) -> None:
    tree = run_tree(mixtures, LATENTS)
    assert tree.attrs["fits"] == "nuts, posterior, svi"
    assert {name for name in tree.children if name.startswith("fit_")} == {"fit_posterior", "fit_svi"}
    assert tree.attrs["component_classes"] == "four, one, four"
    for name in ("posterior", "svi"):
        part = tree[f"fit_{name}"]
        assert part.attrs["inference"] == "svi"
        assert len(arviz.summary(part, var_names=["weights"], kind="stats")) == 3
        draws = mixtures[name]["none"].mixture.posterior_.thinned(500)
        assert np.array_equal(part["posterior"]["means"], draws.sites["means"])
        arviz.loo_approximate_posterior(part, log_p=part["sample_stats"]["log_p"], log_q=part["sample_stats"]["log_q"])
    assert "covariances" in tree["fit_posterior/posterior"]
    assert "covariances" not in tree["fit_posterior/prior"]
    covariances = mixtures["posterior"]["none"].mixture.posterior_.thinned(500).covariances
    assert np.allclose(tree["fit_posterior/posterior/covariances"], covariances, rtol=1e-5)
    first = run_tree({"svi": mixtures["svi"], "posterior": mixtures["posterior"]}, LATENTS)
    assert first.attrs["fits"] == "posterior, svi"


@pytest.mark.parametrize("most", [60_000, 150_000, 400_000, 900_000])
def test_the_size_is_bounded_and_what_is_left_out_said(
    most: int, mixtures: dict[str, dict[str, FittedMixture]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(posterior_tree, "MOST_BYTES", most + posterior_tree._OVERHEAD)
    data = posterior_bytes(mixtures, LATENTS)
    assert data is not None
    assert len(data) < most + posterior_tree._OVERHEAD
    tree = xr.open_datatree(io.BytesIO(data), engine="h5netcdf")
    for path, plan in {"/": tree, **{f"/fit_{name}": tree[f"fit_{name}"] for name in ("posterior", "svi")}}.items():
        left_out = plan.attrs.get("left_out", "")
        for group in ("log_likelihood", "posterior_predictive"):
            assert (group in plan.children) != (group in left_out), path
        assert {"log_p", "log_q"} <= set(plan["sample_stats"].data_vars) or path == "/"


def test_large_mixtures_keep_their_draws_and_leave_covariances_out() -> None:
    torch.manual_seed(0)
    structure = mixture_of(700, 50)
    tree = run_tree({"nuts": {"none": structure}}, np.zeros((60_000, 50)))
    assert tree.nbytes < MOST_BYTES
    assert {"weights", "means", "scales"} <= set(tree.posterior.data_vars)
    assert "covariances" not in tree.posterior
    assert "covariances" in tree.attrs["left_out"]
    assert "log_likelihood" in tree.attrs["left_out"]


def mixture_of(n_components: int, n_features: int) -> FittedMixture:
    from latentmix.inference import MixturePosterior
    from latentmix.models.mixture.covariances import covariance_structure

    size, full = (n_components, n_features), covariance_structure("full")
    sites = {
        "weights": torch.full((2, 3, n_components), 1 / n_components).double(),
        "means": torch.randn(2, 3, *size).double(),
        "scales": torch.ones(2, 3, *size).double(),
        "correlation_cholesky": torch.eye(n_features).double().expand(2, 3, n_components, -1, -1),
    }
    mixture = GaussianMixture(n_components, inference="nuts")
    mixture.weights_ = np.full(n_components, 1 / n_components)
    mixture.means_ = np.zeros(size)
    mixture.converged_, mixture.n_features_in_ = True, n_features
    mixture.posterior_ = MixturePosterior(sites, full, torch.zeros(n_features).double())
    return FittedMixture(mixture, (), ())


def rewritten(folder: Path, change: object) -> None:
    """The file with a change by a function of the open HDF5 file."""
    with h5py.File(folder / POSTERIOR, "r+") as file:
        change(file)  # type: ignore[operator]


def test_a_half_written_file(copied: Path) -> None:
    data = (copied / POSTERIOR).read_bytes()
    for length in (0, 10, len(data) // 2, len(data) - 100):
        (copied / POSTERIOR).write_bytes(data[:length])
        with pytest.raises(
            ValueError, match=r"^Expected the posterior of a run in .*posterior\.nc; got a damaged or half-written file"
        ):
            load_run(copied).to_datatree()


class _Sentence(Exception):
    """A refusal in one sentence."""


@contextmanager
def sentences() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise (_Sentence() if str(error).startswith("Expected") else error) from error


def test_damaged_bytes_are_one_sentence(copied: Path) -> None:
    data = bytearray((copied / POSTERIOR).read_bytes())
    random = np.random.RandomState(0)
    for _ in range(30):
        changed = bytearray(data)
        for place in random.randint(0, 4000, 20):
            changed[place] = random.randint(256)
        (copied / POSTERIOR).write_bytes(bytes(changed))
        with suppress(_Sentence), sentences():
            read_posterior(copied)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no netCDF at all", "got a damaged or half-written file"), (b"", "got a damaged or half-written file")],
)
def test_a_file_that_is_none(content: bytes, reason: str, copied: Path) -> None:
    (copied / POSTERIOR).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^Expected the posterior of a run in .*{reason}"):
        read_posterior(copied)


def test_another_netcdf_file(copied: Path) -> None:
    xr.Dataset({"x": ("t", [1.0])}).to_netcdf(copied / POSTERIOR, engine="h5netcdf")
    with pytest.raises(ValueError, match="got another netCDF file"):
        read_posterior(copied)


def test_a_file_of_a_newer_version(copied: Path) -> None:
    rewritten(copied, lambda file: file.attrs.__setitem__("latentmix_format", 99))
    with pytest.raises(ValueError, match=r"format 1 or less in .*; got 99, of a newer LatentMix: update it"):
        read_posterior(copied)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_draws_that_are_not_numbers(value: float, copied: Path) -> None:
    def spoil(file: h5py.File) -> None:
        file["posterior/means"][0, 3, 1, 0] = value

    rewritten(copied, spoil)
    with pytest.raises(ValueError, match=r"NaN or infinity at site 'means' in 1 of 60 draws"):
        load_run(copied).to_datatree()


def test_links_and_data_elsewhere(copied: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"12345678" * 4)
    changes = {
        "the link": lambda file: file.__setitem__("stolen", h5py.ExternalLink(str(secret), "/")),
        "the link ": lambda file: file["posterior"].__setitem__("loop", h5py.SoftLink("/posterior")),
        "data outside the file": lambda file: file.create_dataset(
            "stolen", (4,), "f8", external=[(str(secret), 0, 32)]
        ),
    }
    whole = (copied / POSTERIOR).read_bytes()
    for reason, change in changes.items():
        (copied / POSTERIOR).write_bytes(whole)
        rewritten(copied, change)
        with pytest.raises(ValueError, match=rf"^Expected the posterior of a run in .*; got {reason}"):
            read_posterior(copied)


def test_values_that_unpack_to_more_than_memory(copied: Path) -> None:
    def inflate(file: h5py.File) -> None:
        file["posterior"].create_dataset("bomb", (2**31,), "f8", chunks=(2**20,), compression="gzip")

    rewritten(copied, inflate)
    assert (copied / POSTERIOR).stat().st_size < 10 * MOST_BYTES
    with pytest.raises(ValueError, match=r"got more than 2 GiB of values at /posterior/bomb"):
        read_posterior(copied)


def test_a_link_in_its_place(copied: Path, tmp_path: Path, mixtures: dict[str, dict[str, FittedMixture]]) -> None:
    outside = tmp_path / "outside.nc"
    (copied / POSTERIOR).rename(outside)
    os.symlink(outside, copied / POSTERIOR)
    with pytest.raises(ValueError, match=r"the link .*posterior\.nc, which is not followed"):
        load_run(copied).to_datatree()
    with RunFolder.existing(copied).locked() as folder, pytest.raises(ValueError, match="the link"):
        folder.save_posterior(mixtures, LATENTS)
    assert xr.open_datatree(outside).attrs["fit"] == "nuts"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^Expected the posterior of a run in .*posterior.nc; got No such file"):
        read_posterior(tmp_path)


def test_another_change_while_the_run_writes_is_noticed(
    copied: Path, mixtures: dict[str, dict[str, FittedMixture]]
) -> None:
    with RunFolder.existing(copied).locked() as folder:
        assert folder.save_posterior(mixtures, LATENTS)
        assert not folder.save_posterior({"em": mixtures["em"]}, LATENTS)
        folder.check()
        (copied / POSTERIOR).write_bytes(b"other")
        with pytest.raises(ValueError, match=r"posterior\.nc"):
            folder.check()
