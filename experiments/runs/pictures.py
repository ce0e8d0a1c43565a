"""The pictures of a run: its data and results, drawn by `figures`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentmix.experiments import figures
from latentmix.experiments.data.base import Dataset, Split
from latentmix.experiments.data.pixels import ToFloat
from latentmix.experiments.figures.style import class_names
from latentmix.experiments.options.names import BUDGETS, FIT_NAMES, FITS, fit_name
from latentmix.experiments.runs.component_names import by_class, component_names
from latentmix.experiments.runs.estimates_table import accuracy_values
from latentmix.experiments.runs.latents import LatentSplit
from latentmix.experiments.runs.metrics import reconstruct
from latentmix.experiments.runs.mixtures import FittedMixture
from latentmix.experiments.runs.projections import Projections, project
from latentmix.experiments.runs.walks import attribute_vector, chosen_attributes, slerp, straight, walk
from latentmix.guides import AmortizedGuide
from latentmix.inference.isolation import isolated
from latentmix.models import VAE, MixtureParameters
from latentmix.models.pyro_modules import evaluation_mode

__all__ = ["draw_mixtures", "draw_vae", "map_projections", "shown_rows"]

MAPPED = 1000
SAMPLED = 2000  # test data whose samples of q are drawn against the prior, and that are reconstructed
FEWEST_SAMPLES = 4000  # of q, several per datum where the data are few
TRAVERSED = 12  # most latents of which a traversal is drawn; fewer of large images, but at least 4
MOST_VALUES = 600_000  # of all images of a traversal
COVERED = 0.99  # fraction of the samples of q between the ends of each axis of `decoded_grid`
CONFUSIONS = {
    "none": "Test images by {kind}: no label, components matched one to one",
    "few": "Test images by {kind}: components seeded by the first draw of a few labelled images",
    "all": "Test images by {kind}: components of the fit without labels, by their majority",
}
RELIABILITIES = {
    "none": "Test {thing}s by confidence: no label, components matched one to one",
    "few": "Test {thing}s by confidence: components seeded by the first draw of a few labelled {thing}s",
    "all": "Test {thing}s by confidence: components of the fit without labels, by their majority",
}
HEADINGS = {
    "none": "Test latents and the mixtures fitted without labels",
    "few": "Test latents and the mixtures seeded by a few labelled images",
}


def draw_vae(
    folder: Path,
    vae: VAE,
    guide: AmortizedGuide,
    dataset: Dataset,
    history: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
    *,
    projections: Projections | None,
    names: Sequence[str] | None = None,
    attribute: str | None = None,
    seed: int,
) -> Iterator[Path]:
    """Draw losses and, by the kind of data, images reconstructed, generated and interpolated, or points and samples.

    Args:
        folder: Folder of the pictures.
        vae: The model.
        guide: The guide.
        dataset: The data.
        history: One mapping per epoch.
        summary: The figures of the run.
        projections: Projections of latents of the test data, as `map_projections` gives them.
        names: Names of the classes; by default their numbers.
        attribute: The attribute that the experiment uses as labels, if any.
        seed: Seed of samples from the prior.

    Yields:
        The file of each picture, once it is written.
    """
    yield figures.save(figures.losses(history, thing=_thing(dataset.pictorial)), folder / "losses.png")
    test = summary["test"]
    if "kl_per_dimension" in test and vae.latent_dim > 1:
        usage = figures.latent_usage(test["kl_per_dimension"], test["active"])
        yield figures.save(usage, folder / "usage.png")
    samples = _posterior_samples(guide, dataset.test, seed=seed)
    if dataset.pictorial:
        yield from _draw_images(folder, vae, guide, dataset, test, seed=seed)
        yield from _draw_worst(folder, vae, guide, dataset.test)
        yield from _draw_traversals(folder, vae, samples, test)
        yield from _draw_interpolation(folder, vae, guide, dataset.test)
        yield from _draw_attributes(folder, vae, guide, dataset, attribute)
    elif dataset.truth is not None and dataset.shape == (3,):
        yield from _draw_points(folder, vae, dataset, dataset.truth, summary["coverage"], names, seed=seed)
    yield from _draw_prior(folder, vae, samples, test, seed=seed)
    if projections is not None:
        yield from _draw_map(folder, projections, dataset, attribute, names)


def _draw_images(
    folder: Path, vae: VAE, guide: AmortizedGuide, dataset: Dataset, measured: Mapping[str, Any], *, seed: int
) -> Iterator[Path]:
    split = dataset.test
    images = split.x[shown_rows(split)]
    yield figures.save(
        figures.reconstructions(
            ToFloat()(images), reconstruct(vae, guide, images), mse=measured["mse"], ssim=measured["ssim"]
        ),
        folder / "reconstructions.png",
    )
    yield figures.save(
        figures.generated(vae.generate(64 if dataset.shape[0] == 1 else 20, seed=seed)), folder / "generated.png"
    )
    if vae.latent_dim == 2:
        yield from _draw_plane(folder, vae, guide, split, seed=seed)


def _draw_plane(
    folder: Path, vae: VAE, guide: AmortizedGuide, split: Split, *, seed: int, steps: int = 20
) -> Iterator[Path]:
    """Decode a two-dimensional latent where the samples of q are, evenly on both axes."""
    samples = guide.draw(split.x, transform=ToFloat(), seed=seed).double()
    ends = torch.tensor([(1 - COVERED) / 2, (1 + COVERED) / 2], dtype=samples.dtype, device=samples.device)
    low, high = samples.quantile(ends, dim=0)
    first, second = (torch.linspace(float(a), float(b), steps) for a, b in zip(low, high, strict=True))
    up, across = torch.meshgrid(second, first, indexing="ij")
    images = vae.decode(torch.stack([across, up], -1).reshape(-1, 2).to(next(vae.parameters()).device))
    yield figures.save(figures.decoded_grid(images, first, second, covered=COVERED), folder / "decoded_grid.png")


def _posterior_samples(guide: AmortizedGuide, split: Split, *, seed: int) -> torch.Tensor:
    """Samples of q of the first data: `n x latent_dim`."""
    chosen = split.first(SAMPLED).x
    draws = -(-FEWEST_SAMPLES // len(chosen))
    return guide.draw(chosen, draws=draws, transform=ToFloat(), seed=seed).flatten(0, 1).cpu().double()


def _draw_worst(folder: Path, vae: VAE, guide: AmortizedGuide, split: Split, count: int = 4) -> Iterator[Path]:
    """Compare the reconstructions of the first images, a chunk at a time, and show those that were chosen."""
    images = split.first(SAMPLED).x
    if len(images) < 2:
        return
    errors = torch.cat(
        [(ToFloat()(part) - reconstruct(vae, guide, part)).square().flatten(1).mean(1) for part in images.split(256)]
    ).cpu()
    order = errors.argsort(descending=True, stable=True)
    middle = len(order) // 2
    rows = torch.cat([order[:count], order[max(count, middle - count // 2) :][:count]])
    shown = images[rows.to(images.device)]
    picture = figures.worst_reconstructions(
        ToFloat()(shown), reconstruct(vae, guide, shown), errors[rows], count=count, total=len(images)
    )
    yield figures.save(picture, folder / "worst.png")


def _draw_traversals(
    folder: Path, vae: VAE, samples: torch.Tensor, measured: Mapping[str, Any], steps: int = 7
) -> Iterator[Path]:
    """Decode the latents of greatest KL divergence, each over the samples of q, where the others are at their mean."""
    kl = measured.get("kl_per_dimension")
    order = np.argsort(-np.asarray(kl), kind="stable") if kl else np.arange(samples.shape[1])
    most = max(4, MOST_VALUES // (steps * math.prod(vae.shape)))
    chosen = [int(dimension) for dimension in order[: min(TRAVERSED, most)]]
    ends = torch.tensor([(1 - COVERED) / 2, (1 + COVERED) / 2], dtype=samples.dtype)
    low, high = samples.quantile(ends, dim=0)[:, chosen]
    values = torch.stack([torch.linspace(float(a), float(b), steps) for a, b in zip(low, high, strict=True)])
    latents = samples.mean(0).float().repeat(len(chosen), steps, 1)
    for row, dimension in enumerate(chosen):
        latents[row, :, dimension] = values[row]
    images = vae.decode(latents.flatten(0, 1).to(next(vae.parameters()).device))
    picture = figures.traversals(
        images.unflatten(0, (len(chosen), steps)),
        values,
        dimensions=chosen,
        kl=[kl[dimension] for dimension in chosen] if kl else None,
        total=samples.shape[1],
        caption="all others at their mean over samples of q(z | x)",
    )
    yield figures.save(picture, folder / "traversals.png")


def _draw_prior(
    folder: Path, vae: VAE, samples: torch.Tensor, measured: Mapping[str, Any], *, seed: int
) -> Iterator[Path]:
    with isolated(seed=seed + 1), evaluation_mode(vae), torch.no_grad():  # not that of the samples of q
        prior = vae.prior()
        drawn = prior.sample((len(samples),)).cpu().double()
        components = _prior_components(prior)
    picture = figures.prior_against_posterior(
        samples, drawn, components=components, kl=measured.get("kl_per_dimension")
    )
    yield figures.save(picture, folder / "prior.png")


def _prior_components(prior: Any) -> figures.Components | None:
    """The components of a prior that is a mixture."""
    if not isinstance(prior, torch.distributions.MixtureSameFamily):
        return None
    parts = prior.component_distribution
    covariances = getattr(parts, "covariance_matrix", None)
    return figures.Components(parts.mean, parts.variance.diag_embed() if covariances is None else covariances)


def _draw_interpolation(folder: Path, vae: VAE, guide: AmortizedGuide, split: Split, steps: int = 9) -> Iterator[Path]:
    pair = split.x[shown_rows(split)[:2]]
    if len(pair) < 2:
        return
    start, end = guide.encode(pair, transform=ToFloat())
    ways = (vae.decode(way(start, end, steps)) for way in (straight, slerp))
    yield figures.save(figures.interpolations(ToFloat()(pair), *ways), folder / "interpolation.png")


def _draw_attributes(
    folder: Path, vae: VAE, guide: AmortizedGuide, dataset: Dataset, attribute: str | None, images: int = 3
) -> Iterator[Path]:
    columns = chosen_attributes(dataset, attribute)
    if not columns:
        return
    steps = (-2.0, -1.0, 0.0, 1.0, 2.0)
    chosen = dataset.test.x[:images]
    start = guide.encode(chosen, transform=ToFloat())
    rows = {
        dataset.attributes[column]: walk(vae, start, attribute_vector(guide, dataset.train, column), steps)
        for column in columns
    }
    yield figures.save(figures.attribute_vectors(ToFloat()(chosen), rows, steps), folder / "attributes.png")


def _draw_points(
    folder: Path,
    vae: VAE,
    dataset: Dataset,
    truth: MixtureParameters,
    measured: Mapping[str, Any],
    names: Sequence[str] | None,
    *,
    seed: int,
) -> Iterator[Path]:
    names = list(map(str, dataset.classes)) if names is None else names
    real = dataset.restore(dataset.test.x).cpu().double()
    sampled = dataset.restore(vae.generate(len(real), mean=False, seed=seed)).cpu().double()
    of_real, of_sampled = (truth.log_joint(x).argmax(1) for x in (real, sampled))
    energy = measured["energy"]
    caption = f"Energy distance {energy['statistic']:.4f}, p = {energy['p_value']:.3f} by permutations"
    components = figures.Components(truth.means, truth.expanded_covariances())
    space = figures.points_in_space(real, sampled, of_real, of_sampled, names=names, caption=caption)
    yield figures.save(space, folder / "points_in_space.png")
    pairwise = figures.points_pairwise(real, sampled, of_real, of_sampled, components, names=names, caption=caption)
    yield figures.save(pairwise, folder / "points_pairwise.png")
    bars = figures.coverage(
        *(measured[name] for name in ("shares", "expected", "covered_components")),
        names=names,
        outside=measured["outside"],
    )
    yield figures.save(bars, folder / "coverage.png")


def map_projections(
    latents: LatentSplit, dataset: Dataset, *, attribute: str | None = None, seed: int
) -> Projections | None:
    """Projections of some test latents for the maps; `None` where there are too few, or nothing colours them.

    Args:
        latents: Latents of the test data.
        dataset: The data.
        attribute: The attribute that the experiment uses as labels, if any.
        seed: Seed of t-SNE.
    """
    split = dataset.test
    if latents.latents.shape[1] < 2 or len(split) < 4:
        return None
    if split.labels is None and not chosen_attributes(dataset, attribute):
        return None
    return project(latents.latents, limit=MAPPED, seed=seed)


def _draw_map(
    folder: Path,
    projections: Projections,
    dataset: Dataset,
    attribute: str | None,
    names: Sequence[str] | None,
) -> Iterator[Path]:
    split, columns = dataset.test, chosen_attributes(dataset, attribute)
    rows = torch.from_numpy(projections.rows)
    if columns and split.attributes is not None:
        values, name = split.attributes[:, columns[0]].cpu()[rows].numpy(), dataset.attributes[columns[0]]
        classes, names = None, None
    else:
        assert split.labels is not None
        values, classes = split.labels.cpu()[rows].numpy(), dataset.classes
        name = "class" if dataset.truth is None else "true component"
    picture = figures.latent_map(
        projections.points,
        values,
        name=name,
        classes=classes,
        names=names,
        axes=projections.plane.names,
        total=len(split),
    )
    yield figures.save(picture, folder / "map.png")


def _thing(pictorial: bool) -> str:
    return "image" if pictorial else "point"


def _kind(known: bool) -> str:
    """Word for a class, which is a component of the true mixture where that is known."""
    return "component" if known else "class"


def shown_rows(split: Split, count: int = 12) -> torch.Tensor:
    """Rows of the first images, the classes in turn."""
    if split.labels is None:
        return torch.arange(min(count, len(split)))
    labels = split.labels.cpu()
    by_class = [(labels == label).nonzero().flatten() for label in labels.unique()]
    turns = [rows[turn] for turn in range(count) for rows in by_class if turn < len(rows)]
    return torch.stack(turns[:count])


def draw_mixtures(
    folder: Path,
    latents: LatentSplit,
    mixtures: Mapping[str, Mapping[str, FittedMixture]],
    results: Mapping[str, Any],
    classes: Sequence[int],
    *,
    names: Sequence[str] | None = None,
    pictorial: bool = True,
    decode: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[Path]:
    """Draw latents under the components of EM and SVI, decoded components, confusions, reliability, and fits compared.

    Components of SVI are drawn in the order of those of EM that they are aligned with, so that a component has one name
    in every picture.

    Args:
        folder: Folder of the pictures.
        latents: Latents of the test images.
        mixtures: Fitted mixtures by inference and label budget.
        results: The figures of `fit_mixtures`, and `coverage` if the data are drawn from a known mixture.
        classes: The classes.
        names: Their names; by default their numbers.
        pictorial: Whether the data are images, and not points.
        decode: Mean images at latents, `VAE.decode`, for the means of the components; by default they are not drawn.

    Yields:
        The file of each picture, once it is written.
    """
    shown = class_names(classes, names)
    kind, thing = _kind("coverage" in results), _thing(pictorial)
    for budget in BUDGETS:
        yield from _draw_reliability(folder, results["mixtures"], budget, thing)
        fitted = {inference: mixtures[inference].get(budget) for inference in FITS}
        em, svi = fitted["em"], fitted["svi"]
        if em is None or svi is None:
            continue
        order = results["agreement"][budget]["order"] if budget != "all" else []
        drawn = by_class(em.component_classes, classes, len(order))
        if budget == "none" and decode is not None:
            places = {"EM": drawn, "SVI": [order[k] for k in drawn]}
            weights = {name: fit.mixture.parameters_.weights[places[name]] for name, fit in (("EM", em), ("SVI", svi))}
            aligned = _aligned(em, svi, drawn, order, shown)
            yield from _draw_components(folder, aligned, weights, decode, kind if classes else "number")
        if budget != "all" and latents.latents.shape[1] > 1:
            scatter = figures.latent_scatter(
                latents.latents,
                latents.labels,
                _aligned(em, svi, drawn, order, shown),
                classes,
                names=names,
                kind=f"true {kind}",
                heading=HEADINGS[budget].replace("image", thing),
                caption=f"covariance type: {em.mixture.covariance_type}",
            )
            yield figures.save(scatter, folder / f"latents_{budget}.png")
        if classes:
            matrices = {
                name: np.asarray(results["mixtures"][inference][budget]["confusion"])
                for inference, name in FITS.items()
            }
            heading = CONFUSIONS[budget].format(kind=kind).replace("image", thing)
            confusion = figures.confusion_matrices(matrices, classes, names=names, kind=kind, heading=heading)
            yield figures.save(confusion, folder / f"confusion_{budget}.png")

    agreement = results["agreement"]["none"]
    em, svi = mixtures["em"]["none"], mixtures["svi"]["none"]
    named = component_names(em.component_classes, shown, len(agreement["order"]))
    drawn = by_class(em.component_classes, classes, len(named))
    picture = figures.em_against_svi(
        {name: results["mixtures"][name]["none"]["curve"] for name in FITS},
        results["mixtures"],
        {
            "em": em.mixture.parameters_.weights[drawn],
            "svi": svi.mixture.parameters_.weights[agreement["order"]][drawn],
        },
        np.asarray(agreement["means_per_component"])[drawn],
        assigned_alike=agreement["assigned_alike"],
        names=[named[k] for k in drawn],
        spread=float(np.sqrt(latents.latents.var(axis=0).mean())),
        thing=thing,
    )
    yield figures.save(picture, folder / "em_against_svi.png")
    yield from _draw_forest(folder, results, em.mixture.covariance_type)


def _draw_forest(folder: Path, results: Mapping[str, Any], covariance_type: object) -> Iterator[Path]:
    estimates = results.get("estimates") or {}
    fits = {fit_name(fit): estimates["fits"][fit] for fit in FIT_NAMES if fit in estimates.get("fits", {})}
    if not any("low" in values for values in fits.values()):
        return
    picture = figures.posterior_forest(
        estimates["quantities"],
        fits,
        estimates["components"],
        accuracies={f"labels: {budget}": values for budget, values in accuracy_values(results).items()},
        caption=f"covariance type: {covariance_type}",
    )
    yield figures.save(picture, folder / "posterior_forest.png")


def _draw_reliability(folder: Path, figures_of_fits: Mapping[str, Any], budget: str, thing: str) -> Iterator[Path]:
    fits = {
        fit_name(inference): budgets[budget]["calibration"]
        for inference, budgets in figures_of_fits.items()
        if "calibration" in budgets.get(budget, {})
    }
    if fits:
        picture = figures.reliability(fits, heading=RELIABILITIES[budget].format(thing=thing), thing=thing)
        yield figures.save(picture, folder / f"reliability_{budget}.png")


def _draw_components(
    folder: Path,
    fits: Mapping[str, figures.Components],
    weights: Mapping[str, torch.Tensor],
    decode: Callable[[torch.Tensor], torch.Tensor],
    kind: str,
) -> Iterator[Path]:
    images = {name: decode(torch.as_tensor(components.means).float()) for name, components in fits.items()}
    names = {name: components.names or () for name, components in fits.items()}
    picture = figures.decoded_components(images, weights, names=names, kind=kind)
    yield figures.save(picture, folder / "components_none.png")


def _aligned(
    em: FittedMixture, svi: FittedMixture, drawn: Sequence[int], order: Sequence[int], shown: Mapping[int, str]
) -> dict[str, figures.Components]:
    """The components of both fits, those of SVI in the order of the ones that they are aligned with."""
    return {
        "EM": _components(em, drawn, em, drawn, shown),
        "SVI": _components(svi, [order[k] for k in drawn], em, drawn, shown),
    }


def _components(
    fit: FittedMixture, places: Sequence[int], like: FittedMixture, aligned: Sequence[int], shown: Mapping[int, str]
) -> figures.Components:
    """The components of a fit at these places.

    Each is named as the component of another fit that it is aligned with, unless it stands for another class.
    """
    with isolated():
        parameters = fit.mixture.parameters_
        means, covariances = parameters.means[places], parameters.expanded_covariances()[places]
    named = component_names(like.component_classes, shown, len(places))
    names = [named[k] for k in aligned]
    classes = [fit.component_classes[k] for k in places] if fit.component_classes else []
    for k, label in enumerate(classes):
        names[k] = names[k] if label == like.component_classes[aligned[k]] else shown[label]
    return figures.Components(means, covariances, classes, names)
