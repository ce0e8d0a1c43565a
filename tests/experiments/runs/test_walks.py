"""Walks through latents: ends, lengths, and vectors of attributes."""

import math

import pytest
import torch

from latentmix.experiments.data.base import Dataset, Split
from latentmix.experiments.runs.walks import attribute_vector, chosen_attributes, slerp, straight, walk
from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal

NAMES = ("Bald", "Male", "Even", "Smiling", "Always")


@pytest.mark.parametrize("way", [straight, slerp])
def test_a_walk_includes_both_ends(way):
    start, end = torch.randn(2, 40, dtype=torch.float64)
    steps = way(start, end, 9)
    assert steps.shape == (9, 40)
    assert steps.dtype == torch.float64
    torch.testing.assert_close(steps[0], start)
    torch.testing.assert_close(steps[-1], end)


def test_a_great_arc_has_even_angles_and_lengths():
    start, end = torch.randn(2, 10, dtype=torch.float64)
    end = 3 * end
    steps = slerp(start, end, 6)
    torch.testing.assert_close(steps.norm(dim=1), torch.linspace(float(start.norm()), float(end.norm()), 6).double())
    directions = steps / steps.norm(dim=1, keepdim=True)
    angles = (directions[:-1] * directions[1:]).sum(1).arccos()
    whole = torch.nn.functional.cosine_similarity(start, end, dim=0).arccos()
    torch.testing.assert_close(angles, whole.expand(5) / 5)
    plane = torch.linalg.svdvals(torch.stack([start, end, steps[2]]))
    assert plane[2] < 1e-10


def test_a_straight_line_cuts_the_sphere_and_an_arc_does_not():
    start, end = torch.eye(2, dtype=torch.float64)
    assert float(straight(start, end, 3)[1].norm()) == pytest.approx(math.sqrt(0.5))
    assert float(slerp(start, end, 3)[1].norm()) == pytest.approx(1.0)


@pytest.mark.parametrize("factor", [0.0, 1.0, 2.0, -1.0])
def test_slerp_without_an_arc_is_the_line(factor):
    """The same direction, the opposite one, and a latent at the origin on either side."""
    start = torch.randn(5)
    for first, last in ((start, factor * start), (factor * start, start)):
        torch.testing.assert_close(slerp(first, last, 5), straight(first, last, 5))


@pytest.fixture
def guide():
    return AmortizedGuide(encoder=MLPEncoder(latent_dim=3, hidden=(8,), shape=(1, 4, 4)))


def faces(n=50):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 1, 4, 4), dtype=torch.uint8, generator=generator)
    rows = torch.arange(n)
    columns = [rows < 3, rows % 5 == 0, rows % 2 == 0, rows % 4 == 0, rows >= 0]
    return Split(images, attributes=torch.stack(columns, 1))


def dataset():
    split = faces()
    return Dataset("celeba", split, split, split, attributes=NAMES)


def test_an_attribute_vector_is_a_difference_of_means(guide):
    split = faces()
    latents = guide.encode(split.x.float() / 255)
    has = split.attributes[:, 1]
    torch.testing.assert_close(attribute_vector(guide, split, 1), latents[has].mean(0) - latents[~has].mean(0))
    few = attribute_vector(guide, split, 1, limit=10)
    torch.testing.assert_close(few, latents[:10][has[:10]].mean(0) - latents[:10][~has[:10]].mean(0))
    with pytest.raises(ValueError, match="with and without the attribute in column 4"):
        attribute_vector(guide, split, 4)


def test_well_known_attributes_are_chosen_first():
    chosen = [NAMES[column] for column in chosen_attributes(dataset(), None)]
    assert chosen == ["Smiling", "Male", "Even"]
    assert [NAMES[column] for column in chosen_attributes(dataset(), "Bald")] == ["Bald", "Smiling", "Male"]
    assert [NAMES[column] for column in chosen_attributes(dataset(), None, count=9)] == [*chosen, "Bald"]
    assert "Always" not in [NAMES[column] for column in chosen_attributes(dataset(), "Always", count=9)]
    split = Split(faces().x)
    assert chosen_attributes(Dataset("digits", split, split, split), None) == []


def test_a_walk_decodes_every_step():
    vae = VAE(MLPDecoder(latent_dim=3, hidden=(8,), shape=(1, 4, 4)), StandardNormal(3), Bernoulli())
    start, vector = torch.randn(2, 3), torch.randn(3)
    images = walk(vae, start, vector, (-1.0, 0.0, 2.0))
    assert images.shape == (2, 3, 1, 4, 4)
    torch.testing.assert_close(images[:, 1], vae.decode(start))
    torch.testing.assert_close(images[1, 2], vae.decode(start[1] + 2 * vector))
