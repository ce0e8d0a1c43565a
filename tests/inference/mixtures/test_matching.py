import pytest
import torch

from latentmix.inference.mixtures.analysis.comparison import align
from latentmix.inference.mixtures.matching import align_draws, component_order, permuted_draws
from latentmix.models.mixture.covariances import covariance_structure
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters

from tests.inference.mixtures.clouds import TYPES


def scattered(
    covariance_type: str, n_features: int, count: int = 40
) -> tuple[MixtureParameters, dict[str, torch.Tensor]]:
    """A mixture of four components that overlap, and draws around it whose components are in any order."""
    generator = torch.Generator().manual_seed(3)
    structure = covariance_structure(covariance_type)
    model = MixtureModel(4, n_features, covariance_type=covariance_type)

    def noisy(spread: float, *batch: int) -> dict[str, torch.Tensor]:
        def noise(*shape: int) -> torch.Tensor:
            return spread * torch.randn(*batch, *shape, generator=generator, dtype=torch.float64)

        sites = {"weights": (centre["weights"] + noise(4)).softmax(-1), "means": centre["means"] + noise(4, n_features)}
        sites["scales"] = (centre["scales"] + noise(*model.shapes["scales"])).exp()
        if "correlation_cholesky" in model.shapes:
            factor = (centre["factor"] + noise(*model.shapes["correlation_cholesky"])).tril()
            factor.diagonal(dim1=-2, dim2=-1).abs_().add_(0.5)
            sites["correlation_cholesky"] = factor / factor.norm(dim=-1, keepdim=True)
        return sites

    centre = {"weights": torch.zeros(4).double(), "means": torch.zeros(4, n_features).double()}
    centre |= {"scales": torch.zeros(model.shapes["scales"]).double()}
    centre["factor"] = torch.zeros(model.shapes.get("correlation_cholesky", ())).double()
    pivot = noisy(1.0)
    centre |= {"weights": pivot["weights"].log(), "means": pivot["means"], "scales": pivot["scales"].log()}
    centre["factor"] = pivot.get("correlation_cholesky", centre["factor"])
    draws = noisy(0.4, count)
    orders = torch.stack([torch.randperm(4, generator=generator) for _ in range(count)])
    reference = MixtureParameters(
        pivot["weights"],
        pivot["means"],
        structure.covariances(pivot["scales"], pivot.get("correlation_cholesky")),
        structure,
    )
    return reference, permuted_draws(draws, orders, reference)


@pytest.mark.parametrize("covariance_type", TYPES)
@pytest.mark.parametrize("n_features", [1, 3])
def test_each_draw_is_matched_as_two_mixtures_are(covariance_type, n_features) -> None:
    reference, sites = scattered(covariance_type, n_features)
    order = component_order(sites, reference)
    model = MixtureModel(4, n_features, covariance_type=covariance_type)
    mixtures = [model.parameters({name: values[i] for name, values in sites.items()}) for i in range(len(order))]
    expected = [align(reference, mixture).tolist() for mixture in mixtures]
    assert order.tolist() == expected
    assert len({tuple(row) for row in expected}) > 10


@pytest.mark.parametrize("covariance_type", TYPES)
def test_the_order_of_the_draws_does_not_matter_nor_does_their_batch_shape(covariance_type) -> None:
    reference, sites = scattered(covariance_type, 2)
    aligned = align_draws(sites, reference)
    shuffled = permuted_draws(sites, torch.tensor([2, 0, 3, 1]).expand(40, 4), reference)
    for name, values in align_draws(shuffled, reference).items():
        assert torch.equal(values, aligned[name])
    folded = align_draws({name: values.reshape(2, 20, *values.shape[1:]) for name, values in sites.items()}, reference)
    for name, values in folded.items():
        assert torch.equal(values.flatten(0, 1), aligned[name])
    # What the draws say of the data stays.
    model, x = MixtureModel(4, 2, covariance_type=covariance_type), torch.zeros(3, 2, dtype=torch.float64)
    for index in range(5):
        one, other = ({name: values[index] for name, values in each.items()} for each in (sites, aligned))
        torch.testing.assert_close(model.parameters(one).log_likelihood(x), model.parameters(other).log_likelihood(x))


def test_refuses_a_reference_of_another_shape() -> None:
    reference, sites = scattered("full", 2)
    fewer = MixtureParameters(
        reference.weights[:3], reference.means[:3], reference.covariances[:3], reference.structure
    )
    with pytest.raises(ValueError, match=r"Expected means of shape \(..., 3, 2\) and scales"):
        align_draws(sites, fewer)
