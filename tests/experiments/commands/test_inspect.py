"""`latentmix inspect`: a posterior in words and pictures; nothing is overwritten, and refusals are one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import arviz
import h5py
import numpy as np
import pytest
import xarray as xr

from latentmix.experiments.cli import main
from latentmix.experiments.figures.posterior import PLOTS
from latentmix.experiments.options.names import POSTERIOR_PLOTS
from latentmix.experiments.reading.trees import read_tree
from latentmix.experiments.runs.locks import FolderLock
from latentmix.experiments.runs.posterior_tree import fit_node
from latentmix.inference.diagnostics.guides import importance_weights

from tests.experiments.figures.posteriors import mixture_tree, schools_tree

pytestmark = pytest.mark.usefixtures("coarse")

Inspect = Callable[..., str]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a posterior by MCMC, of one by SVI, and of two fits as a run has them."""
    folder = tmp_path_factory.mktemp("posteriors")
    trees = {"mcmc": schools_tree(), "svi": mixture_tree(3, 2, "svi", draws=300), "run": mixture_tree(3, 2)}
    other = mixture_tree(2, 2, "svi")
    groups = {
        f"/{fit_node('posterior')}{node.path.rstrip('/')}": node.to_dataset(inherit=False) for node in other.subtree
    }
    run = {node.path: node.to_dataset(inherit=False) for node in trees["run"].subtree}
    trees["run"] = xr.DataTree.from_dict({**run, **groups})
    trees["run"].attrs.update(fit="nuts", fits="nuts, posterior", left_out="prior: too large", converged=0)
    for name, tree in trees.items():
        tree.to_netcdf(folder / f"{name}.nc", engine="h5netcdf")
    return folder


@pytest.fixture
def inspect(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Inspect:
    """What `latentmix inspect` prints, in a folder with the files; on an error what it refuses with."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def run(*words: str, code: int = 0) -> str:
        assert main(["inspect", *words]) == code
        printed = capsys.readouterr()
        if code:
            assert not printed.out
            assert printed.err.count("\n") == 1
            assert printed.err.startswith("latentmix: Expected")
        return printed.err if code else printed.out

    return run


def test_the_summary_is_arviz_own_in_full(inspect: Inspect, files: Path) -> None:
    text = inspect("mcmc.nc")
    assert arviz.summary(read_tree(files / "mcmc.nc"), ci_prob=0.9).to_string() in text
    assert "eti90_lb" in text
    assert "theta[Phillips Andover]" in text
    assert "mcse_sd" in text
    assert "MCMC (NUTS): 4 chains of 60 draws of mu, tau, theta" in text
    assert "Divergent transitions: 2 of 240; draws near them are biased" in text
    assert "Trees at the greatest depth: 0 of 240.\n" in text
    bfmi = float(np.asarray(arviz.bfmi(read_tree(files / "mcmc.nc"))["energy"]).min())
    assert f"Least BFMI of a chain: {bfmi:.2f}." in text


def test_the_file_of_a_run_is_read_once(inspect: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    read = xr.open_datatree
    monkeypatch.setattr(xr, "open_datatree", lambda *args, **options: opened.append(args) or read(*args, **options))
    inspect("run.nc", "--var", "weights")
    assert len(opened) == 1


def test_a_guide_has_k_hat_in_the_place_of_r_hat(inspect: Inspect, files: Path) -> None:
    text = inspect("svi.nc")
    stats = read_tree(files / "svi.nc")["sample_stats"]
    k_hat = importance_weights(stats["log_p"].values, stats["log_q"].values).k_hat
    assert f"k-hat {k_hat:.2f}: the guide is close to the posterior" in text
    assert "r_hat" not in text
    assert "ess" not in text
    assert "SVI (AutoNormal): 300 independent draws" in text


def test_a_guide_far_from_the_posterior_is_called_so(inspect: Inspect, files: Path) -> None:
    tree = read_tree(files / "svi.nc")
    x = np.random.default_rng(0).normal(size=(1, 300))
    tree["sample_stats"] = tree["sample_stats"].to_dataset().assign(log_p=(("chain", "draw"), 30 * x**2))
    tree.to_netcdf("far.nc", engine="h5netcdf")
    assert "the guide misses parts of the posterior" in inspect("far.nc")
    tree["sample_stats"] = tree["sample_stats"].to_dataset().drop_vars("log_q")
    tree.attrs["log_q_omitted"] = "The guide is a point in 2 of 15 dimensions, and has no density there."
    tree.to_netcdf("point.nc", engine="h5netcdf")
    assert "No k-hat: The guide is a point in 2 of 15 dimensions" in inspect("point.nc")


def test_draws_of_an_estimate_are_called_no_posterior(inspect: Inspect, files: Path) -> None:
    tree = read_tree(files / "svi.nc")
    tree.attrs["inference"] = "em_sandwich"
    tree.to_netcdf("em.nc", engine="h5netcdf")
    text = inspect("em.nc")
    assert "EM with sandwich covariance (AutoNormal): 300 independent draws" in text
    assert "which is no posterior." in text
    assert "k-hat" not in text


def test_variables_and_fits_are_chosen(inspect: Inspect) -> None:
    text = inspect("run.nc", "--var", "weights,scales")
    assert text.startswith("Fit nuts, MCMC")
    assert "weights[2]" in text
    assert "scales[2, 1]" in text
    assert "means[" not in text
    assert "Left out of the file: prior: too large." in text
    assert "The fit says that it has not converged." in text
    assert "Feature 0 is dimension 1 of the run's tables, and z1 of its pictures." in text
    other = inspect("run.nc", "--inference", "posterior")
    assert "SVI (AutoNormal)" in other
    assert "weights[1]" in other
    assert "weights[2]" not in other


def test_many_quantities_are_left_out_aloud_and_shown_on_request(inspect: Inspect) -> None:
    tree = xr.DataTree.from_dict(
        {
            "posterior": xr.Dataset(
                {
                    "mu": (("chain", "draw"), np.random.rand(2, 30)),
                    "z": (("chain", "draw", "image"), np.random.rand(2, 30, 201)),
                    "unit": (("chain", "draw"), np.ones((2, 30))),
                },
                {"chain": [0, 1], "draw": np.arange(30), "image": np.arange(201)},
            )
        }
    )
    tree.to_netcdf("many.nc", engine="h5netcdf")
    text = inspect("many.nc")
    assert "Not in the table: z, 201 quantities; show them by --var z." in text
    assert "Constant: unit." in text
    assert "z[0]" not in text
    full = inspect("many.nc", "--var", "z")
    assert all(f"\nz[{place}] " in full for place in range(201))
    assert "..." not in full
    assert inspect("many.nc", "--plots", "rank", "--var", "unit", code=2).endswith("for plot_rank; got none.\n")


def test_all_plots_that_can_be_are_drawn_and_the_others_are_named(inspect: Inspect, tmp_path: Path) -> None:
    text = inspect("svi.nc", "--plots", "all", "--out", "pictures", "--var", "weights")
    drawn = {path.stem.removeprefix("posterior_") for path in (tmp_path / "pictures").iterdir()}
    assert drawn == set(POSTERIOR_PLOTS) - {"rank", "energy", "loo_pit"}
    assert "No rank: Expected two chains or more for plot_rank; got one" in text
    assert "pictures/posterior_pair.png" in text


def test_plots_of_markov_chains_go_into_a_new_folder(inspect: Inspect, tmp_path: Path) -> None:
    inspect("mcmc.nc", "--plots", "energy, rank,energy", "--var", "mu")
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("inspect-mcmc-")
    assert {path.name for path in folder.iterdir()} == {"posterior_energy.png", "posterior_rank.png"}


def test_pictures_show_the_quantities_that_are_least_certain(
    inspect: Inspect, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = read_tree(files / "run.nc")
    means = tree["posterior"]["means"].copy()
    means[1, :, 2, 1] += 5.0  # the chains disagree
    tree["posterior"] = tree["posterior"].to_dataset().assign(means=means, copies=means)
    tree.to_netcdf("apart.nc", engine="h5netcdf")
    seen = []
    plot = PLOTS["pair"]

    def watch(tree, panels):
        seen.append(panels)
        return plot.draw(tree, panels)

    monkeypatch.setattr(
        "latentmix.experiments.runs.inspection.PLOTS", {**PLOTS, "pair": type(plot)(plot.function, 5, watch)}
    )
    assert "(means[2, 1])" in inspect("apart.nc", "--plots", "pair", "--out", "o")
    assert "means[2, 1]" in seen[0].names
    assert len(seen[0].names) == 5
    assert not any(name.startswith("copies") for name in seen[0].names)  # they repeat others
    assert seen[0].words == "5 of 15 quantities, those of greatest R-hat"


@pytest.mark.parametrize("name", ["copy.nc", "copy.zarr"])
def test_the_tree_is_written_whole_and_read_back(inspect: Inspect, files: Path, name: str) -> None:
    assert inspect("run.nc", "--to", name).endswith(f"{name}\n")
    assert read_tree(Path(name)).identical(read_tree(files / "run.nc"))
    assert sorted(inspect(name).splitlines()[1:]) == sorted(inspect("run.nc").splitlines()[1:])
    inspect("run.nc", "--inference", "posterior", "--to", "other.nc")
    other = read_tree(Path("other.nc"))
    assert other["posterior"].sizes["component"] == 2
    assert "fit_posterior" not in other.children


def test_all_plots_among_others_are_all(inspect: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentmix.experiments.runs.inspection.Inspection.obstacle", lambda *_: "Expected nothing.")
    text = inspect("mcmc.nc", "--plots", "trace,all", "--out", "o")
    assert [line.split(":")[0] for line in text.splitlines()[-len(PLOTS) :]] == [f"No {plot}" for plot in PLOTS]


def test_nothing_is_overwritten(inspect: Inspect, tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "posterior_rank.png").write_text("mine")
    assert "o/posterior_rank.png, which exists already" in inspect(
        "mcmc.nc", "--plots", "trace,rank", "--out", "o", code=2
    )
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["posterior_rank.png"]
    assert "exists already: name another by --to" in inspect("mcmc.nc", "--to", "svi.nc", code=2)
    assert "mcmc.nc is no folder" in inspect("mcmc.nc", "--plots", "rank", "--out", "mcmc.nc", code=2)


REFUSED = {
    "mcmc.nc --var them": r"variables of the posterior, mu, tau, theta, for --var; got 'them'",
    "mcmc.nc --var thet": "did you mean theta?",
    "mcmc.nc --plots traces": "did you mean trace?",
    "mcmc.nc --plots all,traces": "did you mean trace?",
    "svi.nc --plots forest,energy": "Expected the energy of every draw for plot_energy; got none: draws by SVI",
    "svi.nc --inference nuts": "got svi.nc, which holds a single posterior: leave the option out",
    "run.nc --inference svi": "(nuts, posterior); got 'svi': SVI's answer is a point without draws, unless",
    "run.nc --inference NUTS": "did you mean nuts?",
    "run.nc --inference em": "(nuts, posterior); got 'em': EM's answer is a point without draws",
    "run.nc --inference nutz": "did you mean nuts?",
    "half.nc": "in half.nc; got a damaged or half-written file",
    "words.nc": "in words.nc; got a damaged or half-written file",
    "prior.nc": "the dimensions chain and draw, in prior.nc; got the groups prior",
    "flat.nc": "in flat.nc; got 'mu' with the dimensions sample",
    "nan.nc": "got NaN or infinity at site 'tau' in 1 of 240 draws",
    "link.nc": "in link.nc; got the link /posterior/mu: restore the file from a copy, or make it anew.",
    "newer.nc": "got 99, of a newer LatentMix: update it",
    "folder.zarr": "in folder.zarr",
    "mcmc.nc --max_gib 0.000001": "in mcmc.nc; got more than 1e-06 GiB of values at /",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(inspect: Inspect, tmp_path: Path, words: str) -> None:
    whole = Path("mcmc.nc").read_bytes()
    Path("half.nc").write_bytes(whole[: len(whole) // 2])
    Path("words.nc").write_text("no netCDF")
    Path("folder.zarr").mkdir()
    tree = schools_tree()
    xr.DataTree.from_dict({"prior": tree["prior"].to_dataset()}).to_netcdf("prior.nc", engine="h5netcdf")
    xr.DataTree.from_dict({"posterior": xr.Dataset({"mu": ("sample", np.zeros(4))})}).to_netcdf(
        "flat.nc", engine="h5netcdf"
    )
    tree["posterior"]["tau"][1, 3] = np.nan
    tree.to_netcdf("nan.nc", engine="h5netcdf")
    with h5py.File("link.nc", "w") as stored:
        stored.create_group("posterior")["mu"] = h5py.ExternalLink("mcmc.nc", "/posterior/mu")
    newer = schools_tree()
    newer.attrs["latentmix_format"] = 99
    newer.to_netcdf("newer.nc", engine="h5netcdf")
    before = {path.name for path in tmp_path.iterdir()}
    assert REFUSED[words] in inspect(*words.split(), code=2)
    assert {path.name for path in tmp_path.iterdir()} == before


EARLIER = Path(__file__).parents[1] / "runs" / "earlier_run"


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("finished", "got one whose fits are points alone: run it again with --mixture.posterior.guide best"),
        ("interrupted", "resume"),
    ],
)
def test_a_run_without_a_posterior_says_what_to_do(inspect: Inspect, run: str, words: str) -> None:
    assert words in inspect(str(EARLIER / run), code=2)


def test_pictures_beside_a_runs_own_are_drawn_under_its_lock(
    inspect: Inspect, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(EARLIER / "finished", tmp_path / "run")
    (run / "figures").mkdir()
    monkeypatch.setattr(
        "latentmix.experiments.runs.posterior_fits.load_posterior", lambda *_, **__: read_tree(files / "run.nc")
    )
    with FolderLock(run):
        assert "which process" in inspect("run", "--plots", "rank", "--out", "run/figures", code=2)
    inspect("run", "--plots", "rank", "--out", "run/figures")
    assert [path.name for path in (run / "figures").iterdir()] == ["posterior_rank.png"]


def test_zarr_is_an_extra(inspect: Inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentmix.experiments.reading.trees.importlib.util.find_spec", lambda name: None)
    refused = inspect("mcmc.nc", "--to", "copy.zarr", code=2)
    assert "pip install 'latentmix[zarr]'" in refused
    assert not Path("copy.zarr").exists()
