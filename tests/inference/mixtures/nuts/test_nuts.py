import math
import time
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from tqdm.auto import tqdm

from latentmix.inference.datatree import recording
from latentmix.inference.datatree.recording import STATISTICS
from latentmix.inference.diagnostics.convergence import effective_size
from latentmix.inference.mixtures.algorithm import FitOptions
from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.inference.mixtures.gaussian import GaussianMixture
from latentmix.inference.mixtures.nuts import chains
from latentmix.inference.mixtures.nuts import fit as nuts
from latentmix.inference.mixtures.nuts.chains import Settings
from latentmix.inference.mixtures.nuts.fit import NUTS, MixtureNUTSResult
from latentmix.inference.mixtures.potential.potential import MixturePotential, WhitenedPotential
from latentmix.inference.mixtures.progress import Progress
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters
from latentmix.models.mixture.priors import OrderedMeans

from tests.inference.mixtures.clouds import TYPES

QUICK = {"chains": 2, "draws": 20, "warmup": 20}


def two_groups(n: int = 60, gap: float = 6.0, n_features: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, n_features, generator=generator, dtype=torch.float64)
    x[: n // 3] += gap
    return x


def sampled(x: torch.Tensor, start=None, **options) -> MixtureNUTSResult:
    """Draws by options of the sampler, of the fit and of the mixture alike."""
    groups = [("n_components", "covariance_type", "model"), ("reg_covar", "seed", "progress")]
    mixture, fit = ({name: options.pop(name) for name in names if name in options} for names in groups)
    return NUTS(**options).fit(x, start, FitOptions(**fit), **mixture)


def quick(x: torch.Tensor, *arguments, **options) -> MixtureNUTSResult:
    """A fit that is short, without the warning that it has not converged."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return sampled(x, *arguments, **{**QUICK, **options})


def check_moments(draws: torch.Tensor, ess: float, mean: float, sd: float) -> None:
    """Mean and sd within five standard errors, each a false alarm of 6e-7 (of the sd: for near-normal draws)."""
    assert float(draws.mean()) == pytest.approx(mean, abs=5 * sd / math.sqrt(ess))
    assert float(draws.std()) == pytest.approx(sd, rel=5 / math.sqrt(2 * ess))


def test_one_gaussian_matches_quadrature() -> None:
    """Mean and scale under a normal and a half-normal prior that count, against a grid in the data's coordinates."""
    x = 30 + 5 * two_groups(12, gap=0.0)
    result = NUTS(
        priors={"means": dist.Normal(25.0, 2.0), "scales": dist.HalfNormal(4.0)}, chains=2, draws=250, warmup=100
    ).fit(x, options=FitOptions(reg_covar=0.0), n_components=1)
    mean, scale = torch.linspace(15, 45, 1201).double()[:, None], torch.linspace(0.01, 25, 1500).double()
    log = dist.Normal(25.0, 2.0).log_prob(mean) + dist.HalfNormal(4.0).log_prob(scale)
    log = log - len(x) * scale.log() - 0.5 * ((x[:, 0] - mean[..., None]) ** 2).sum(-1) / scale**2
    density = (log - log.max()).exp()
    density /= density.sum()
    for name, grid, axis in (("means", mean[:, 0], 1), ("scales", scale, 0)):
        marginal = density.sum(axis)
        expected = float(marginal @ grid)
        sd = math.sqrt(float(marginal @ (grid - expected) ** 2))
        ess = float(result.posterior.ess()["means" if name == "means" else "covariances"].min())
        assert ess > 100
        check_moments(result.posterior.sites[name].flatten(), ess, expected, sd)
    assert result.divergences == [0, 0]
    assert result.r_hat < 1.05


def test_two_overlapping_components_match_quadrature() -> None:
    """Means under a prior that leaves the components no names: the lesser, the greater and the likelihood on a grid."""
    x = two_groups(14, gap=2.5)
    known = {"weights": dist.Dirichlet(torch.full((2,), 1e8)), "scales": dist.LogNormal(0.0, 1e-5)}
    result = quick(x, n_components=2, priors={"means": dist.Normal(0.0, 3.0), **known}, draws=250, warmup=80)
    assert result.aligned
    grid = torch.linspace(-9, 10, 500, dtype=torch.float64)
    first, second = grid[:, None], grid[None]
    likelihood = sum(
        torch.logaddexp(dist.Normal(first, 1.0).log_prob(value), dist.Normal(second, 1.0).log_prob(value)) - math.log(2)
        for value in x[:, 0]
    )
    log = likelihood + sum(dist.Normal(0.0, 3.0).log_prob(each) for each in (first, second))
    density = (log - log.max()).exp()
    density /= density.sum()
    means = result.posterior.sites["means"][..., 0]
    drawn = {"lesser": means.amin(-1), "greater": means.amax(-1), "likelihood": result.posterior.log_likelihood(x)}
    exact = {"lesser": torch.minimum(first, second), "greater": torch.maximum(first, second), "likelihood": likelihood}
    for name, values in drawn.items():
        expected = float((density * exact[name]).sum())
        sd = math.sqrt(float((density * (exact[name] - expected) ** 2).sum()))
        ess = float(effective_size(values.numpy(), "bulk"))
        assert ess > 50
        assert float(values.mean()) == pytest.approx(expected, abs=5 * sd / math.sqrt(ess))


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_posterior_moves_with_the_data_and_the_priors(covariance_type) -> None:
    """In other units, with the priors in these, the draws are the same (four times: exact in binary)."""
    x = two_groups(n_features=2)
    priors = {"means": (0.0, 8.0), "scales": 2.0}
    plain, scaled = (
        quick(
            factor * x,
            n_components=2,
            covariance_type=covariance_type,
            reg_covar=1e-6 * factor**2,
            priors={
                "means": dist.Normal(*(factor * value for value in priors["means"])),
                "scales": dist.HalfNormal(factor * priors["scales"]),
            },
        )
        for factor in (1.0, 4.0)
    )
    for name in ("means", "scales"):
        torch.testing.assert_close(4 * plain.posterior.sites[name], scaled.posterior.sites[name], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(plain.posterior.sites["weights"], scaled.posterior.sites["weights"])
    shift = 2 * math.log(4)
    assert scaled.lower_bound == pytest.approx(plain.lower_bound - shift, abs=1e-6)


def test_narrow_priors_move_the_means() -> None:
    x = two_groups(30)
    near, far = (
        quick(x, n_components=2, draws=30, warmup=30, priors={"means": dist.Normal(centre, 0.05)}).parameters.means
        for centre in (0.0, 50.0)
    )
    assert float(near.abs().max()) < 0.5
    assert float((far - 50).abs().max()) < 0.5


def test_ordered_means_and_beta_weights_are_sampled() -> None:
    x = two_groups(90)
    ordered = quick(x, n_components=2, draws=30, warmup=30, priors={"means": OrderedMeans(dist.Normal(0.0, 10.0), 2)})
    assert not ordered.aligned
    assert bool((ordered.posterior.sites["means"].diff(dim=-2) > 0).all())
    # The prior says that the first component is the lesser by far, which is the group of thirty around six.
    beta = quick(x, n_components=2, draws=30, warmup=30, priors={"weights": dist.Beta(30.0, 300.0)})
    assert not beta.aligned
    assert beta.parameters.weights[0] < 0.4
    assert float(beta.parameters.means[0]) == pytest.approx(6, abs=1)


def test_processes_change_no_draw_and_seeds_do() -> None:
    x = two_groups()
    alone, again, other = (quick(x, n_components=2, seed=seed) for seed in (0, 0, 1))
    several = quick(x, n_components=2, processes=2)
    for name, values in alone.posterior.sites.items():
        assert torch.equal(values, again.posterior.sites[name])
        assert torch.equal(values, several.posterior.sites[name])
    assert not torch.equal(alone.posterior.sites["means"], other.posterior.sites["means"])
    assert not torch.equal(*alone.posterior.sites["means"])


def test_recording_changes_no_draw(monkeypatch) -> None:
    x = two_groups()
    recorded = quick(x, n_components=2)

    class Plain(pyro.infer.NUTS):
        def diagnostics(self):
            return {**super().diagnostics(), STATISTICS: {"sample_stats": {}}}

    monkeypatch.setattr(recording, "RecordingNUTS", Plain)
    plain = quick(x, n_components=2)
    for name, values in plain.posterior.sites.items():
        assert torch.equal(values, recorded.posterior.sites[name])
    assert plain.n_gradients == recorded.n_gradients


def test_sampling_leaves_no_trace_in_the_process(capsys) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    result = quick(two_groups(), n_components=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert capsys.readouterr() == ("", "")
    assert quick(two_groups(), n_components=2, progress=Progress(1)).n_iter == 40
    assert "NUTS" in capsys.readouterr().err
    assert result.n_iter == 40
    assert len(result.lower_bounds) == 40
    assert all(count >= 40 for count in result.n_gradients)


def test_an_interrupt_ends_the_fit(monkeypatch) -> None:
    state = torch.get_rng_state()
    calls = []

    def interrupted(self, values):
        calls.append(values)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return values

    monkeypatch.setattr("latentmix.inference.datatree.recording.RecordingNUTS.sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quick(two_groups(), n_components=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_own_model_is_sampled() -> None:
    """Taken as it is, in the data's coordinates: one that counts each datum ten times has a narrower posterior."""
    x = 20 + two_groups(40, gap=0.0)
    options = {"means": dist.Normal(20.0, 50.0), "scales": dist.HalfNormal(5.0)}
    single, tenfold = (
        quick(x, model=MixtureModel(1, 1, size=size, **options), draws=80, warmup=40) for size in (40, 400)
    )
    ratio = float(single.posterior.sites["means"].std() / tenfold.posterior.sites["means"].std())
    # The root of ten, within what sds of fifty independent draws allow (five standard errors).
    assert ratio == pytest.approx(math.sqrt(10), rel=0.7)
    assert ratio > 1.5
    flat = MixtureModel.maximum_likelihood(1, 1)
    assert quick(x, model=flat).posterior.sites["means"].shape == (2, 20, 1, 1)


def test_short_chains_warn_and_have_not_converged() -> None:
    with pytest.warns(ConvergenceWarning, match="NUTS: R-hat is .*effective sample size is .*below 100 for each chain"):
        result = NUTS(chains=2, draws=10, warmup=0).fit(two_groups(), n_components=3)
    assert not result.converged


def test_divergences_are_reported() -> None:
    """A scale free to shrink as far as it likes makes a funnel, which a coarse step falls out of."""
    x = torch.zeros(3, 1, dtype=torch.float64) + torch.tensor([[0.0], [1e-9], [9.0]], dtype=torch.float64)
    priors = {"scales": dist.LogNormal(0.0, 20.0), "means": dist.Normal(0.0, 1e4)}
    with pytest.warns(ConvergenceWarning, match=r"of 200 draws diverged"):
        result = NUTS(priors=priors, chains=2, draws=100, warmup=30, target_accept=0.3).fit(
            x, options=FitOptions(reg_covar=0.0), n_components=2
        )
    assert sum(result.divergences) > 0


def test_chains_begin_at_the_given_starts() -> None:
    x = two_groups(60, n_features=2)
    structure = covariance_structure("full")
    far = MixtureParameters(
        torch.tensor([0.7, 0.3]).double(),
        torch.tensor([[0.0, 0.0], [6.0, 6.0]]).double(),
        torch.eye(2).double().expand(2, 2, 2).contiguous(),
        structure,
    )
    item = quick(x, far)
    assert item.reference.means[1].min() > 4
    turned = quick(x, far.permuted(torch.tensor([1, 0])))
    assert turned.reference.means[0].min() > 4
    both = quick(x, [far, far.permuted(torch.tensor([1, 0]))])
    assert both.aligned
    assert float(both.posterior.sites["means"].std((0, 1)).max()) < 1
    assert item.posterior.structure is structure


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_statistics_are_in_double_precision(dtype) -> None:
    result = quick(two_groups().to(dtype), n_components=2)
    assert all(values.dtype == torch.float64 for values in result.posterior.sites.values())
    assert result.parameters.covariances.dtype == torch.float64
    assert np.isfinite(result.lower_bounds).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Expected n_components, a start or a model"),
        ({"n_components": 2, "chains": 0}, "Expected chains of NUTS to be a whole number"),
        ({"n_components": 2, "target_accept": 1.0}, "Expected target_accept of NUTS to be a number"),
        ({"n_components": 2, "warmup": -1}, "Expected warmup of NUTS to be a whole number"),
        ({"n_components": 2, "priors": {"mean": dist.Normal(0.0, 1.0)}}, "Expected priors of .*; got one of 'mean'"),
        (
            {"n_components": 2, "priors": {"means": MixtureModel.maximum_likelihood(2, 1).declared_priors["means"]}},
            "Expected a proper prior of means; got a flat one",
        ),
        ({"model": MixtureModel(2, 1), "priors": {}}, "Expected a model, or priors"),
        ({"model": MixtureModel(2, 3)}, r"Expected x of shape \(n, 3\)"),
    ],
)
def test_bad_options_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        sampled(two_groups(), **options)


def test_chains_that_do_not_move_do_not_agree() -> None:
    """R-hat is infinite there, and counts."""
    ones = torch.ones(2, 40, 1, dtype=torch.float64)
    means = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None, None].expand(2, 40, 1, 1)
    sites = {"weights": ones, "means": means, "scales": ones[..., None]}
    moving = torch.randn(2, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    floor = torch.zeros(1, dtype=torch.float64)
    stuck = MixturePosterior(sites, covariance_structure("diag"), floor, log_likelihoods=moving)
    assert stuck.worst()[0] == math.inf


def scattered(n: int = 24) -> torch.Tensor:
    """Fewer groups than components, so that some of these are nearly empty in most draws."""
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_nearly_empty_components_end_and_report_cut_trajectories() -> None:
    """By default a draw takes at most 31 leapfrog steps, and its parts count in the result and in the warning."""
    x, draws = scattered(), 8
    with pytest.warns(ConvergenceWarning, match=r"of 8 trajectories were cut at max_tree_depth"):
        result = NUTS(chains=1, draws=draws, warmup=10).fit(x, n_components=6)
    # Pyro looks for a step size at the start and after each window, with at most some dozens of evaluations each.
    assert result.n_gradients[0] <= 31 * (draws + 10) + 100
    assert 0 < result.n_max_tree_depth[0] <= draws


def test_long_sampling_is_announced(monkeypatch, capsys) -> None:
    monkeypatch.setattr(nuts, "leapfrog_seconds", lambda potential: 0.1)
    x = two_groups()
    with pytest.warns(UserWarning, match=r"NUTS: about 60 s where draws take 15 leapfrog steps, and up to 2 min"):
        NUTS(chains=2, draws=10, warmup=10).fit(x, n_components=1)
    quick(x, n_components=1, draws=10, warmup=10, progress=Progress(1))
    assert "NUTS: about 60 s where" in capsys.readouterr().err
    settings = Settings(draws=10, warmup=10, target_accept=0.8, max_tree_depth=5, jitter=1.0)
    potential = WhitenedPotential(MixturePotential(MixtureModel(1, 1), x), np.zeros(2), np.eye(2))
    with pytest.warns(UserWarning, match=r"NUTS: about 30 s where"):
        nuts._forecast(potential, settings, 2, 2, progress=False)
    monkeypatch.setattr(nuts, "leapfrog_seconds", lambda potential: 1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nuts._forecast(potential, settings, 2, 1, progress=False)


def test_progress_of_all_processes_is_shown(capsys) -> None:
    quick(two_groups(), n_components=1, draws=10, warmup=10, processes=2, progress=Progress(1))
    assert "40/40" in capsys.readouterr().err
    with tqdm(total=6) as bar, chains._counted(bar, 2) as (first, second):
        for count in (first, second, second):
            count()
        began = time.monotonic()
        while bar.n < 3 and time.monotonic() - began < 20:
            time.sleep(0.05)
        assert bar.n == 3


def mixture_at(*means: list[float]) -> MixtureParameters:
    size, n_features = len(means), len(means[0])
    eye = torch.eye(n_features, dtype=torch.float64).expand(size, n_features, n_features)
    weights = torch.full((size,), 1 / size, dtype=torch.float64)
    return MixtureParameters(
        weights, torch.tensor(means, dtype=torch.float64), eye.contiguous(), covariance_structure("full")
    )


def test_chains_begin_at_a_better_mode_than_the_start() -> None:
    """Two components in one of three groups, and one across the others: a mode of EM, far below the best."""
    centres = torch.tensor([[-9.0], [0.0], [9.0]], dtype=torch.float64).repeat_interleave(30, 0)
    x = centres + 0.5 * torch.randn(90, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = quick(x, mixture_at([-9.2], [-8.8], [4.5]))
    torch.testing.assert_close(
        result.reference.means.flatten().sort().values, torch.tensor([-9.0, 0.0, 9.0]).double(), atol=0.5, rtol=0
    )
    assert result.modes.gaps == (0.0,)


def test_rival_modes_of_chains_are_named() -> None:
    """Four groups at the corners of a rectangle and two components: side by side, or one above the other."""
    corners = torch.tensor([[-9.0, -8.0], [-9.0, 8.0], [9.0, -8.0], [9.0, 8.0]], dtype=torch.float64)
    noise = torch.randn(80, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = corners.repeat_interleave(20, 0) + noise
    begins = [mixture_at([-9.0, 0.0], [9.0, 0.0]), mixture_at([0.0, -8.0], [0.0, 8.0])]
    with pytest.warns(ConvergenceWarning, match=r"2 rival modes of the posterior \(chain 0 at mode [01]"):
        result = NUTS(chains=2, draws=20, warmup=20).fit(x, begins)
    first, second = result.modes.places
    assert first[0] == first[1] != second[0] == second[1]
    assert result.modes.gaps[0] == 0.0 < result.modes.gaps[1]
    assert f"({result.modes.gaps[1]:.1f} nats lower)" in str(result.modes)


def test_identical_features_of_a_large_scale_are_sampled() -> None:
    """The floor is below the rounding of their covariance."""
    generator = np.random.RandomState(0)
    a = np.r_[generator.randn(40) - 4, generator.randn(40) + 4]
    x = np.c_[a, a] * 1e6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixture = GaussianMixture(2, inference=NUTS(chains=1, draws=20, warmup=60), random_state=0).fit(x)
    assert np.isfinite(mixture.score(x))
    assert bool(torch.as_tensor(mixture.posterior_.predictive_log_density(x[:2])).isfinite().all())


def test_too_few_draws_for_r_hat_warn() -> None:
    with pytest.warns(ConvergenceWarning, match="2 draws a chain are too few to tell R-hat"):
        assert not NUTS(chains=2, draws=2, warmup=5).fit(two_groups(), n_components=1).converged
