"""Process-wide state is restored by every call, however it ends.

A new public call joins `ACTIONS`; nothing else here needs to change.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import (
    Callback,
    ClosedFormVariance,
    DivergenceError,
    EarlyStopping,
    FreeBits,
    StartPrior,
    TrainingState,
    Weighted,
    as_objective,
    component_coverage,
    energy_test,
    evaluate,
    ex_post_prior,
    fit,
    from_pyro_svi,
    latent_statistics,
    log_likelihood,
    log_likelihoods,
)
from latentmix.inference.isolation import RandomState, isolated
from latentmix.inference.mixtures.analysis.comparison import compare
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.svi.fit import SVI
from latentmix.models import VAE, Bernoulli, Gaussian, MixturePrior, MLPDecoder, Prior, StandardNormal, VampPrior

from tests.inference.process import differences, plane, snapshot


class Stage:
    """The models, guides and data of the actions."""

    def __init__(self, images: Tensor) -> None:
        decoder = MLPDecoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8))
        self.vae = VAE(decoder, StandardNormal(2), Bernoulli())
        self.guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=(1, 8, 8)))
        self.images = images

    def fit(self, **options: Any) -> Any:
        arguments = {"epochs": 2, "batch_size": 16, "seed": 5, **options}
        return fit(self.vae.model, self.guide, self.images, **arguments)

    def fit_with(self, prior: Prior, **options: Any) -> Any:
        self.vae = self.vae.with_prior(prior)
        return self.fit(**options)

    def fit_variance(self) -> Any:
        with torch.inference_mode(False):
            vae = VAE(self.vae.decoder, StandardNormal(2), Gaussian("shared", closed_form=True))
        update = ClosedFormVariance(vae, self.guide, self.images, transform=random_transform)
        return fit(vae.model, self.guide, self.images, epochs=2, seed=5, callbacks=[update])

    def save_and_load(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.vae.with_prior(mixture_prior()).save_pretrained(folder)
            VAE.from_pretrained(folder)
            self.guide.save_pretrained(folder)
            AmortizedGuide.from_pretrained(folder)


class Raises(Callback):
    """Raises an exception at the end of a minibatch or of an epoch."""

    def __init__(self, exception: BaseException, *, when: str = "batch") -> None:
        self.exception, self.when = exception, when

    def on_batch_end(self, state: TrainingState) -> None:
        if self.when == "batch" and state.batch == 2:
            raise self.exception

    def on_epoch_end(self, state: TrainingState) -> bool | None:
        if self.when == "epoch":
            raise self.exception
        return None


def expecting(exception: type[BaseException], action: Callable[[Stage], Any]) -> Callable[[Stage], None]:
    def run(stage: Stage) -> None:
        with pytest.raises(exception):
            action(stage)

    return run


def plain_model(x: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    scale = pyro.param("mine", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("data", 40, subsample=x):
        pyro.sample("x", dist.Normal(loc, scale).expand((len(x),)), obs=x)


def plain_guide(x: Tensor) -> None:
    pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))


def fit_plain(guide: Callable[..., Any], **options: Any) -> Any:
    return fit(plain_model, guide, torch.arange(40.0), epochs=2, batch_size=16, seed=5, **options)


def random_transform(x: Tensor) -> Tensor:
    np.random.rand(), random.random()
    return torch.bernoulli(0.1 + 0.8 * x)


def mixture_prior(**options: Any) -> MixturePrior:
    with torch.random.fork_rng(), torch.inference_mode(False):  # a constructor may draw
        return MixturePrior(2, 3, **options)


def vamp_prior(stage: Stage) -> VampPrior:
    with torch.random.fork_rng(), torch.inference_mode(False):
        prior = VampPrior(2, (1, 8, 8), n_components=4)
    return prior.bind(stage.guide.posterior, stage.images[:4])


def fitted_mixture(**options: Any) -> GaussianMixture:
    return GaussianMixture(2, random_state=0).fit(plane(), **options)


def start_prior(stage: Stage) -> Any:
    prior = mixture_prior()
    start = StartPrior(prior, stage.guide, stage.images, epochs=1, n_init=2, transform=random_transform)
    return stage.fit_with(prior, callbacks=[start], transform=random_transform)


def ex_post(stage: Stage, **options: Any) -> Any:
    mixture = GaussianMixture(2, reg_covar=1e-3)
    return ex_post_prior(mixture, stage.vae, stage.guide, stage.images, transform=random_transform, **options)


def diverge(leaves: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(leaves, lr=1e30)


# Every public call that acts, by name. Extend with each new one.
ACTIONS: dict[str, Callable[[Stage], Any]] = {
    "fit": lambda on: on.fit(),
    "fit, seed by chance": lambda on: on.fit(seed=None),
    "fit, full batch": lambda on: on.fit(batch_size=None),
    "fit with validation, transform and early stopping": lambda on: on.fit(
        validation=on.images, transform=random_transform, callbacks=[EarlyStopping(1)]
    ),
    "fit with a progress bar": lambda on: on.fit(progress=True),
    "fit by a callable": lambda on: on.fit(objective=lambda m, g, x: Trace_ELBO().differentiable_loss(m, g, x)),
    "fit of plain callables": lambda on: fit_plain(plain_guide),
    "fit of an AutoGuide": lambda on: fit_plain(AutoNormal(plain_model)),
    "fit resumed": lambda on: on.fit(epochs=3, state=on.fit().state),
    "fit weighed and warmed up": lambda on: on.fit(objective=Weighted(Trace_ELBO(), beta=2.0, warmup=1.5)),
    "fit with free bits": lambda on: on.fit(objective=Weighted(FreeBits(0.1), warmup=1)),
    "fit by a Renyi bound": lambda on: on.fit(objective=RenyiELBO(alpha=0.0, num_particles=3), validation=on.images),
    "fit with an enumerated prior": lambda on: on.fit_with(
        mixture_prior(enumerated=True), objective=Weighted(TraceEnum_ELBO(max_plate_nesting=1), beta=0.5)
    ),
    "fit of an enumerated prior that is refused": expecting(
        ValueError, lambda on: on.fit_with(mixture_prior(enumerated=True))
    ),
    "fit with a VampPrior": lambda on: on.fit_with(vamp_prior(on)),
    "fit with a prior that is started": start_prior,
    "fit with a variance in closed form": lambda on: on.fit_variance(),
    "fit that is interrupted": expecting(KeyboardInterrupt, lambda on: on.fit(callbacks=[Raises(KeyboardInterrupt())])),
    "fit that fails in a minibatch": expecting(OSError, lambda on: on.fit(callbacks=[Raises(OSError())])),
    "fit that fails after an epoch": expecting(
        OSError, lambda on: on.fit(validation=on.images, callbacks=[Raises(OSError(), when="epoch")])
    ),
    "fit that diverges": expecting(DivergenceError, lambda on: on.fit(optimizer=diverge)),
    "fit with a bad seed": expecting(ValueError, lambda on: on.fit(seed=-1)),
    "fit of no epochs": expecting(ValueError, lambda on: on.fit(epochs=0)),
    "fit of grey pixels": expecting(
        ValueError, lambda on: fit(on.vae.model, on.guide, on.images / 2, epochs=1, seed=0)
    ),
    "fit, optimizer fails": expecting(OSError, lambda on: on.fit(optimizer=_fails)),
    "predict": lambda on: on.fit().predict(on.vae.model, on.guide, on.images[:3], num_samples=2),
    "predict of plain callables": lambda on: fit_plain(plain_guide).predict(
        plain_model, plain_guide, torch.arange(40.0), num_samples=2
    ),
    "evaluate": lambda on: evaluate(on.vae.model, on.guide, on.images, batch_size=16, transform=random_transform),
    "evaluate of plain callables": lambda on: evaluate(
        plain_model, plain_guide, torch.arange(40.0), store=fit_plain(plain_guide).store
    ),
    "evaluate that fails": expecting(
        ValueError, lambda on: evaluate(on.vae.model, on.guide, on.images[..., :4], seed=3)
    ),
    "evaluate a Renyi bound": lambda on: evaluate(
        on.vae.model, on.guide, on.images, objective=RenyiELBO(num_particles=2)
    ),
    "from_pyro_svi of plain callables": lambda on: from_pyro_svi(
        plain_model, plain_guide, model_args=(torch.arange(40.0),), num_samples=2
    ),
    "from_pyro_svi of a VAE": lambda on: from_pyro_svi(
        on.vae.model, on.guide, model_args=(on.images[:3],), num_samples=2
    ),
    "from_pyro_svi that fails": expecting(
        ValueError, lambda on: from_pyro_svi(plain_model, plain_guide, model_args=(torch.arange(40.0),), seed=-1)
    ),
    "log-likelihood": lambda on: log_likelihood(on.vae, on.guide, on.images, 20, transform=random_transform),
    "log-likelihoods": lambda on: log_likelihoods(
        on.vae, on.guide, on.images, {"mixture": mixture_prior(), "vamp": vamp_prior(on)}, 20
    ),
    "log-likelihood that fails": expecting(ValueError, lambda on: log_likelihood(on.vae, on.guide, on.images / 2, 20)),
    "latent statistics": lambda on: latent_statistics(on.vae, on.guide, on.images, transform=random_transform),
    "ex-post prior": ex_post,
    "ex-post prior, expected": lambda on: ex_post(on, expected=True),
    "ex-post prior, noise-aware": lambda on: ex_post(on, noise_aware=True, limit=30),
    "ex-post prior that fails": expecting(ValueError, lambda on: ex_post(on, limit=0)),
    "moments": lambda on: on.guide.moments(on.images, batch_size=16),
    "encode": lambda on: on.guide.encode(on.images, batch_size=16),
    "encode that fails": expecting(ValueError, lambda on: on.guide.encode(on.images[..., :4])),
    "decode": lambda on: on.vae.decode(torch.zeros(3, 2)),
    "generate": lambda on: on.vae.generate(5),
    "generate with a seed": lambda on: on.vae.generate(5, seed=3),
    "generate with noise": lambda on: on.vae.generate(5, mean=False),
    "save and load": lambda on: on.save_and_load(),
    "frozen prior": lambda on: MixturePrior.from_parameters(fitted_mixture().parameters_),
    "frozen prior of a fit": lambda on: MixturePrior.from_mixture(fitted_mixture(), plane()),
    "frozen prior that is refused": expecting(
        ValueError, lambda on: MixturePrior.from_mixture(fitted_mixture(), 9 * plane())
    ),
    "VampPrior": lambda on: vamp_prior(on)(),
    "draw": lambda on: on.guide.draw(on.images, batch_size=16),
    "draw with a seed": lambda on: on.guide.draw(on.images, seed=3),
    "mixture by EM": lambda on: GaussianMixture(2, random_state=0).fit(plane()).sample(5),
    "mixture by SVI": lambda on: GaussianMixture(2, inference="svi", random_state=0).fit_predict(plane()),
    "mixture by SVI with AutoNormal": lambda on: GaussianMixture(
        2, inference=SVI(guide=AutoNormal, epochs=20), random_state=0
    ).fit(plane()),
    "mixture of noisy points": lambda on: fitted_mixture(noise_covariance=torch.full((40, 2), 0.1)),
    "energy test": lambda on: energy_test(plane(), plane() + 1, permutations=19),
    "coverage": lambda on: component_coverage(plane(), fitted_mixture().parameters_),
    "mixture that fails": expecting(
        ValueError, lambda on: GaussianMixture(50, inference="svi", random_state=0).fit(plane())
    ),
    "compare": lambda on: compare(
        *(GaussianMixture(2, inference=how, random_state=0).fit(plane()) for how in ("em", "svi")), plane()
    ),
    "likelihood check": lambda on: on.vae.likelihood.check(on.images),
    "as_objective": lambda on: as_objective(Trace_ELBO()),
}


def _fails(leaves: Any) -> torch.optim.Optimizer:
    raise OSError


@pytest.fixture
def stage(binary_images: Tensor) -> Iterator[Stage]:
    """A process in a state other than the default, so that restoring defaults would be noticed."""
    stage = Stage(binary_images)
    torch.optim.SGD(
        stage.vae.parameters(), lr=0.1
    )  # the first of a process imports half of torch, which sets variables
    with pyro.settings.context(validate_infer=False, validate_poutine=False):
        pyro.param("mine", torch.tensor(3.0), constraint=dist.constraints.positive)
        pyro.param("other", torch.tensor([1.0, 2.0]))
        pyro.set_rng_seed(11)
        torch.randn(3), np.random.randn(), random.gauss(0.0, 1.0)
        with np.errstate(over="ignore"), warnings.catch_warnings():
            yield stage


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("action", ACTIONS)
def test_nothing_process_wide_changes(stage: Stage, action: str) -> None:
    before = snapshot()
    modes = [part.training for module in (stage.vae, stage.guide) for part in module.modules()]
    ACTIONS[action](stage)
    assert differences(before, snapshot()) == []
    assert [part.training for module in (stage.vae, stage.guide) for part in module.modules()] == modes


@pytest.mark.parametrize("action", [name for name in ACTIONS if name.startswith("fit")])
def test_actions_have_no_side_effects_under_no_grad(stage: Stage, action: str) -> None:
    with torch.no_grad():
        before = snapshot()
        ACTIONS[action](stage)
        assert differences(before, snapshot()) == []


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("action", ACTIONS)
def test_actions_have_no_side_effects_in_inference_mode(stage: Stage, action: str) -> None:
    """Data made in inference mode are accepted, and all parameters remain trainable."""
    with torch.inference_mode():
        stage.images = stage.images.clone()
        assert stage.images.is_inference()
        before = snapshot()
        ACTIONS[action](stage)
        assert differences(before, snapshot()) == []
    kept = [*stage.vae.parameters(), *stage.vae.buffers(), *stage.guide.parameters(), *stage.guide.buffers()]
    assert not any(tensor.is_inference() for tensor in kept)


def test_an_import_changes_no_setting() -> None:
    code = "import pyro, torch; before = pyro.settings.get(); import latentmix.inference, sys; "
    code += "sys.exit(0 if pyro.settings.get() == before else 3)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_snapshot_sees_changes() -> None:
    """A negative control of the tests above."""
    changes: dict[str, Callable[[], Any]] = {
        "torch": lambda: torch.randn(1),
        "numpy": lambda: np.random.randn(),
        "python": lambda: random.random(),
        "pyro settings": lambda: pyro.enable_validation(not pyro.settings.get("validate_infer")),
        "parameters": lambda: pyro.param("new", torch.zeros(1)),
        "dtype": lambda: torch.set_default_dtype(torch.float64),
        "gradients": lambda: torch.set_grad_enabled(False),
        "warnings": lambda: warnings.simplefilter("ignore", category=ImportWarning),
        "matplotlib": lambda: matplotlib.rcParams.update({"lines.linewidth": 7.5}),
    }
    settings, width = pyro.settings.get(), matplotlib.rcParams["lines.linewidth"]
    try:
        for name, change in changes.items():
            before = snapshot()
            change()
            assert name in differences(before, snapshot())
    finally:
        pyro.settings.set(**settings)
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        matplotlib.rcParams["lines.linewidth"] = width


def draws() -> tuple[float, float, float]:
    return torch.randn(()).item(), float(np.random.randn()), random.gauss(0.0, 1.0)


def test_isolated_seeds_inside_and_restores_outside() -> None:
    state = RandomState.capture()
    expected = draws()
    state.restore()
    with isolated(seed=4, validation=False):
        inside = draws()
        assert pyro.settings.get("validate_distributions_torch") is False
    assert draws() == expected
    assert pyro.settings.get("validate_distributions_torch") is True
    with isolated(seed=4):
        assert draws() == inside


def test_isolated_parameter_store() -> None:
    outer = pyro.param("a", torch.tensor(1.0))
    with isolated():
        assert len(pyro.get_param_store()) == 0
        pyro.param("b", torch.tensor(2.0))
    with isolated(params=pyro.get_param_store().get_state()):
        assert pyro.param("a").item() == 1.0
        pyro.param("c", torch.tensor(2.0))
    assert list(pyro.get_param_store()) == ["a"]
    assert pyro.get_param_store()["a"].unconstrained() is outer.unconstrained()


def test_random_state_survives_a_file(tmp_path: Any) -> None:
    draws()
    state = RandomState.capture()
    expected = [draws() for _ in range(3)]
    torch.save(state.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    RandomState.from_state_dict(loaded).restore()
    assert [draws() for _ in range(3)] == expected
