"""Models in the style of Pyro's tutorials, each with a guide, data and the ELBO that its tutorial takes.

They are written in torch's default dtype, as tutorials are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pyro.distributions.transforms as transforms
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.distributions import constraints
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, config_enumerate
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoHierarchicalNormalMessenger,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoNormalizingFlow,
    AutoStructured,
    init_to_median,
)
from pyro.infer.elbo import ELBO
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

__all__ = ["FOREIGN", "Foreign"]

Function = Callable[..., Any]


class Foreign(NamedTuple):
    """A model of someone else's, with what `fit` is given."""

    model: Function
    guide: Function
    batch: tuple[Tensor, ...]
    elbo: ELBO
    batch_size: int | None = None


def line(count: int = 12) -> Tensor:
    return torch.linspace(-2.0, 3.0, count)


def eight_schools(effects: Tensor, errors: Tensor) -> None:
    """Global and local latents."""
    mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    spread = pyro.sample("spread", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8, subsample=effects):
        school = pyro.sample("school", dist.Normal(mean, spread))
        pyro.sample("effect", dist.Normal(school, errors), obs=effects)


def schools_guide(effects: Tensor, errors: Tensor) -> None:
    loc = pyro.param("loc", torch.zeros(2))
    scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
    pyro.sample("mean", dist.Normal(loc[0], scale[0]))
    pyro.sample("spread", dist.LogNormal(loc[1], scale[1]))
    slope = pyro.param("slope", torch.tensor(0.5), constraint=constraints.unit_interval)
    with pyro.plate("schools", 8, subsample=effects):
        pyro.sample("school", dist.Normal(slope * effects, errors))


def schools(guide: Callable[[Any], Function]) -> Foreign:
    effects = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    errors = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
    return Foreign(eight_schools, guide(eight_schools), (effects, errors), Trace_ELBO())


def subsampling() -> Foreign:
    """A plate that draws its own indices, in the model and through the guide's replay."""
    everything = line(20)

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("data", 20, subsample_size=5) as chosen:
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x[chosen])

    def guide(x: Tensor) -> None:
        pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.1)), pyro.param("s", torch.tensor(0.3))))
        with pyro.plate("data", 20, subsample_size=5):
            pass

    return Foreign(model, guide, (everything,), Trace_ELBO())


def local_subsampling() -> Foreign:
    """Local latents whose guide's parameters are sliced by the plate, as in `pyro.param(..., event_dim=0)`."""
    everything = line(20)

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("data", 20, subsample_size=5) as chosen:
            z = pyro.sample("z", dist.Normal(loc, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[chosen])

    def guide(x: Tensor) -> None:
        pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.1)), 0.3))
        with pyro.plate("data", 20, subsample_size=5):
            locs = pyro.param("locs", torch.zeros(20), event_dim=0)
            scales = pyro.param("scales", torch.ones(20), constraint=constraints.positive, event_dim=0)
            pyro.sample("z", dist.Normal(locs, scales))

    return Foreign(model, guide, (everything,), Trace_ELBO())


@config_enumerate
def gaussian_mixture(x: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", 2):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", 12, subsample=x):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(Vindex(locs)[..., assignment], scale), obs=x)


def mixture(guide: Callable[[Any], Function]) -> Foreign:
    def make(model: Any) -> Function:
        return guide(poutine.block(model, expose=["weights", "locs", "scale"]))

    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    return Foreign(gaussian_mixture, make(gaussian_mixture), (line(),), elbo, batch_size=6)


class BayesianRegression(PyroModule):
    """The regression of Pyro's first tutorial."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](features, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, features]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", 12, subsample=x):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


def regression(guide: Callable[[Any], Function]) -> Foreign:
    x = torch.stack([line(), line().square(), line().sin()], -1)
    model = BayesianRegression(3)
    return Foreign(model, guide(model), (x, x @ torch.tensor([0.5, -0.3, 2.0])), Trace_ELBO(), batch_size=6)


class BayesianNetwork(PyroModule):
    """A hidden layer with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = PyroModule[nn.Linear](1, 4)
        self.first.weight = PyroSample(dist.Normal(0.0, 1.0).expand([4, 1]).to_event(2))
        self.first.bias = PyroSample(dist.Normal(0.0, 1.0).expand([4]).to_event(1))
        self.second = PyroModule[nn.Linear](4, 1)
        self.scale = PyroParam(torch.tensor(1.0), constraint=constraints.positive)

    def forward(self, x: Tensor, y: Tensor) -> None:
        mean = self.second(torch.tanh(self.first(x[:, None]))).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(mean, self.scale), obs=y)


def network() -> Foreign:
    model = BayesianNetwork()
    return Foreign(model, AutoNormal(model), (line(), line().sin()), TraceMeanField_ELBO())


class SemiSupervised(nn.Module):
    """A VAE with a class, which is observed or enumerated in the guide."""

    def __init__(self) -> None:
        super().__init__()
        self.encode_y = nn.Sequential(nn.Linear(6, 5), nn.Softplus(), nn.Linear(5, 3), nn.Softmax(-1))
        self.encode_z = nn.Sequential(nn.Linear(9, 5), nn.Softplus(), nn.Linear(5, 4))
        self.decoder = nn.Sequential(nn.Linear(5, 5), nn.Softplus(), nn.Linear(5, 6), nn.Sigmoid())

    def model(self, xs: Tensor, ys: Tensor | None = None) -> None:
        pyro.module("ss_vae", self)
        options = {"dtype": xs.dtype, "device": xs.device}
        with pyro.plate("data", len(xs)):
            zs = pyro.sample("z", dist.Normal(torch.zeros(len(xs), 2, **options), 1.0).to_event(1))
            alpha = torch.ones(len(xs), 3, **options) / 3.0
            ys = pyro.sample("y", dist.OneHotCategorical(alpha), obs=ys)
            if ys.dim() > zs.dim():
                zs = zs.expand(ys.shape[0], -1, -1)
            loc = self.decoder(torch.cat([zs, ys], -1))
            pyro.sample("x", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=xs)

    def guide(self, xs: Tensor, ys: Tensor | None = None) -> None:
        with pyro.plate("data", len(xs)):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(self.encode_y(xs)))
            expanded = xs.expand(ys.shape[0], -1, -1) if ys.dim() > xs.dim() else xs
            loc, scale = self.encode_z(torch.cat([expanded, ys], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


def semi_supervised(labelled: bool) -> Foreign:
    vae = SemiSupervised()
    xs = torch.bernoulli(torch.full((12, 6), 0.4))
    ys = torch.eye(3)[torch.arange(12) % 3]
    guide = vae.guide if labelled else config_enumerate(vae.guide, "parallel", expand=True)
    elbo: ELBO = Trace_ELBO() if labelled else TraceEnum_ELBO(max_plate_nesting=1)
    return Foreign(vae.model, guide, (xs, ys) if labelled else (xs,), elbo, batch_size=6)


@config_enumerate
def hidden_markov(sequences: Tensor) -> None:
    """The first hidden Markov model of Pyro's examples, with a mask of lengths."""
    with poutine.mask(mask=True):
        matrix = pyro.sample("matrix", dist.Dirichlet(0.9 * torch.eye(3) + 0.1).to_event(1))
        emission = pyro.sample("emission", dist.Beta(0.1, 0.9).expand([3, 2]).to_event(2))
    tones = pyro.plate("tones", 2, dim=-1)
    with pyro.plate("sequences", len(sequences), dim=-2):
        state: Any = 0
        for t in pyro.markov(range(4)):
            with poutine.mask(mask=(t < 2 + torch.arange(len(sequences)) % 3).unsqueeze(-1)):
                state = pyro.sample(f"state_{t}", dist.Categorical(matrix[state]), infer={"enumerate": "parallel"})
                with tones as tone:
                    pyro.sample(f"y_{t}", dist.Bernoulli(Vindex(emission)[state, tone]), obs=sequences[:, t])


def chain(guide: Callable[[Any], Function]) -> Foreign:
    sequences = torch.bernoulli(torch.full((5, 4, 2), 0.4))
    made = guide(poutine.block(hidden_markov, expose=["matrix", "emission"]))
    return Foreign(hidden_markov, made, (sequences,), TraceEnum_ELBO(max_plate_nesting=2))


class DeepMarkov(nn.Module):
    """A deep Markov model in miniature: a recurrent guide, with `pyro.markov`, masks and scales."""

    def __init__(self) -> None:
        super().__init__()
        self.transition = nn.Linear(2, 4)
        self.emission = nn.Linear(2, 3)
        self.combiner = nn.Linear(2 + 4, 4)
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.start = nn.Parameter(torch.zeros(2))

    def model(self, x: Tensor) -> None:
        pyro.module("dmm", self)
        with pyro.plate("sequences", len(x)):
            z = self.start.expand(len(x), -1)
            for t in pyro.markov(range(x.shape[1])):
                loc, raw = self.transition(z).chunk(2, -1)
                with poutine.scale(scale=0.5):
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, raw.exp()).to_event(1))
                pyro.sample(f"x_{t}", dist.Bernoulli(logits=self.emission(z)).to_event(1), obs=x[:, t])

    def guide(self, x: Tensor) -> None:
        pyro.module("dmm", self)
        output, _ = self.rnn(x)
        with pyro.plate("sequences", len(x)):
            z = self.start.expand(len(x), -1)
            for t in pyro.markov(range(x.shape[1])):
                loc, raw = self.combiner(torch.cat([z, output[:, t]], -1)).chunk(2, -1)
                with poutine.scale(scale=0.5):
                    z = pyro.sample(f"z_{t}", dist.Normal(loc, raw.exp()).to_event(1))


def deep_markov() -> Foreign:
    pair = DeepMarkov()
    return Foreign(pair.model, pair.guide, (torch.bernoulli(torch.full((6, 4, 3), 0.4)),), Trace_ELBO(), batch_size=3)


def two_dimensional(x: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", 12, subsample=x):
        pyro.sample("x", dist.StudentT(4.0, z[0] + z[1].exp() * x, 1.0 + z[2].square()), obs=x.sin())


def flow(guide: Callable[[Any], Function]) -> Foreign:
    return Foreign(two_dimensional, guide(two_dimensional), (line(),), Trace_ELBO(), batch_size=6)


class PlanarGuide(PyroModule):
    """A flow by hand: TransformModules registered in a PyroModule."""

    def __init__(self, *flows: nn.Module) -> None:
        super().__init__()
        self.flows = nn.ModuleList(flows)
        self.loc = PyroParam(torch.zeros(3))

    def forward(self, x: Tensor) -> None:
        base = dist.Normal(self.loc, 1.0).to_event(1)
        pyro.sample("z", dist.TransformedDistribution(base, list(self.flows)))


def registered_flow() -> Callable[[Any], Function]:
    """A TransformModule that is registered by `pyro.module`, as in the tutorial on normalising flows."""
    coupling = transforms.affine_coupling(3, [5])

    def guide(x: Tensor) -> None:
        pyro.module("coupling", coupling)
        base = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
        pyro.sample("z", dist.TransformedDistribution(base, [coupling]))

    return lambda model: guide


def beta_bernoulli() -> Foreign:
    """The coin of the first tutorial on SVI: a Beta guide, whose draws depend on its parameters."""

    def model(x: Tensor) -> None:
        fairness = pyro.sample("fairness", dist.Beta(10.0, 10.0))
        with pyro.plate("data", 12, subsample=x):
            pyro.sample("x", dist.Bernoulli(fairness), obs=x)

    def guide(x: Tensor) -> None:
        first = pyro.param("first", torch.tensor(15.0), constraint=constraints.positive)
        second = pyro.param("second", torch.tensor(15.0), constraint=constraints.positive)
        pyro.sample("fairness", dist.Beta(first, second))

    return Foreign(model, guide, ((line() > 0).to(torch.get_default_dtype()),), Trace_ELBO())


def gamma_poisson() -> Foreign:
    """A Gamma and a Dirichlet guide with amortised concentrations."""

    def model(x: Tensor) -> None:
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("data", 12, subsample=x):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate * (1 + weights[0])), obs=x)

    def guide(x: Tensor) -> None:
        concentration = pyro.param("concentration", 2 * torch.ones(3), constraint=constraints.positive)
        slope = pyro.param("slope", torch.tensor(0.7), constraint=constraints.positive)
        pyro.sample("weights", dist.Dirichlet(concentration))
        with pyro.plate("data", 12, subsample=x):
            pyro.sample("rate", dist.Gamma(1.0 + slope * x, 1.0 + slope))

    return Foreign(model, guide, (torch.arange(12.0).to(torch.get_default_dtype()) % 5,), Trace_ELBO(), batch_size=6)


def covariance(x: Tensor) -> None:
    """A multivariate normal with an LKJ prior of its correlations."""
    scales = pyro.sample("scales", dist.HalfNormal(torch.ones(2)).to_event(1))
    factor = pyro.sample("factor", dist.LKJCholesky(2, 1.0))
    with pyro.plate("data", len(x)):
        each = dist.MultivariateNormal(torch.zeros(2), scale_tril=scales[:, None] * factor)
        pyro.sample("x", each, obs=x)


def correlated() -> Foreign:
    x = torch.stack([line(), line().sin() + 0.3 * line()], -1)
    return Foreign(covariance, AutoMultivariateNormal(covariance), (x,), Trace_ELBO())


class ByHand(EasyGuide):
    """Pyro's EasyGuide over globals in a group, and locals by a plate."""

    def guide(self, effects: Tensor, errors: Tensor) -> None:
        group = self.group(match="mean|spread")
        loc = pyro.param("loc", torch.zeros(group.event_shape))
        scale = pyro.param("scale", 0.5 * torch.ones(group.event_shape), constraint=constraints.positive)
        group.sample("globals", dist.Normal(loc, scale).to_event(1))
        with self.plate("schools", 8, subsample=effects):
            pyro.sample("school", dist.Normal(pyro.param("shift", torch.tensor(0.2)) + effects, 1.0))


def by_parts(model: Any) -> Function:
    guide = AutoGuideList(model)
    guide.append(AutoDelta(poutine.block(model, expose=["spread"]), init_loc_fn=init_to_median))
    guide.append(AutoDiagonalNormal(poutine.block(model, hide=["spread"])))
    return guide


def factor_model() -> Foreign:
    """Matrix factorisation: two crossed plates, an embedding, `pyro.factor` and `pyro.deterministic`."""
    table = torch.outer(line(6), line(4).cos())

    def model(x: Tensor) -> None:
        rows, columns = pyro.plate("rows", 6, dim=-2), pyro.plate("columns", 4, dim=-1)
        with rows:
            left = pyro.sample("left", dist.Normal(0.0, 1.0))
        with columns:
            right = pyro.sample("right", dist.Normal(0.0, 1.0))
        pyro.factor("ridge", -0.1 * right.square().sum())
        with rows, columns:
            mean = pyro.deterministic("mean", left * right)
            pyro.sample("x", dist.Normal(mean, 0.5), obs=x)

    return Foreign(model, AutoLowRankMultivariateNormal(model, rank=2), (table,), Trace_ELBO())


FOREIGN: dict[str, Callable[[], Foreign]] = {
    "schools, own guide": lambda: schools(lambda model: schools_guide),
    "schools, AutoNormal": lambda: schools(AutoNormal),
    "schools, AutoMultivariateNormal": lambda: schools(AutoMultivariateNormal),
    "schools, AutoLowRankMultivariateNormal": lambda: schools(AutoLowRankMultivariateNormal),
    "schools, AutoDelta": lambda: schools(AutoDelta),
    "schools, AutoStructured": lambda: schools(AutoStructured),
    "schools, AutoGuideList": lambda: schools(by_parts),
    "schools, EasyGuide": lambda: schools(ByHand),
    "plate that draws its indices": subsampling,
    "parameters of a plate's indices": local_subsampling,
    "mixture, AutoDelta": lambda: mixture(AutoDelta),
    "mixture, AutoNormal": lambda: mixture(AutoNormal),
    "regression, AutoDiagonalNormal": lambda: regression(AutoDiagonalNormal),
    "regression, AutoMultivariateNormal": lambda: regression(AutoMultivariateNormal),
    "Bayesian network": network,
    "semi-supervised VAE, labelled": lambda: semi_supervised(True),
    "semi-supervised VAE, unlabelled": lambda: semi_supervised(False),
    "hidden Markov model, AutoDelta": lambda: chain(AutoDelta),
    "hidden Markov model, AutoNormal": lambda: chain(AutoNormal),
    "deep Markov model": deep_markov,
    "AutoIAFNormal": lambda: flow(lambda model: AutoIAFNormal(model, hidden_dim=[5], num_transforms=2)),
    "AutoNormalizingFlow": lambda: flow(
        lambda model: AutoNormalizingFlow(model, lambda size: transforms.spline_coupling(size, hidden_dims=[5]))
    ),
    "AutoHierarchicalNormalMessenger": lambda: flow(AutoHierarchicalNormalMessenger),
    "planar and radial flows": lambda: flow(lambda model: PlanarGuide(transforms.planar(3), transforms.radial(3))),
    "registered coupling": lambda: flow(registered_flow()),
    "Rényi": lambda: schools(AutoNormal)._replace(
        elbo=RenyiELBO(alpha=0.5, num_particles=3, vectorize_particles=False)
    ),
    "vectorised particles": lambda: schools(AutoNormal)._replace(
        elbo=Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    ),
    "Beta": beta_bernoulli,
    "Gamma and Dirichlet": gamma_poisson,
    "LKJ": correlated,
    "matrix factorisation": factor_model,
}
