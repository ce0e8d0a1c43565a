"""A compiled fit equals the uncompiled one, or says why it runs uncompiled: effects, changes and gradients."""

from __future__ import annotations

import copy
import random
import types
import warnings
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal, AutoStructured
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor, nn
from torch.distributions import constraints

from latentmix.inference import Callback, Objective, Terms, TrainingState, as_objective, fit
from latentmix.inference.compiled.objective import MAX_GRAPHS, CompiledObjective
from latentmix.inference.compiled.trace import trace_step

from tests.inference.compiled.interpreter import interpreted

Shift = Callable[["Network", Tensor], Any]
GENERATOR = torch.Generator()
WEIGHT = [0.5]
WEIGHT_OF_A_PROPERTY, WEIGHT_OF_A_STATIC_METHOD = [0.1], [0.1]
settings = types.ModuleType("settings")
settings.SCALE = 0.5  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def without_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentmix.inference.compiled.objective.compile_graph", interpreted)
    monkeypatch.setattr("latentmix.inference.compiled.objective.compiler_obstacle", lambda device: None)
    monkeypatch.setattr("latentmix.inference.compiled.plan._LEAST_STEPS", 1)  # incomplete minibatches, too


class Network(nn.Module):
    """A model whose mean is shifted by a function of the module and the data."""

    def __init__(self, shift: Shift) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
        self.slope = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))
        self.mean: Tensor
        self.register_buffer("temperature", torch.tensor(0.5, dtype=torch.float64))
        self.seen = torch.zeros(())
        self.array = np.zeros(2)
        self.dropout = nn.Dropout(0.4)
        self.number = 1.0
        self.options = {"scale": 0.3}
        self.shift = shift

    def forward(self, x: Tensor) -> None:
        pyro.module("network", self)
        with pyro.plate("data", len(x)):
            loc = self.loc + self.slope * self.dropout(x) + self.mean.sum() + self.options["scale"]
            pyro.sample("x", dist.Normal(loc + self.shift(self, x), 1.0), obs=x)


def no_latents(*batch: Tensor) -> None:
    pass


def fitted(make: Callable[[], tuple[Any, ...]], compile: bool) -> tuple[Any, list[str]]:
    """The fit and its warnings, from the same random states."""
    torch.manual_seed(0)
    GENERATOR.manual_seed(0)
    WEIGHT[0] = 0.5
    model, guide, options = make()
    x = torch.linspace(-2.0, 3.0, 14, dtype=torch.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        settings: dict[str, Any] = {"epochs": 3, "batch_size": 4, "seed": 1, **options}
        result = fit(model, guide, x, compile=compile, **settings)
    return result, [str(each.message) for each in caught if "uncompiled" in str(each.message)]


def assert_same_fit(make: Callable[[], tuple[Any, ...]], reason: str | None) -> None:
    plain, _ = fitted(make, compile=False)
    fast, said = fitted(make, compile=True)
    assert fast.losses == pytest.approx(plain.losses, rel=1e-10)
    assert torch.equal(fast.state.random.torch, plain.state.random.torch)
    assert plain.parameters.keys() == fast.parameters.keys()
    for name, value in plain.parameters.items():
        tolerance = 1e-10 if value.dtype == torch.float64 else 1e-5
        assert torch.dist(fast.parameters[name], value) <= tolerance * value.norm(), name
    for name, buffer in plain.state.buffers.items():
        torch.testing.assert_close(fast.state.buffers[name], buffer, rtol=1e-10, atol=1e-10)
    assert len(said) == (reason is not None)
    assert reason is None or reason in said[0]


def counts(network: Network, x: Tensor) -> float:
    network.number += 1
    return 1.0 if network.number > 15 else 0.0


def counts_in_a_list() -> Shift:
    calls = [0]

    def shift(network: Network, x: Tensor) -> float:
        calls[0] += 1
        return 1.0 if calls[0] > 15 else 0.0

    return shift


def counts_in_a_closure() -> Shift:
    calls = 0

    def shift(network: Network, x: Tensor) -> float:
        nonlocal calls
        calls += 1
        return 1.0 if calls > 15 else 0.0

    return shift


def rebinds_a_buffer(network: Network, x: Tensor) -> float:
    network.mean = 0.9 * network.mean + 0.1 * x.mean()
    return 0.0


def keeps_a_tensor(network: Network, x: Tensor) -> Tensor:
    network.seen = x.mean()  # which a callback may read
    return network.seen


def draws_by_itself(network: Network, x: Tensor) -> Tensor:
    return torch.randn((), generator=GENERATOR, dtype=torch.float64)


def maximum_by_numpy(network: Network, x: Tensor) -> float:
    return float(np.asarray(x).max())


def parameter_by_numpy(network: Network, x: Tensor) -> float:
    return float(network.loc.detach().numpy())


def reads_a_count(network: Network, x: Tensor) -> float:
    value = float(network.mean[0])
    network.mean.add_(0.25)
    return value


def compares_a_buffer(network: Network, x: Tensor) -> float:
    return float(torch.equal(network.mean, torch.zeros_like(network.mean)))


def counts_in_an_array(network: Network, x: Tensor) -> float:
    network.array[0] += 1
    return 1.0 if network.array[0] > 15 else 0.0


EFFECTS: dict[str, tuple[Callable[[], Shift], str]] = {
    "attribute": (lambda: counts, "Expected a step without effects on Python values; got one that changes"),
    "list": (counts_in_a_list, "got one that changes calls[0]"),
    "closure": (counts_in_a_closure, "got one that changes calls"),
    "tensor kept": (lambda: keeps_a_tensor, "got one that changes Network.seen"),
    "generator": (lambda: draws_by_itself, "got one that changes the state of GENERATOR"),
    "numpy's random numbers": (lambda: lambda network, x: float(np.random.normal()), "got some of Python's or NumPy's"),
    "Python's random numbers": (lambda: lambda network, x: random.random() > 0.01, "got some of Python's or NumPy's"),
    "data": (lambda: maximum_by_numpy, "got one in maximum_by_numpy, line"),
    "parameter": (lambda: parameter_by_numpy, "got one in parameter_by_numpy, line"),
    "data as a list": (lambda: lambda network, x: max(x.tolist()), "got one in <lambda>, line"),
    "buffer": (lambda: rebinds_a_buffer, "got one that changes Network.mean"),
    "number of a buffer that stays": (lambda: lambda network, x: float(network.mean[0]), "got one in <lambda>, line"),
    "number of a whole buffer": (lambda: lambda network, x: float(network.temperature), "got one in <lambda>, line"),
    "comparison of a buffer": (lambda: compares_a_buffer, "got one in compares_a_buffer, line"),
    "array": (lambda: counts_in_an_array, "got one that changes the numbers of Network.array"),
    "number of a buffer": (lambda: reads_a_count, "got one in reads_a_count, line"),
    "branch": (lambda: lambda network, x: 1.0 if x.sum() > 0 else 0.0, "got one in <lambda>, line"),
}


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_step_with_effects_or_inputs_outside_torch_runs_uncompiled(effect: str) -> None:
    make, reason = EFFECTS[effect]
    assert_same_fit(lambda: (Network(make()), no_latents, {}), reason)


class Change(Callback):
    """Changes a module in the midst of the second epoch."""

    def __init__(self, network: Network, change: Callable[[Network], Any]) -> None:
        self.network, self.change = network, change

    def on_batch_end(self, state: TrainingState) -> None:
        if (state.epoch, state.batch) == (1, 2):
            self.change(self.network)


def changed_weight(network: Network) -> None:
    WEIGHT[0] = 2.0


class Slotted:
    """An object without a dictionary of its attributes."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.1


class Settings:
    """Values that a step reads from the class."""

    scale = 0.1


class Changeable(Network):
    """A network with values in all the places where Python keeps some."""

    offset = 0.2
    table = {"scale": 0.1}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__(reads_everything)
        self.head = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        self.slotted = Slotted()
        self.choice: Callable[[Tensor], Tensor] = torch.sin
        self.tags = {"shifted"}
        self.queue = deque([0.1])
        self.array = np.array([0.1, np.nan])

    @property
    def weight(self) -> float:
        return WEIGHT_OF_A_PROPERTY[0]

    @staticmethod
    def factor() -> float:
        return WEIGHT_OF_A_STATIC_METHOD[0]

    def elsewhere(self) -> float:
        kept = self.queue[0] + float(self.array[0]) + self.table["scale"] + ("shifted" in self.tags)
        return kept + Settings.scale + self.weight + self.factor()


def reads_everything(network: Any, x: Tensor) -> Tensor:
    numbers = network.number * WEIGHT[0] + network.offset + network.slotted.value + reads_everything.extra
    return numbers + network.head(x[:, None])[:, 0] + network.choice(x) + settings.SCALE + network.elsewhere()


def hooked(network: Any) -> None:
    network.head.register_forward_hook(lambda module, inputs, output: 2 * output)


CHANGES: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "freezing": (lambda network: network.slope.requires_grad_(False), True),
    "mode": (lambda network: network.eval(), True),
    "buffer": (lambda network: setattr(network, "mean", torch.ones(2, dtype=torch.float64)), True),
    "buffer in place": (lambda network: network.mean.fill_(3.0), False),
    "number": (lambda network: setattr(network, "number", 3.0), True),
    "option": (lambda network: network.options.update(scale=2.0), True),
    "options": (lambda network: setattr(network, "options", {"scale": 2.0}), True),
    "dropout": (lambda network: setattr(network.dropout, "p", 0.1), True),
    "parameter": (lambda network: setattr(network, "slope", nn.Parameter(2 * network.slope.detach())), True),
    "parameter in place": (lambda network: network.slope.data.fill_(2.0), False),
    "global": (changed_weight, True),
    "module": (lambda network: setattr(network, "head", copy.deepcopy(network.head)), True),
    "hook": (hooked, True),
    "function": (lambda network: setattr(network, "choice", torch.cos), True),
    "attribute of a class": (lambda network: setattr(Changeable, "offset", 0.7), True),
    "attribute that hides one of a class": (lambda network: setattr(network, "offset", 0.7), True),
    "attribute of a function": (lambda network: setattr(reads_everything, "extra", 0.9), True),
    "slot": (lambda network: setattr(network.slotted, "value", 0.9), True),
    "class": (lambda network: setattr(Settings, "scale", 0.9), True),
    "container of a class": (lambda network: network.table.update(scale=0.9), True),
    "set": (lambda network: network.tags.clear(), True),
    "queue": (lambda network: network.queue.__setitem__(0, 0.9), True),
    "array": (lambda network: network.array.__setitem__(0, 0.9), True),
    "global of a property": (lambda network: WEIGHT_OF_A_PROPERTY.__setitem__(0, 0.9), True),
    "global of a static method": (lambda network: WEIGHT_OF_A_STATIC_METHOD.__setitem__(0, 0.9), True),
    "hook of a gradient": (lambda network: network.slope.register_hook(lambda gradient: 0 * gradient), True),
    "global of another module": (lambda network: setattr(settings, "SCALE", 1.5), True),
}


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The traced steps."""
    traced: list[Any] = []
    original = trace_step
    monkeypatch.setattr(
        "latentmix.inference.compiled.objective.trace_step",
        lambda *each: (traced.append(original(*each)), traced[-1])[1],
    )
    return traced


@pytest.mark.parametrize("change", CHANGES)
def test_after_a_change_between_steps_they_are_traced_again(change: str, traces: list[Any]) -> None:
    """Minibatches of 4 and of 2; the second is traced again in the seventh epoch."""
    apply, again = CHANGES[change]

    def make() -> tuple[Any, ...]:
        Changeable.offset, reads_everything.extra, settings.SCALE = 0.2, 0.3, 0.5  # type: ignore[attr-defined]
        Settings.scale = Changeable.table["scale"] = WEIGHT_OF_A_PROPERTY[0] = WEIGHT_OF_A_STATIC_METHOD[0] = 0.1
        network = Changeable()
        return network, no_latents, {"callbacks": [Change(network, apply)], "epochs": 8}

    assert_same_fit(make, None)
    assert len(traces) == (4 if again else 2)


def test_a_value_that_returns_is_not_traced_again(traces: list[Any]) -> None:
    class Alternate(Callback):
        def __init__(self, network: Network) -> None:
            self.network = network

        def on_epoch_end(self, state: TrainingState) -> None:
            self.network.number = float((state.epoch + 1) // 6 % 2)

    def make() -> tuple[Any, ...]:
        network = Network(lambda network, x: network.number)
        return network, no_latents, {"callbacks": [Alternate(network)], "epochs": 30, "batch_size": 7}

    assert_same_fit(make, None)
    assert len(traces) == 2


class Annealed(Objective):
    """A weight that is a number: constant in a graph."""

    weight = 1.0

    def begin_step(self, epochs: float) -> None:
        self.weight = epochs

    def terms(self, model: Any, guide: Any, *batch: Tensor) -> Terms:
        terms = as_objective(Trace_ELBO()).terms(model, guide, *batch)
        return Terms(self.weight * terms.loss, None, None, None)


def test_a_number_that_changes_in_every_step_is_seen_at_once_and_not_traced_again(traces: list[Any]) -> None:
    def make() -> tuple[Any, ...]:
        network = Network(lambda network, x: 0.0)
        return network, no_latents, {"objective": Annealed(), "optimizer": partial(torch.optim.SGD, lr=0.1)}

    assert_same_fit(make, "Annealed.weight is no longer what it was when the step was traced, and has changed before")
    assert len(traces) == 2  # one of each shape


def writes_a_view(network: Network, x: Tensor) -> float:
    network.mean[0] = 0.9 * network.mean[0] + 0.1 * x.mean()
    network.mean[:1].add_(0.1)
    return 0.0


def writes_a_result(network: Network, x: Tensor) -> float:
    with torch.no_grad():
        torch.add(network.mean, 0.1 * x.mean(), out=network.mean)
    return 0.0


def clamps_parameters(network: Network, x: Tensor) -> float:
    network.slope.data.clamp_(max=0.401)
    with torch.no_grad():
        network.loc.clamp_(max=0.101)
    return 0.0


@pytest.mark.parametrize("shift", [writes_a_view, writes_a_result, clamps_parameters])
def test_tensors_changed_in_place_are_changed_once_a_step(shift: Shift) -> None:
    assert_same_fit(lambda: (Network(shift), no_latents, {}), None)


class Clipped(torch.optim.SGD):
    """Scales gradients in place."""

    def step(self, closure: Any = None) -> Any:
        nn.utils.clip_grad_norm_([leaf for group in self.param_groups for leaf in group["params"]], 0.01)
        return super().step(closure)


def test_gradients_of_two_parameters_share_no_memory() -> None:
    """Those of two addends are one tensor in the graph."""

    def make() -> tuple[Any, ...]:
        network = Network(lambda network, x: network.second)
        network.second = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
        return network, no_latents, {"optimizer": partial(Clipped, lr=0.1)}

    assert_same_fit(make, None)


def test_gradients_have_the_layout_of_their_parameters() -> None:
    """Expanded and transposed gradients, which the fused Adam reads as if they were contiguous."""

    def shift(network: Network, x: Tensor) -> Any:
        each = torch.arange(12, dtype=torch.float64).reshape(4, 3)
        return network.first.sum() + (network.second.t() * each).sum() + (network.first * network.second).sum()

    def make() -> tuple[Any, ...]:
        network = Network(shift)
        network.first = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
        network.second = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
        return network, no_latents, {"optimizer": partial(torch.optim.Adam, lr=0.01, fused=True)}

    assert_same_fit(make, None)


def test_hooks_after_gradients_run() -> None:
    def scale(leaf: Tensor) -> None:
        assert leaf.grad is not None
        leaf.grad.mul_(0.1)

    def make() -> tuple[Any, ...]:
        network = Network(lambda network, x: 0.0)
        network.slope.register_post_accumulate_grad_hook(scale)
        return network, no_latents, {"optimizer": partial(torch.optim.SGD, lr=0.1)}

    assert_same_fit(make, "Expected parameters without hooks after their gradients")


def test_sparse_gradients_are_refused_and_sparse_constants_are_not() -> None:
    eye = torch.eye(3, dtype=torch.float64).to_sparse()

    def shift(network: Network, x: Tensor) -> Any:
        return torch.sparse.mm(eye, network.table.weight).sum() + network.table(torch.tensor([0, 2])).sum()

    def make(sparse: bool) -> tuple[Any, ...]:
        network = Network(shift)
        network.table = nn.Embedding(3, 1, sparse=sparse, dtype=torch.float64)
        return network, no_latents, {"optimizer": partial(torch.optim.SGD, lr=0.01)}

    assert_same_fit(lambda: make(False), None)

    def lookup(network: Network, x: Tensor) -> Any:
        return network.table(torch.tensor([0, 2])).sum()

    def only_lookup() -> tuple[Any, ...]:
        network, *others = make(True)
        network.shift = lookup
        return network, *others

    assert_same_fit(only_lookup, "Expected dense gradients; got sparse ones")


class Addition(torch.autograd.Function):
    """A sum with a gradient in its first term only."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        return first + second

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


def test_a_parameter_without_a_gradient_stays_without_one() -> None:
    def make() -> tuple[Any, ...]:
        network = Network(lambda network, x: Addition.apply(network.loc, network.other))
        network.other = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))
        return network, no_latents, {}

    assert_same_fit(make, None)


class Regression(PyroModule):
    """Bayesian linear regression of Pyro's tutorials; its priors were made while validation was on."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = PyroSample(dist.Normal(torch.zeros(1, dtype=torch.float64), 1.0).to_event(1))
        self.scale = PyroParam(torch.tensor(1.0, dtype=torch.float64), constraint=constraints.positive)

    def forward(self, x: Tensor) -> None:
        slope = self.slope
        with pyro.plate("data", 14, subsample=x):
            mean = pyro.deterministic("mean", slope[0] * x)
            pyro.sample("x", dist.Normal(mean, self.scale), obs=x)


def two_latents(x: Tensor, dtype: torch.dtype = torch.float64) -> None:
    loc = pyro.sample("loc", dist.Normal(torch.zeros((), dtype=dtype), 3.0))
    scale = pyro.sample("scale", dist.LogNormal(torch.zeros((), dtype=dtype), 1.0))
    with pyro.plate("data", 14, subsample=x):
        pyro.sample("x", dist.Normal(loc, scale), obs=x.to(dtype))


def structured() -> AutoStructured:
    """A guide whose parameters are all in float64; Pyro makes a linear dependency in the default dtype."""
    dependency = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    conditionals = dict.fromkeys(("loc", "scale"), "mvn")
    return AutoStructured(two_latents, conditionals=conditionals, dependencies={"scale": {"loc": dependency}})


def own_indices(x: Tensor) -> None:
    loc = pyro.sample("loc", dist.Normal(torch.zeros((), dtype=torch.float64), 3.0))
    with pyro.plate("data", 14, 5) as chosen:
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x[chosen])


TUTORIALS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "PyroSample": lambda: (model := Regression(), AutoNormal(model), {}),
    "AutoStructured": lambda: (two_latents, structured(), {}),
    "AutoStructured in float32": lambda: (
        model := partial(two_latents, dtype=torch.float32),
        AutoStructured(model),
        {},
    ),
    "plate that draws its indices": lambda: (own_indices, AutoNormal(own_indices), {"batch_size": 14, "epochs": 6}),
}


@pytest.mark.parametrize("tutorial", TUTORIALS)
def test_models_of_tutorials_run_compiled(tutorial: str) -> None:
    assert_same_fit(TUTORIALS[tutorial], None)


def test_full_batches_run_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one step in 20 is compared with an uncompiled one."""
    checked = []
    original = CompiledObjective.checked_backward
    monkeypatch.setattr(
        CompiledObjective, "checked_backward", lambda self, *each: (checked.append(1), original(self, *each))[1]
    )
    fit(Network(lambda network, x: 0.0), no_latents, torch.zeros(6, dtype=torch.float64), epochs=41, compile=True)
    assert len(checked) == 3


def test_the_number_of_shapes_is_bounded() -> None:
    network = Network(lambda network, x: 0.0)
    objective = CompiledObjective(as_objective(Trace_ELBO()), network, no_latents)
    x = torch.linspace(-1.0, 1.0, 20, dtype=torch.float64)
    for size in range(1, MAX_GRAPHS + 1):
        objective.backward(network, no_latents, x[:size])
    with pytest.warns(UserWarning, match=f"more than {MAX_GRAPHS} shapes.*: steps of further ones run uncompiled"):
        objective.backward(network, no_latents, x[:12])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective.backward(network, no_latents, x[:13])
    assert objective.obstacle is None


def test_a_loss_of_large_parts_that_cancel_is_no_change() -> None:
    """The tolerance of the comparison is that of the parts, not of their difference."""
    x = torch.linspace(-1.0, 1.0, 64)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1e-3))
            pyro.sample("x", dist.Normal(z, 1e-3), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("slope", torch.ones(())) * x, 1e-3))

    objective = CompiledObjective(as_objective(Trace_ELBO()), model, guide)
    pyro.clear_param_store()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            objective.checked_backward(model, guide, x)
    pyro.clear_param_store()
    assert objective.obstacle is None


def test_an_interrupt_during_compilation_leaves_everything_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("latentmix.inference.compiled.objective.compile_graph", interrupt)
    network = Network(writes_a_view)
    x = torch.linspace(-1.0, 1.0, 8, dtype=torch.float64)
    objective = CompiledObjective(as_objective(Trace_ELBO()), network, no_latents)
    torch.manual_seed(0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    randomness = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        objective.backward(network, no_latents, x)
    assert torch.equal(torch.get_rng_state(), randomness)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(leaf.grad is None for leaf in network.parameters())


def test_wrong_gradients_of_the_compiler_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(graph: Any, inputs: Any) -> Any:
        run = interpreted(graph, inputs)
        return lambda arguments: [*run(arguments)[:-1], run(arguments)[-1] + 1]

    monkeypatch.setattr("latentmix.inference.compiled.objective.compile_graph", wrong)
    assert_same_fit(lambda: (Network(lambda network, x: 0.0), no_latents, {}), "gradients differ")
