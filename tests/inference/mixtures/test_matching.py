import pytest
import torch

from latentmix.inference.mixtures.analysis.comparison import align
from latentmix.inference.mixtures.matching import align_draws, bhattacharyya, component_order, permuted_draws
from latentmix.models.mixture.covariances import covariance_structure, covariance_types
from latentmix.models.mixture.model import MixtureModel
from latentmix.models.mixture.parameters import MixtureParameters

TYPES = covariance_types()


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
def test_draws_are_matched_as_pairs_of_mixtures(covariance_type, n_features) -> None:
    reference, sites = scattered(covariance_type, n_features)
    order = component_order(sites, reference)
    model = MixtureModel(4, n_features, covariance_type=covariance_type)
    mixtures = [model.parameters({name: values[i] for name, values in sites.items()}) for i in range(len(order))]
    expected = [align(reference, mixture).tolist() for mixture in mixtures]
    assert order.tolist() == expected
    assert len({tuple(row) for row in expected}) > 10


@pytest.mark.parametrize("covariance_type", TYPES)
def test_alignment_does_not_depend_on_order_or_batch_shape(covariance_type) -> None:
    reference, sites = scattered(covariance_type, 2)
    aligned = align_draws(sites, reference)
    shuffled = permuted_draws(sites, torch.tensor([2, 0, 3, 1]).expand(40, 4), reference)
    for name, values in align_draws(shuffled, reference).items():
        assert torch.equal(values, aligned[name])
    folded = align_draws({name: values.reshape(2, 20, *values.shape[1:]) for name, values in sites.items()}, reference)
    for name, values in folded.items():
        assert torch.equal(values.flatten(0, 1), aligned[name])
    # The likelihood of the draws is unchanged.
    model, x = MixtureModel(4, 2, covariance_type=covariance_type), torch.zeros(3, 2, dtype=torch.float64)
    for index in range(5):
        before, after = (
            model.parameters({name: values[index] for name, values in draws.items()}) for draws in (sites, aligned)
        )
        torch.testing.assert_close(before.log_likelihood(x), after.log_likelihood(x))


def test_a_reference_of_another_shape_is_refused() -> None:
    reference, sites = scattered("full", 2)
    fewer = MixtureParameters(
        reference.weights[:3], reference.means[:3], reference.covariances[:3], reference.structure
    )
    with pytest.raises(ValueError, match=r"Expected means of shape \(..., 3, 2\) and scales"):
        align_draws(sites, fewer)


@pytest.mark.parametrize("first_type", TYPES)
@pytest.mark.parametrize("second_type", TYPES)
@pytest.mark.parametrize("n_features", [1, 3])
def test_bhattacharyya_distances_match_the_formula(first_type: str, second_type: str, n_features: int) -> None:
    first, second = (scattered(covariance_type, n_features)[0] for covariance_type in (first_type, second_type))
    second = second.affine(torch.ones(n_features).double(), torch.ones(n_features).double())
    distances = bhattacharyya(first, second)
    p, q = first.expanded_covariances()[:, None], second.expanded_covariances()
    shift = (first.means[:, None] - second.means)[..., None]
    squares = (shift * torch.linalg.solve((p + q) / 2, shift)).sum((-2, -1))
    expected = squares / 8 + torch.logdet((p + q) / 2) / 2 - (torch.logdet(p) + torch.logdet(q)) / 4
    torch.testing.assert_close(distances, expected, rtol=1e-10, atol=1e-12)
    if first_type == second_type:
        assert float(bhattacharyya(first, first).diagonal().abs().max()) < 1e-12
