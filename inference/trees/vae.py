"""Posteriors of a VAE's latents as trees for ArviZ."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from latentmix.guides import AmortizedGuide
from latentmix.inference.batches import Transform, as_batch
from latentmix.inference.datatree.groups import CONDITIONAL
from latentmix.inference.datatree.labels import Labels
from latentmix.inference.diagnostics.convergence import array_statistics
from latentmix.inference.importance import log_density, seeded_batches
from latentmix.inference.isolation import isolated
from latentmix.inference.mixtures.em.density import Densities
from latentmix.models import VAE
from latentmix.models.process_state import kept_warnings
from latentmix.models.pyro_modules import evaluation_mode
from latentmix.models.words import plural

__all__ = ["vae_tree"]

_MOST_PREDICTED = 256 * 2**20  # bytes of the data that are drawn
_FEWEST = 25  # draws that Pareto k is told from
_CHUNK = 2048  # latents that are decoded together


def vae_tree(
    vae: VAE,
    *,
    guide: AmortizedGuide | None = None,
    data: Tensor | None = None,
    draws: int = 200,
    posterior_predictive: bool = True,
    transform: Transform | None = None,
    images: ArrayLike | None = None,
    seed: int = 0,
) -> xr.DataTree:
    r"""Draws of a VAE's latents given data as a tree for ArviZ.

    | group | content |
    |---|---|
    | `posterior` | `z` (image, latent): draws of :math:`q(z \mid x)`, one chain |
    | `sample_stats` | `log_p` and `log_q` (image): :math:`\log p(x, z)` and :math:`\log q(z \mid x)` of each image |
    | `conditional_log_likelihood` | `x` (image): :math:`\log p(x \mid z)`, which conditions on the image's own latent |
    | `log_prior` | `z` (image): :math:`\log p(z)` |
    | `importance` | `log_p_x` (image): :math:`\log \frac1S \sum_s p(x, z_s) / q(z_s \mid x)`, and its Pareto `k` |
    | `posterior_predictive` | `x` (image, row, column): data drawn from the likelihood at each z, at most 256 MiB |
    | `observed_data` | `x` (image, row, column), as the likelihood takes them |

    Images of several channels have the dimension `channel` too, and points the dimensions `point` and `feature`.
    Leaving an image out would leave its latent to its prior, so that LOO by the conditional log-likelihood has no
    meaning: there is no group `log_likelihood`, and `importance` has the marginal density of each image. It is a lower
    bound in expectation, of the draws of this tree; for more of them call `log_likelihood`. Where `k` exceeds 0.7 it is
    not reliable.

    Args:
        vae: The model.
        guide: Its guide.
        data: An `n x shape` tensor.
        draws: Draws of each image, S.
        posterior_predictive: Whether to draw data.
        transform: Applied to every batch of data first, such as `ToFloat()`, or a binarisation.
        images: Coordinates of the images; by default their numbers.
        seed: Seed of the draws.

    Raises:
        ValueError: If the guide or the data are missing, the data lie outside the likelihood's support, or draws is
            below 1.

    Example:
        >>> import torch
        >>> from latentmix.guides import AmortizedGuide, MLPEncoder
        >>> from latentmix.inference import to_datatree
        >>> from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal
        >>> decoder = MLPDecoder(latent_dim=2, hidden=(16,), shape=(1, 4, 4))
        >>> vae = VAE(decoder=decoder, prior=StandardNormal(2), likelihood=Bernoulli())
        >>> guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(16,), shape=(1, 4, 4)))
        >>> tree = to_datatree(vae, guide=guide, data=torch.zeros(3, 1, 4, 4), draws=10)
        >>> dict(tree.posterior["z"].sizes)
        {'chain': 1, 'draw': 10, 'image': 3, 'latent': 2}
    """
    if guide is None or data is None:
        missing = "guide" if guide is None else "data"
        raise ValueError(f"Expected the guide and the data of the VAE; got no {missing}: pass guide= and data=.")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ValueError(f"Expected draws >= 1; got {draws!r}.")
    (x,) = as_batch(data)
    if tuple(x.shape[1:]) != tuple(vae.shape):
        raise ValueError(f"Expected data of shape n x {' x '.join(map(str, vae.shape))}; got {tuple(x.shape)}.")
    predicted = min(draws, _MOST_PREDICTED // (4 * x.numel())) if posterior_predictive else 0
    parts = _evaluated(vae, guide, x, draws, predicted, transform, seed)
    shape = _shape(vae.shape)
    parts["x"] = parts["x"].reshape(len(x), *shape)
    log_p = parts["log_likelihood"] + parts["log_prior"]
    log_weights = log_p - parts["log_q"]
    estimate = np.logaddexp.reduce(log_weights, axis=0) - math.log(draws)
    groups: dict[str, dict[str, NDArray[Any]]] = {
        "posterior": {"z": parts["z"][None]},
        "sample_stats": {"log_p": log_p[None], "log_q": parts["log_q"][None]},
        "conditional_log_likelihood": {"x": parts["log_likelihood"][None]},
        "log_prior": {"z": parts["log_prior"][None]},
        "importance": {"log_p_x": estimate, "pareto_k": _pareto_k(log_weights)},
        "posterior_predictive": {"x": parts["predicted"].reshape(1, predicted, len(x), *shape)},
        "observed_data": {"x": parts["x"]},
    }
    if not predicted:
        del groups["posterior_predictive"]
    return _labelled(groups, vae, guide, images, draws, predicted, wanted=posterior_predictive)


def _labelled(
    groups: dict[str, dict[str, NDArray[Any]]],
    vae: VAE,
    guide: AmortizedGuide,
    images: ArrayLike | None,
    draws: int,
    predicted: int,
    *,
    wanted: bool,
) -> xr.DataTree:
    datum, *rest = _dims(vae.shape)
    count = groups["posterior"]["z"].shape[2]
    coords = {datum: np.arange(count) if images is None else np.asarray(images)}
    if coords[datum].shape != (count,):
        raise ValueError(
            f"Expected coordinates of {plural(count, 'image')}; got an array of shape {coords[datum].shape}."
        )
    whole = Labels({}, dims={"z": [datum, "latent"], "x": [datum, *rest]}, coords=coords)
    each = Labels(
        {}, dims={name: [datum] for name in ("x", "z", "log_p", "log_q", "log_p_x", "pareto_k")}, coords=coords
    )
    attrs = {"inference": "svi", "guide": type(guide.family).__name__, "prior": type(vae.prior).__name__}
    datasets = {}
    for group, values in groups.items():
        labels = whole if group in ("posterior", "posterior_predictive", "observed_data") else each
        sample_dims = () if group in ("observed_data", "importance") else ("chain", "draw")
        datasets[group] = labels.dataset(values, sample_dims=sample_dims, attrs=attrs)
    datasets["conditional_log_likelihood"]["x"].attrs["conditional_on"] = "z"
    datasets["importance"].attrs["draws"] = draws
    tree = xr.DataTree.from_dict(datasets)
    tree.attrs |= {**attrs, "log_likelihood_omitted": CONDITIONAL}
    if wanted and predicted < draws:
        tree.attrs["posterior_predictive_draws"] = f"the first {predicted} of {draws}, for they take 256 MiB at most"
    return tree


def _evaluated(
    vae: VAE,
    guide: AmortizedGuide,
    x: Tensor,
    draws: int,
    predicted: int,
    transform: Transform | None,
    seed: int,
) -> dict[str, NDArray[Any]]:
    """Latents, densities and drawn data, `draws x n` in front."""
    parts: dict[str, list[NDArray[Any]]] = {}
    with isolated(seed=seed, validation=False), evaluation_mode(vae, guide), torch.no_grad():
        prior = Densities([vae.prior()])
        for batch in seeded_batches(x, max(1, min(64, _CHUNK // draws)), transform, seed):
            vae.likelihood.check(batch)
            q = guide.posterior(batch)
            z = q.sample(torch.Size([draws]))
            values: dict[str, Tensor] = {
                "z": z,
                "log_q": q.log_prob(z).double(),
                "log_prior": prior(z)[0],
                "log_likelihood": torch.cat([log_density(vae, batch, part) for part in z.split(_CHUNK)]),
                "x": batch[None],
            }
            at = z[:predicted].split(max(1, _CHUNK // len(batch)))
            drawn = [vae.likelihood(vae.decoder(part)).sample().float() for part in at if len(part)]
            values["predicted"] = torch.cat(drawn) if drawn else batch.new_zeros(0, *batch.shape)
            for name, value in values.items():
                parts.setdefault(name, []).append(value.cpu().numpy())
    return {name: np.concatenate(arrays, axis=1) for name, arrays in parts.items()}


def _pareto_k(log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shape of the tail of each datum's importance weights, `(n,)`; NaN where there are too few draws to tell."""
    if len(log_weights) < _FEWEST:
        return np.full(log_weights.shape[1], np.nan)
    shapes = []
    for column in log_weights.T:
        try:
            with kept_warnings():
                warnings.simplefilter("ignore")  # the shape says what the warning does
                shapes.append(float(array_statistics().psislw(-column, axis=0)[1]))
        except ValueError:  # weights that are all the same
            shapes.append(-math.inf)
    return np.asarray(shapes)


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a datum without a channel that is the only one."""
    return tuple(shape[1:]) if len(shape) == 3 and shape[0] == 1 else tuple(shape)


def _dims(shape: Sequence[int]) -> list[str]:
    """Names of the dimensions of data of that shape."""
    match len(shape):
        case 3:
            return ["image", *([] if shape[0] == 1 else ["channel"]), "row", "column"]
        case 2:
            return ["image", "row", "column"]
        case 1:
            return ["point", "feature"]
        case _:
            return ["datum"]
