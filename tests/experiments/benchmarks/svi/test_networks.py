"""All contestants have the same networks."""

from __future__ import annotations

import math
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pyro.infer import TraceMeanField_ELBO

from latentmix.experiments.benchmarks.svi import ours
from latentmix.experiments.benchmarks.svi.cases import ARCHITECTURES, Case
from latentmix.experiments.benchmarks.svi.contestants import CONTESTANTS, Contestant
from latentmix.experiments.benchmarks.svi.floor import operations
from latentmix.experiments.benchmarks.svi.handwritten import Network
from latentmix.experiments.benchmarks.svi.ours import networks
from latentmix.experiments.presets import preset_path
from latentmix.inference.isolation import isolated


@pytest.fixture(params=ARCHITECTURES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param, batch_size=4, images=8)


@pytest.mark.parametrize("name", [name for name, each in ARCHITECTURES.items() if each.preset])
def test_networks_are_those_of_the_presets(name: str) -> None:
    architecture = ARCHITECTURES[name]
    assert architecture.preset is not None
    preset = yaml.safe_load(preset_path(architecture.preset).read_text())
    assert preset["latent_dim"] == architecture.latent_dim
    vae, guide = networks(architecture)
    for part, made in (("encoder", guide.encoder), ("decoder", vae.decoder)):
        assert preset[part]["class_path"].split(".")[-1] == type(made).__name__
        for argument, value in preset[part]["init_args"].items():
            assert list(getattr(made, argument)) == value
    for part, made in (("prior", vae.prior), ("likelihood", vae.likelihood), ("family", guide.family)):
        assert preset[part]["class_path"].split(".")[-1] == type(made).__name__


def test_handwritten_loss_is_the_negative_elbo_of_ours(case: Case) -> None:
    vae, guide = networks(case.architecture)
    network = Network(case.architecture)
    x = torch.from_numpy(case.data())
    with isolated(seed=1):
        with torch.no_grad():
            theirs = chain(guide.parameters(), vae.parameters())
            for own, other in zip(network.parameters(), theirs, strict=True):
                own.copy_(other)
        torch.manual_seed(2)
        loss = network(x)
        torch.manual_seed(2)
        expected = TraceMeanField_ELBO().loss(vae.model, guide, x) / len(x)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def in_numpyro(network: torch.nn.Module, like: dict[str, Any], channels: int) -> dict[str, Any]:
    """Torch's weights as NumPyro's layers, which have the channels of feature maps last."""
    modules = [module for module in network.modules() if getattr(module, "weight", None) is not None]
    layers = {}
    for name, module in zip(like, modules, strict=True):
        weight, bias = (part.detach().numpy() for part in (module.weight, module.bias))
        if isinstance(module, torch.nn.BatchNorm2d):
            layers[name] = {"scale": weight, "offset": bias}
            continue
        if isinstance(module, torch.nn.Linear):
            if channels and module.in_features % (49 * channels) == 0:
                weight = weight.reshape(-1, channels, 49).swapaxes(1, 2).reshape(weight.shape)
            if channels and module.out_features % (49 * channels) == 0:
                weight = weight.reshape(channels, 49, -1).swapaxes(0, 1).reshape(weight.shape)
                bias = bias.reshape(channels, 49).T.ravel()
            weight = weight.T
        else:
            weight = weight.transpose((2, 3, 1, 0) if isinstance(module, torch.nn.Conv2d) else (2, 3, 0, 1))
        layers[name] = {"weight": weight, "bias": bias}
    return layers


def test_numpyro_computes_what_torch_does(case: Case) -> None:
    numpyro = pytest.importorskip("numpyro", reason="NumPyro is in the extra `bench`")
    import jax

    from latentmix.experiments.benchmarks.svi.numpyro_scan import decode, decoder_parameters, encode, encoder_parameters
    from latentmix.experiments.benchmarks.svi.numpyro_scan import linear as affine

    architecture, x, channels = case.architecture, case.data(), max((0, *case.architecture.decoder_channels))
    with isolated(seed=0):
        network = Network(architecture)
        z = torch.randn(len(x), architecture.latent_dim)
        expected = [*network.encoder(torch.from_numpy(x)), network.decoder(z).movedim(1, -1)]
    key = jax.random.key(0)
    encoder = in_numpyro(network.encoder, encoder_parameters(key, architecture), channels)
    decoder = in_numpyro(network.decoder, decoder_parameters(key, architecture), channels)
    with numpyro.handlers.trace() as trace:
        features = encode(encoder, jax.numpy.asarray(x.transpose(0, 2, 3, 1)), architecture)
    values = [affine(encoder[name], features) for name in ("loc", "log_variance")]
    values.append(decode(decoder, z.numpy(), architecture))
    for own, theirs in zip(values, expected, strict=True):
        np.testing.assert_allclose(np.asarray(own), theirs.detach().numpy(), atol=1e-5)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(trace) == len(norms)
    for site, norm in zip(trace.values(), norms, strict=True):
        np.testing.assert_allclose(site["value"]["mean"], norm.running_mean, atol=1e-6)
        np.testing.assert_allclose(site["value"]["variance"], norm.running_var, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "contestant"), [each for each in CONTESTANTS.items() if each[0].startswith("latentmix")]
)
def test_names_say_what_is_compiled_and_in_which_precision(
    name: str, contestant: Contestant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever `fit` does by default."""
    asked: list[tuple[object, object]] = []

    def fit(*data: object, compile: object = "auto", precision: str = "full", **options: object) -> SimpleNamespace:
        asked.append((compile, precision))
        return SimpleNamespace(losses=[1.0])

    monkeypatch.setattr(ours, "fit", fit)
    case = Case("digits", batch_size=4, images=8)
    getattr(ours, contestant.function.partition(":")[2])(case, case.data(), lambda: True)
    precision = "bf16-mixed" if "bf16" in name else "full"
    assert asked == [("compiled" in name, precision)]
    assert contestant.compiled == ("compiled" in name)


@pytest.mark.parametrize("name", ["digits", "conv64"])
def test_numpyro_trains_like_torch(name: str) -> None:
    pytest.importorskip("numpyro", reason="NumPyro is in the extra `bench`")
    from latentmix.experiments.benchmarks.svi import handwritten, numpyro_scan

    case = Case(name, batch_size=16, images=64 if name == "conv64" else 320)
    losses = []
    for run in (handwritten.eager, numpyro_scan.run):
        turns = iter([True] * 3 + [False])
        losses.append(run(case, case.data(), lambda turns=turns: next(turns))["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.03)
    assert max(losses) < 0.98 * case.architecture.pixels * math.log(2)  # nats of fair coins


def test_operations_of_convolutions_are_counted() -> None:
    case = Case("conv64", batch_size=4, images=4)
    first = 14 * 14 * 16 * 64
    forward = 2 * first + 2 * 7 * 7 * 16 * 64 * 128 + 3 * 6272 * 20
    with isolated(seed=0):
        assert operations(case.architecture, torch.from_numpy(case.data())) == 4 * 2 * (3 * forward - first)


def test_data_are_binary_and_the_same_for_all(case: Case) -> None:
    data = Case(case.network, 4, 200).data()
    assert data.dtype == np.float32
    assert data.shape == (200, *case.architecture.shape)
    assert set(np.unique(data)) == {0, 1}
    assert data.mean() == pytest.approx(0.3, abs=0.02)
    np.testing.assert_array_equal(data, Case(case.network, 8, 200).data())
