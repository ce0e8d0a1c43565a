"""Class probabilities of data, averaged over draws of q(z given x) and of the mixture's posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal

from latentmix.experiments.data.base import Split
from latentmix.experiments.data.pixels import ToFloat
from latentmix.experiments.reading.limits import MAX_DRAWS, MAX_GIB
from latentmix.experiments.runs.metrics import calibration
from latentmix.experiments.runs.mixtures import FittedMixture
from latentmix.guides import AmortizedGuide
from latentmix.inference import GaussianMixture
from latentmix.inference.mixtures.draws import MixturePosterior
from latentmix.inference.mixtures.points.arrays import as_tensor
from latentmix.models import MixtureParameters
from latentmix.models.pyro_modules import evaluation_mode
from latentmix.models.words import plural

if TYPE_CHECKING:
    from xarray import DataArray

__all__ = [
    "DRAWS",
    "Average",
    "Chunk",
    "check_averaging",
    "check_data",
    "class_probabilities",
    "is_normal",
    "measure_probabilities",
    "probability_draws",
    "responsibilities_by_chunk",
]

Average = Literal["draws", "noise"]

DRAWS = 100
_CHUNK = 1 << 21  # floats of the draws of one chunk of data


class Chunk[K](NamedTuple):
    """Some of the data.

    Attributes:
        x: An `n x shape` tensor.
        samples: A `draws x n x latent_dim` tensor of draws of q; `None` if none were drawn.
        responsibilities: By mixture, an `n x K` array.
    """

    x: Tensor
    samples: Tensor | None
    responsibilities: dict[K, NDArray[np.float64]]


def class_probabilities(
    guide: AmortizedGuide,
    fitted: FittedMixture,
    x: Tensor,
    *,
    average: Average | None = "draws",
    draws: int = DRAWS,
    seed: int = 0,
) -> NDArray[np.float64]:
    r"""Probabilities of the classes of data, or without classes of the components.

    With "draws" they are means over :math:`z_s \sim q(z \mid x)` and, where the fit keeps draws of the mixture's
    posterior, over these, one for each :math:`z_s`: :math:`\frac1S \sum_s p(c \mid z_s, \theta_s)`. With "noise" they
    are the responsibilities at the mean of q under the fitted mixture convolved with the covariance of q. With `None`
    they are those of the fitted mixture at the mean of q (plug-in), as `FittedMixture.classify` gives them.

    A mixture that was fitted to means of q is narrow in dimensions that q leaves unused, where its draws are not: there
    "draws" can cost accuracy, and "noise" does not.

    Args:
        guide: The guide.
        fitted: The mixture and the classes of its components.
        x: An `n x shape` tensor of bytes or floats in [0, 1], or of points as the guide takes them.
        average: Over what they are averaged.
        draws: Number S of draws of each datum, which "draws" takes; the standard error is at most
            :math:`1 / (2 \sqrt S)`.
        seed: Seed of the draws: the same data in the same order have the same draws.

    Returns:
        An `n x n_classes` array.

    Raises:
        ValueError: If an option is not as described, or "noise" is asked of a guide that is not normal.
    """
    return _all_probabilities(guide, {"": fitted}, x, average=average, draws=draws, seed=seed)[""]


def probability_draws(
    guide: AmortizedGuide, fitted: FittedMixture, x: Tensor, *, draws: int = DRAWS, seed: int = 0
) -> DataArray:
    r"""Class probabilities of data at each draw, :math:`p(c \mid z_s, \theta_s)`; `class_probabilities` averages them.

    Args:
        guide: The guide.
        fitted: The mixture and the classes of its components.
        x: An `n x shape` tensor as `class_probabilities` takes it.
        draws: Number S of draws of each datum.
        seed: Seed of the draws.

    Returns:
        An array of dimensions `draw`, `image` (of points `point`) and `class` with the classes' names; without classes
        `component`.

    Raises:
        ValueError: If an option is not as described, or the array would take more than 2 GiB.
    """
    from xarray import DataArray

    check_averaging(guide, "draws", draws, seed)
    names = list(fitted.class_names) if fitted.classes else list(range(fitted.mixture.n_components))
    size = 8 * draws * len(x) * len(names)
    if size > MAX_GIB * 2**30:
        raise ValueError(
            f"Expected probabilities of at most {MAX_GIB:g} GiB; got {plural(draws, 'draw')} of {len(x)} data, of "
            f"{size / 2**30:.3g} GiB: take fewer draws, or a part of the data."
        )
    posterior: MixturePosterior | None = getattr(fitted.mixture, "posterior_", None)
    paired = None if posterior is None else _paired(posterior, draws)
    no_fits: dict[str, FittedMixture] = {}
    parts = []
    for chunk in responsibilities_by_chunk(guide, no_fits, x, average="draws", draws=draws, seed=seed):
        assert chunk.samples is not None
        z = _double(chunk.samples)
        if paired is None:
            each = fitted.mixture.predict_proba(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:2], -1)
        else:
            points = map(torch.from_numpy, z)
            each = np.stack([theta.responsibilities(part).numpy() for theta, part in zip(paired, points, strict=True)])
        parts.append(fitted.by_class(each))
    return DataArray(
        np.concatenate(parts, axis=1),
        dims=("draw", "image" if x.dim() == 4 else "point", "class" if fitted.classes else "component"),
        coords={"draw": np.arange(draws), "class" if fitted.classes else "component": names},
        name="class_probabilities" if fitted.classes else "responsibilities",
    )


def measure_probabilities(
    guide: AmortizedGuide,
    mixtures: Mapping[str, Mapping[str, FittedMixture]],
    split: Split,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Accuracy and calibration of the class probabilities of labelled data, plug-in and averaged.

    Args:
        guide: The guide.
        mixtures: Fitted mixtures by inference and label budget.
        split: The data, as they are, not a binary draw of them.
        draws: As `class_probabilities` takes it.
        seed: Seed of the draws.

    Returns:
        By inference and budget: `n_draws`, and the figures of `calibration` as `plug_in`, as `draws` and, if q is
        normal, as `noise`; nothing of mixtures without classes.
    """
    fits = {
        (inference, budget): fitted
        for inference, budgets in mixtures.items()
        for budget, fitted in budgets.items()
        if fitted.classes
    }
    if split.labels is None or not fits:
        return {}
    labels = split.labels.cpu().numpy()
    ways: dict[str, Average | None] = {"plug_in": None, "draws": "draws"}
    if is_normal(guide):
        ways["noise"] = "noise"
    figures: dict[str, dict[str, dict[str, Any]]] = {}
    for way, average in ways.items():
        probabilities = _all_probabilities(guide, fits, split.x, average=average, draws=draws, seed=seed)
        for (inference, budget), fitted in fits.items():
            measured = figures.setdefault(inference, {}).setdefault(budget, {"n_draws": draws})
            measured[way] = calibration(labels, probabilities[inference, budget], fitted.classes)
    return figures


def _all_probabilities[K](
    guide: AmortizedGuide,
    fits: Mapping[K, FittedMixture],
    x: Tensor,
    *,
    average: Average | None,
    draws: int,
    seed: int,
) -> dict[K, NDArray[np.float64]]:
    """Class probabilities under several mixtures, from the same draws."""
    parts: dict[K, list[NDArray[np.float64]]] = {key: [] for key in fits}
    for chunk in responsibilities_by_chunk(guide, fits, x, average=average, draws=draws, seed=seed):
        for name, fitted in fits.items():
            parts[name].append(fitted.by_class(chunk.responsibilities[name]))
    return {key: np.concatenate(chunks) for key, chunks in parts.items()}


def responsibilities_by_chunk[K](
    guide: AmortizedGuide,
    fits: Mapping[K, FittedMixture],
    x: Tensor,
    *,
    average: Average | None,
    draws: int,
    seed: int,
    kept: bool = False,
) -> Iterator[Chunk[K]]:
    """Responsibilities under several mixtures, from the same draws, a chunk of the data at a time.

    Args:
        guide: The guide.
        fits: The mixtures, by any names.
        x: As `class_probabilities` takes it; chunks alone become floats.
        average: Over what they are averaged.
        draws: Draws of each datum, which "draws" takes.
        seed: Seed of the draws.
        kept: Whether the draws are wanted themselves, whatever `average` is.

    Raises:
        ValueError: As `class_probabilities` does.
    """
    check_averaging(guide, average, draws, seed)
    drawn = kept or average == "draws"
    rows = min(1024, max(1, _CHUNK // (guide.latent_dim * (draws if drawn else guide.latent_dim))))
    mixtures = {id(fitted.mixture): fitted.mixture for fitted in fits.values()}  # label budgets may share one
    evaluations = {key: _evaluation(mixture, average, draws) for key, mixture in mixtures.items()}
    for index, part in enumerate(x.split(rows)):
        number = int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)[0])
        samples = guide.draw(part, draws=draws, transform=ToFloat(), seed=number) if drawn else None
        latents = _latents(guide, part, average, samples)
        responsibilities = {key: evaluate(*latents) for key, evaluate in evaluations.items()}
        yield Chunk(part, samples, {name: responsibilities[id(fitted.mixture)] for name, fitted in fits.items()})


def check_averaging(guide: AmortizedGuide, average: object, draws: object, seed: object) -> None:
    """Refuse options of `class_probabilities` that are not as described, and "noise" for a q that is not normal.

    Raises:
        ValueError: If so.
    """
    if average is not None and average not in get_args(Average):
        raise ValueError(f"Expected average to be 'draws', 'noise' or None; got {average!r:.60}.")
    if isinstance(draws, bool) or not isinstance(draws, int) or not 1 <= draws <= MAX_DRAWS:
        raise ValueError(f"Expected draws from 1 to {MAX_DRAWS:,}; got {draws!r:.60}.")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"Expected a seed of at least 0; got {seed!r:.60}.")
    if average == "noise" and not is_normal(guide):
        raise ValueError(
            "Expected a normal q, as of DiagonalNormal or FullNormal, to convolve the mixture with; got "
            f"{type(guide.family).__name__}: average over draws instead."
        )


def check_data(x: object, shape: Sequence[int]) -> Tensor:
    """Data for a guide as a tensor, bytes as they are.

    Args:
        x: A tensor or an array of bytes, or of floats; floats of images in [0, 1].
        shape: The shape of one datum.

    Raises:
        ValueError: If they have another shape or dtype, a value is not finite, or one of an image is not in [0, 1].
    """
    thing, wanted = "images" if len(shape) == 3 else "points", " x ".join(map(str, shape))
    if not isinstance(x, Tensor | np.ndarray) or tuple(x.shape[1:]) != tuple(shape) or not len(x):
        got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor | np.ndarray) else type(x).__name__
        raise ValueError(f"Expected {thing} as a tensor or an array of shape N x {wanted}; got {got}.")
    data = as_tensor(x)
    ToFloat()(data[:1])
    if not data.is_floating_point():
        return data
    if not bool(data.isfinite().all()):
        raise ValueError(f"Expected finite {thing}; got NaN or infinity.")
    if len(shape) == 3 and not (float(data.amin()) >= 0 and float(data.amax()) <= 1):
        raise ValueError(
            f"Expected images of bytes, or of floats in [0, 1]; got floats from {float(data.amin()):.4g} to "
            f"{float(data.amax()):.4g}: divide them by 255 if they are bytes."
        )
    return data


def _latents(
    guide: AmortizedGuide, x: Tensor, average: Average | None, samples: Tensor | None
) -> tuple[NDArray[np.float64], ...]:
    """Draws of q, or its mean and covariance, or its mean, of a chunk of data."""
    if average == "draws":
        assert samples is not None
        return (_double(samples),)
    if average == "noise":
        mean, covariance = guide.moments(x, transform=ToFloat())
        return _double(mean), _double(covariance)
    return (_double(guide.encode(x, transform=ToFloat())),)


def _evaluation(mixture: GaussianMixture, average: Average | None, draws: int) -> Callable[..., NDArray[np.float64]]:
    """A function of `_latents` that gives `n x K` responsibilities under a mixture."""
    if average is None:
        return mixture.predict_proba
    if average == "noise":
        return lambda mean, covariance: mixture.predict_proba(mean, noise_covariance=covariance)
    posterior: MixturePosterior | None = getattr(mixture, "posterior_", None)
    if posterior is None:
        return partial(_mean_responsibilities, mixture.predict_proba)
    return partial(_mean_over_posterior, _paired(posterior, draws))


def _mean_responsibilities(
    predict: Callable[[NDArray[np.float64]], NDArray[np.float64]], z: NDArray[np.float64]
) -> NDArray[np.float64]:
    draws, n, latent_dim = z.shape
    mean: NDArray[np.float64] = predict(z.reshape(-1, latent_dim)).reshape(draws, n, -1).mean(0)
    return mean


def _mean_over_posterior(mixtures: Sequence[MixtureParameters], z: NDArray[np.float64]) -> NDArray[np.float64]:
    total = sum(mixture.responsibilities(torch.from_numpy(part)) for mixture, part in zip(mixtures, z, strict=True))
    return np.asarray(total) / len(z)


def _paired(posterior: MixturePosterior, draws: int) -> list[MixtureParameters]:
    """A mixture for each draw of q: evenly spaced draws of the posterior, which recur where it has fewer."""
    total = posterior.n_chains * posterior.n_draws
    chosen = [index * total // draws for index in range(draws)]
    made = {index: posterior.draw(*divmod(index, posterior.n_draws)) for index in dict.fromkeys(chosen)}
    return [made[index] for index in chosen]


def is_normal(guide: AmortizedGuide) -> bool:
    """Whether q(z given x) is a normal distribution."""
    parameter = next(guide.parameters(), torch.zeros(()))
    with torch.no_grad(), evaluation_mode(guide):
        q: TorchDistribution = guide.posterior(parameter.new_zeros(1, *guide.encoder.shape))
    return isinstance(q.base_dist if isinstance(q, Independent) else q, Normal | MultivariateNormal)


def _double(values: Tensor) -> NDArray[np.float64]:
    return values.detach().cpu().double().numpy()
