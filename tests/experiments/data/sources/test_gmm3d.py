"""Points of a known mixture."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from latentmix.experiments.data.base import Dataset
from latentmix.experiments.data.datasets import Data
from latentmix.experiments.data.pixels import DynamicBinarization, ToFloat
from latentmix.experiments.data.sources.gmm3d import gmm3d, three_dimensional_mixture


def labels(dataset: Dataset) -> Tensor:
    return torch.cat([split.labels for split in dataset.splits.values() if split.labels is not None])


class TestMixture:
    def test_is_always_the_same(self) -> None:
        first = three_dimensional_mixture()
        torch.manual_seed(7)
        before = torch.get_rng_state()
        again = three_dimensional_mixture()
        assert torch.equal(torch.get_rng_state(), before)
        for name in ("weights", "means", "covariances"):
            assert torch.equal(getattr(first, name), getattr(again, name))
            assert getattr(first, name).dtype == torch.float64
        assert first.structure.name == "full"
        assert torch.allclose(first.weights, torch.full((10,), 0.1, dtype=torch.float64))

    def test_is_near_standard(self) -> None:
        mixture = three_dimensional_mixture()
        covariance = mixture.covariances.mean(0) + mixture.means.T @ mixture.means / 10
        assert torch.allclose(mixture.means.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-12)
        assert bool((covariance.diagonal().sqrt() > 1).all())
        assert bool((covariance.diagonal().sqrt() < 3).all())

    def test_components_are_apart_but_not_far(self) -> None:
        """The nearest two centres: 4.9 of the larger standard deviations along the line between them."""
        mixture = three_dimensional_mixture()
        steps = mixture.means[:, None] - mixture.means
        distances = steps.norm(dim=-1) + 1e9 * torch.eye(10, dtype=torch.float64)
        directions = steps / distances[..., None]
        scales = torch.einsum("ijd,ide,ije->ij", directions, mixture.covariances, directions).sqrt()
        apart = (distances / torch.maximum(scales, scales.T)).min()
        assert 4 < float(apart) < 6
        assert bool((torch.linalg.eigvalsh(mixture.covariances).sqrt() > 0.15).all())
        assert bool((torch.linalg.eigvalsh(mixture.covariances).sqrt() < 0.45).all())

    def test_some_components(self) -> None:
        whole, some = three_dimensional_mixture(), three_dimensional_mixture([7, 2])
        assert torch.equal(some.means, whole.means[[2, 7]])
        assert torch.equal(some.covariances, whole.covariances[[2, 7]])
        assert some.weights.tolist() == [0.5, 0.5]


class TestPoints:
    def test_moments(self) -> None:
        """Counts, means and covariances against the truth.

        100 statistics are compared with their standard errors; at 4.5 of them the chance of a false alarm, had the seed
        not been fixed, is below 100 x 7e-6 = 7e-4.
        """
        count = 40_000
        x, components = gmm3d(count, seed=0)
        assert x.dtype == torch.float32
        assert components.dtype == torch.int64
        truth, counts = three_dimensional_mixture(), torch.bincount(components, minlength=10)
        assert bool(((counts - count / 10).abs() < 4.5 * (count * 0.09) ** 0.5).all())
        for component in range(10):
            own = x[components == component].double()
            covariance, variances = truth.covariances[component], truth.covariances[component].diagonal()
            errors = (own.mean(0) - truth.means[component]) / (variances / len(own)).sqrt()
            assert float(errors.abs().max()) < 4.5
            spread = ((variances[:, None] * variances + covariance**2) / len(own)).sqrt()
            assert float(((own.T.cov() - covariance) / spread).abs().max()) < 4.5

    def test_the_true_mixture_recovers_the_components(self) -> None:
        x, components = gmm3d(20_000, seed=1)
        recovered = three_dimensional_mixture().responsibilities(x.double()).argmax(1)
        assert 0.995 < float((recovered == components).double().mean()) < 1

    def test_depends_only_on_the_seed(self) -> None:
        before = torch.get_rng_state()
        x, components = gmm3d(50, seed=4)
        torch.manual_seed(9)
        again, same = gmm3d(50, seed=4)
        other, _ = gmm3d(50, seed=5)
        assert torch.equal(x, again)
        assert torch.equal(components, same)
        assert not torch.equal(x, other)
        torch.manual_seed(0)
        assert torch.equal(torch.get_rng_state(), before)


class TestDataset:
    def test_splits(self) -> None:
        points = Data("gmm3d").load()
        assert [len(split) for split in points.splits.values()] == [6400, 1600, 2000]
        assert points.shape == (3,)
        assert not points.pictorial
        assert points.classes == tuple(range(10))
        assert points.truth is not None
        whole, components = gmm3d(10_000, 0)
        assert torch.equal(torch.cat([split.x for split in points.splits.values()]).unique(dim=0), whole.unique(dim=0))
        assert torch.equal(labels(points).bincount(), components.bincount())

    def test_options(self) -> None:
        some = Data("gmm3d", points=1000, seed=3, classes=[2, 7], limit=100).load()
        assert len(some.train) == 100
        assert labels(some).unique().tolist() == [2, 7]
        assert some.truth is not None
        assert torch.equal(some.truth.means, three_dimensional_mixture().means[[2, 7]])
        again, other = Data("gmm3d", points=1000, seed=3).load(), Data("gmm3d", points=1000, seed=4).load()
        assert torch.equal(again.train.x, Data("gmm3d", points=1000, seed=3).load().train.x)
        assert not torch.equal(again.train.x, other.train.x)

    @pytest.mark.parametrize("binarize", ["static", "dynamic"])
    def test_points_are_not_binarized(self, binarize: str) -> None:
        with pytest.raises(ValueError, match=rf"binarize auto or none for the points of gmm3d; got {binarize}\."):
            Data("gmm3d", binarize=binarize).load()  # type: ignore[arg-type]
        x, _ = gmm3d(10, seed=0)
        assert DynamicBinarization()(x) is x
        assert ToFloat()(x) is x

    def test_too_few_points(self) -> None:
        with pytest.raises(ValueError, match=r"Expected --data.points of at least 1; got 0\."):
            Data("gmm3d", points=0).load()
        with pytest.raises(ValueError, match="Expected 5 or more training data of class"):
            Data("gmm3d", points=30).load()
