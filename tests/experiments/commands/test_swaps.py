"""Parts and objectives, a user's own among them, are swapped by one option; those that do not fit are refused."""

import json

import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO

from latentmix.experiments import load_run
from latentmix.experiments.cli import main
from latentmix.experiments.options.command_line import parse_experiment
from latentmix.experiments.options.experiment import Experiment
from latentmix.experiments.options.settings import Training, compose_objective
from latentmix.experiments.runs.pipeline import Session, run_experiment
from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import Callback, bound_of
from latentmix.models import VAE, Bernoulli, Gaussian, MixturePrior, MLPDecoder, StandardNormal

QUICK = [
    *("--epochs", "1", "--data.limit", "60", "--data.labels_per_class", "1", "--encoder.hidden", "[16]"),
    *("--decoder.hidden", "[16]", "--mixture.n_components", "2", "--mixture.n_init", "1"),
    *("--mixture.posterior.guide", "none"),
    *("--mixture.svi.epochs", "3", "--mixture.max_iter", "10"),
]


def prepared(*options):
    return Session.prepare(Experiment.from_config(parse_experiment("digits_mlp2", [*QUICK, *options])), lambda _: None)


def run(folder, *options):
    experiment = Experiment.from_config(parse_experiment("digits_mlp2", [*QUICK, *options]))
    return run_experiment(experiment, folder, progress=False, pictures=False, tell=lambda _: None)


def test_call_forms_are_equal_to_options():
    words = ["--likelihood", "Gaussian(0.3)", "--prior=MixturePrior(4, covariance_type=full)", "--objective"]
    session = prepared(*words, "RenyiELBO(0.5, num_particles=3)", "--encoder", "MLPEncoder([8])")
    assert session.vae.likelihood.var_x == 0.3
    assert (session.vae.prior.n_components, session.vae.prior.covariance_type) == (4, "full")
    assert (session.experiment.elbo.alpha, session.experiment.elbo.num_particles) == (0.5, 3)
    assert list(session.guide.encoder.hidden) == [8]


def test_a_swapped_class_keeps_no_argument_of_the_other():
    config = Experiment.from_config(parse_experiment("gmm3d", ["--likelihood", "Laplace"])).config
    assert "var_x" not in config["likelihood"]["init_args"]
    config = Experiment.from_config(parse_experiment("gmm3d", ["--likelihood", "Gaussian(pixel)"])).config
    assert config["likelihood"]["init_args"]["var_x"] == "pixel"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "TraceMeanField_ELBO", "--prior", "MixturePrior(2)"], "analytic KL divergence"),
        (["--objective", "TraceMeanField_ELBO", "--family", "AutoregressiveFlow"], "analytic KL divergence"),
        (["--free_bits", "0.1", "--prior", "MixturePrior(2)"], "products of Normals"),
        (["--free_bits", "0.1", "--objective", "RenyiELBO(0.5)"], "--free_bits"),
        (["--warmup", "2", "--objective", "RenyiELBO(0.5)"], "beta=1 and warmup=0"),
        (["--beta", "0"], "a weight beta > 0"),
        (["--data.binarize", "none"], "zeros and ones for Bernoulli"),
        (["--prior", "MixturePrior(0)"], "n_components"),
        (["--likelihood", "Gaussian(0)"], "var_x to be a positive number"),
        (["--likelihood", "Gaussian(-1)"], "var_x to be a positive number"),
        (["--likelihood.var_x", "0.1"], "an argument of Bernoulli (none); got 'var_x': it is one of Gaussian"),
        (["--likelihood", "Nonsense"], "or the import path of a class of your own; got 'Nonsense'"),
        (["--start_prior", "1", "--epochs", "2"], "Expected a MixturePrior for --start_prior"),
        (["--start_prior", "1", "--prior", "MixturePrior(2)"], "--start_prior below --epochs"),
        (["--encoder", "ConvEncoder([4])", "--data.source", "gmm3d"], "(channels, height, width)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_parts_that_do_not_fit_are_refused_before_anything_is_written(tmp_path, capsys, options, message):
    assert main(["run", "digits_mlp2", *QUICK, *options, "--out", str(tmp_path / "run")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    vae = VAE(MLPDecoder(latent_dim=3, hidden=(8,), shape=(1, 4, 4)), StandardNormal(3), Bernoulli())
    guide = AmortizedGuide(MLPEncoder(latent_dim=3, hidden=(8,), shape=(1, 4, 4)))
    return vae, guide, torch.rand(20, 1, 4, 4).round()


def terms(tiny, elbo, **options):
    vae, guide, x = tiny
    torch.manual_seed(1)
    return compose_objective(elbo, Training(**options)).terms(vae.model, guide, x)


def test_beta_weighs_the_kl_and_leaves_the_bound(tiny):
    plain, weighted = (terms(tiny, TraceMeanField_ELBO(), beta=beta) for beta in (1.0, 4.0))
    assert float(weighted.elbo) == pytest.approx(float(plain.elbo), rel=1e-5)
    assert float(weighted.kl) == pytest.approx(float(plain.kl), rel=1e-5)
    assert float((weighted.loss - plain.loss).detach()) == pytest.approx(3 * float(plain.kl), rel=1e-4)


def test_free_bits_and_beta_compose(tiny):
    plain = terms(tiny, TraceMeanField_ELBO())
    free = terms(tiny, Trace_ELBO(), free_bits=10.0)  # more than any dimension uses: all clamped
    both = terms(tiny, Trace_ELBO(), free_bits=10.0, beta=0.5)
    assert float(free.loss + free.log_likelihood) == pytest.approx(30.0, rel=1e-4)
    assert float(both.loss + both.log_likelihood) == pytest.approx(15.0, rel=1e-4)
    assert float(free.elbo) == pytest.approx(float(plain.elbo), rel=1e-5)
    assert float(both.elbo) == pytest.approx(float(free.elbo), rel=1e-5)


def test_the_bound_of_any_composition_is_that_of_its_elbo(tiny):
    vae, guide, x = tiny
    for elbo, options in (
        (TraceMeanField_ELBO(), {"warmup": 5, "beta": 2.0}),
        (TraceMeanField_ELBO(), {"free_bits": 1.0, "warmup": 5}),
    ):
        bound = bound_of(compose_objective(elbo, Training(**options)))
        torch.manual_seed(1)
        evaluated = bound.terms(vae.model, guide, x)
        assert float(evaluated.loss) == pytest.approx(float(terms(tiny, elbo).loss), rel=1e-5)


def test_free_bits_require_a_kl_per_dimension():
    for elbo in (RenyiELBO(0.5), TraceEnum_ELBO()):
        with pytest.raises(ValueError, match="Expected Trace_ELBO or TraceMeanField_ELBO for --free_bits"):
            compose_objective(elbo, Training(free_bits=0.1))


def test_evaluate_with_samples_bounds_from_above(tmp_path, capsys):
    folder = tmp_path / "run"
    assert run(folder, "--measure.samples", "20", "--measure.images", "10")["test"]["iw"]["data"] == 10
    out = tmp_path / "figures.json"
    assert main(["evaluate", str(folder), "--samples", "50", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    assert figures["iw"]["samples"] == 50
    assert figures["iw"]["data"] == figures["images"]
    assert figures["iw_log_likelihood"] > figures["elbo"]
    nats = -figures["iw_log_likelihood"] / (28 * 28)
    assert figures["bits_per_dimension"] == pytest.approx(nats / torch.tensor(2.0).log().item(), rel=1e-4)
    assert main(["evaluate", str(folder), "--samples", "-1"]) == 2
    assert main(["evaluate", str(folder), "--sample", "5"]) == 2
    assert "got --sample" in capsys.readouterr().err


def test_a_run_with_a_started_prior_is_resumed(tmp_path, monkeypatch):
    """With VaDE's start, a warm-up and pre-trained weights, the figures of a resumed run are those of the whole run."""
    run(tmp_path / "first", "--prior", "MixturePrior(2)")
    options = ["--prior", "MixturePrior(2)", "--start_prior", "1", "--warmup", "3", "--epochs", "3"]
    options += ["--init_from", str(tmp_path / "first")]
    whole = run(tmp_path / "whole", *options)

    def interrupt(self, state):
        if state.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Callback, "on_batch_end", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", *options)
    monkeypatch.setattr("latentmix.experiments.runs.pipeline.draw_vae", lambda *_, **__: ())
    monkeypatch.setattr("latentmix.experiments.runs.pipeline.draw_mixtures", lambda *_, **__: ())
    assert main(["resume", str(tmp_path / "broken")]) == 0
    resumed = json.loads((tmp_path / "broken" / "summary.json").read_text())
    assert resumed["test"] == whole["test"]
    assert isinstance(load_run(tmp_path / "broken").vae.prior, MixturePrior)


OWN = """
import torch
from torch import Tensor
from latentmix.guides import DiagonalNormal, Family
from latentmix.models import Gaussian, Likelihood, Prior
from pyro import distributions as dist


class Wide(Prior):
    def __init__(self, latent_dim: int, width: float = 2.0) -> None:
        super().__init__(latent_dim)
        self.width = width
        self.loc = torch.nn.Parameter(torch.zeros(latent_dim))

    def forward(self):
        return dist.Normal(self.loc, self.width).to_event(1)


class Noisy(Likelihood):
    outputs = 1
    support = "real"

    def __init__(self, sd: float = 0.5) -> None:
        super().__init__()
        self.sd = sd

    def forward(self, outputs: Tensor):
        return dist.Normal(outputs[..., 0], self.sd)

    def mean(self, outputs: Tensor) -> Tensor:
        return outputs[..., 0]


class Named(Family):
    def __init__(self, times: int = 1) -> None:
        self.times = times

    def build(self, features: int, latent_dim: int):
        return DiagonalNormal().build(features, latent_dim)
"""


def test_a_users_own_parts_work_with_every_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_swaps.py").write_text(OWN)
    grid = ["--grid", "prior=own_swaps.Wide(3.0)", "--grid", "likelihood=own_swaps.Noisy,Bernoulli"]
    words = ["sweep", "digits_mlp2", *QUICK, *grid, "--family", "own_swaps.Named", "--out", "all"]
    assert main(words) == 0
    cells = json.loads((tmp_path / "all" / "sweep.json").read_text())["cells"]
    assert [cell["status"] for cell in cells] == ["done", "done"]
    noisy = next(cell for cell in cells if "Noisy" in cell["options"]["likelihood"])
    folder = tmp_path / "all" / "cells" / noisy["id"]
    vae = load_run(folder).vae
    assert (type(vae.prior).__name__, vae.prior.width, vae.likelihood.sd) == ("Wide", 3.0, 0.5)
    assert main(["evaluate", str(folder), "--samples", "3"]) == 0
    small = ["--n_components", "2", "--forms", "samples", "--samples", "3", "--images", "50", "--test_images", "10"]
    assert main(["ex-post", str(folder), *small]) == 0
    assert main(["sample", str(folder), "-n", "2", "--out", "samples.npy"]) == 0
    assert Gaussian(0.1).measure == vae.likelihood.measure
