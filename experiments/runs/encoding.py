"""Latents of data: moments and draws of q(z given x), and what a fitted mixture makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from latentmix.experiments.data.pixels import ToFloat
from latentmix.experiments.reading.limits import MAX_GIB, refuse_larger
from latentmix.experiments.runs.class_probabilities import (
    DRAWS,
    Average,
    check_averaging,
    is_normal,
    responsibilities_by_chunk,
)
from latentmix.experiments.runs.component_names import component_names
from latentmix.experiments.runs.mixtures import FittedMixture
from latentmix.experiments.runs.run_data import Inputs
from latentmix.guides import AmortizedGuide
from latentmix.models.display import Displayed
from latentmix.models.words import plural

if TYPE_CHECKING:
    import xarray

__all__ = ["Encoder", "Encoding"]


@dataclass(frozen=True, repr=False)
class Encoding(Displayed):
    r"""Moments of :math:`q(z \mid x)` of data, and responsibilities and class probabilities under a fitted mixture.

    Args:
        mean: Means of q, `n x latent_dim`.
        scale: Standard deviations of q, `n x latent_dim`; `guide.moments` gives whole covariances.
        responsibilities: Probabilities of the components, `n x K`.
        probabilities: Probabilities of the classes, `n x n_classes`, as `Run.classify` gives them; without classes,
            those of the components.
        class_names: The name of each class; empty without classes.
        components: The name of each component, as in pictures: its class, or its number from 1.
        draws: Draws of q, `draws x n x latent_dim`; `None` if none were kept.
        names: The name of each datum: `images.npy:3` for row 3 of a file, or the name of a picture.
        files: The file, or split, of each datum; empty for data that are of none.
        index: The row of each datum in it; 0 of a picture.
        labels: The name of the class that each datum is labelled with; `None` where labels are not known.
        things: `image` or `point`.
        about: How it was computed; see `Encoder.about`.
    """

    mean: NDArray[np.floating]
    scale: NDArray[np.floating]
    responsibilities: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    class_names: tuple[str, ...]
    components: tuple[str, ...]
    draws: NDArray[np.floating] | None = None
    names: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    index: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    labels: tuple[str, ...] | None = None
    things: str = "point"
    about: dict[str, str | int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def predicted(self) -> NDArray[np.str_]:
        """The name of the most probable class of each datum; without classes, of the component."""
        return np.array(self.class_names or self.components)[self.probabilities.argmax(1)]

    def shown(self) -> dict[str, Any]:
        arrays = {"mean": self.mean, "scale": self.scale, "draws": self.draws}
        figures = {**arrays, "responsibilities": self.responsibilities, "probabilities": self.probabilities}
        return {name: value for name, value in {**figures, **self.about}.items() if value is not None}

    def to_dataset(self) -> xarray.Dataset:
        """An `xarray.Dataset` of dimensions `image` or `point`, `latent`, `component`, `class` and `draw`.

        Components and classes are selected by their names, as pictures show them: `responsibility.sel(component="4a")`.
        """
        import xarray

        datum = self.things
        variables: dict[str, Any] = {
            "mean": ((datum, "latent"), self.mean),
            "scale": ((datum, "latent"), self.scale),
            "responsibility": ((datum, "component"), self.responsibilities),
            "predicted": ((datum,), self.predicted),
        }
        coordinates: dict[str, Any] = {
            datum: np.arange(len(self)),
            "latent": np.arange(self.mean.shape[1]),
            "component": np.array(self.components),
        }
        if self.files:
            coordinates["file"], coordinates["index"] = ((datum,), np.array(self.files)), ((datum,), self.index)
        if self.class_names:
            variables["probability"] = (datum, "class"), self.probabilities
            coordinates["class"] = np.array(self.class_names)
        if self.labels is not None:
            coordinates["label"] = (datum,), np.array(self.labels, dtype=str)
        if self.draws is not None:
            variables["draws"] = ("draw", datum, "latent"), self.draws
            coordinates["draw"] = np.arange(len(self.draws))
        return xarray.Dataset(variables, coordinates, dict(self.about))


@dataclass(frozen=True)
class Encoder:
    """A guide and a mixture over its latents, with the options of encoding.

    Args:
        guide: The guide.
        fitted: The mixture and the classes of its components.
        inference: The fit of the mixture, in words.
        labels: Its label budget.
        average: What probabilities are averaged over, see `Run.classify`.
        draws: Draws of each datum that are kept, and that probabilities are means over; `None` keeps none, and takes
            100 for the means.
        seed: Seed of the draws.
        things: `image` or `point`.

    Raises:
        ValueError: If an option is not as `Run.classify` takes it.
    """

    guide: AmortizedGuide
    fitted: FittedMixture
    inference: str
    labels: str
    average: Average | None = "draws"
    draws: int | None = None
    seed: int = 0
    things: str = "image"

    def __post_init__(self) -> None:
        check_averaging(self.guide, self.average, DRAWS if self.draws is None else self.draws, self.seed)

    def encode(self, inputs: Inputs, *, max_gib: float = MAX_GIB, progress: bool = False) -> Encoding:
        """The latents of data, in memory.

        Args:
            inputs: The data.
            max_gib: Most memory of the result, in GiB.
            progress: Whether to show a progress bar where it takes long.

        Raises:
            ValueError: If the result would take more memory, or "noise" is asked of a guide that is not normal.
        """
        n, latents, classes = len(inputs), self.guide.latent_dim, len(self.fitted.class_names)
        size = n * (4 * latents * (2 + (self.draws or 0)) + 8 * (self.fitted.mixture.n_components + classes))
        what = "latents" if self.draws is None else f"latents with {plural(self.draws, 'draw')} of each"
        refuse_larger(size, max_gib, what, f"the result of {n:,} {self.things}s", "--max_gib")
        whole: dict[str, NDArray[Any]] = {}
        begin = 0
        for part in self.chunks(inputs, progress=progress):
            for name, axis in (("mean", 0), ("scale", 0), ("responsibilities", 0), ("probabilities", 0), ("draws", 1)):
                values = getattr(part, name)
                if values is None:
                    continue
                if name not in whole:
                    whole[name] = np.empty((*values.shape[:axis], n, *values.shape[axis + 1 :]), values.dtype)
                target = whole[name][begin:] if axis == 0 else whole[name][:, begin:]
                target[(slice(None),) * axis + (slice(len(part)),)] = values
            begin += len(part)
        return self._encoding(inputs, 0, n, **whole)

    def chunks(self, inputs: Inputs, *, progress: bool = False) -> Iterator[Encoding]:
        """The latents of data, some of them at a time; arguments and errors are those of `encode`."""
        draws, begin = DRAWS if self.draws is None else self.draws, 0
        chunks = responsibilities_by_chunk(
            self.guide,
            {"": self.fitted},
            inputs.x,
            average=self.average,
            draws=draws,
            seed=self.seed,
            kept=self.draws is not None,
        )
        with tqdm(
            total=len(inputs), desc="latents", unit=f" {self.things}s", disable=None if progress else True, delay=2
        ) as bar:
            for chunk in chunks:
                end = begin + len(chunk.x)
                mean, covariance = self.guide.moments(chunk.x, transform=ToFloat())
                variance = covariance if covariance.dim() == 2 else covariance.diagonal(dim1=-2, dim2=-1)
                yield self._encoding(
                    inputs,
                    begin,
                    end,
                    mean=_array(mean),
                    scale=_array(variance.clamp_min(0).sqrt()),
                    responsibilities=chunk.responsibilities[""],
                    probabilities=self.fitted.by_class(chunk.responsibilities[""]),
                    draws=None if self.draws is None or chunk.samples is None else _array(chunk.samples),
                )
                bar.update(end - begin)
                begin = end

    @property
    def about(self) -> dict[str, str | int]:
        """Options of the computation in plain values: `family`, `moments`, `inference`, `label_budget`, ...

        `moments` says whether mean and scale are exact, or averages over draws, of a q that is not normal.
        """
        averaged = {"average_draws": DRAWS if self.draws is None else self.draws} if self.average == "draws" else {}
        return {
            "family": type(self.guide.family).__name__,
            "moments": "exact" if is_normal(self.guide) else "averages over draws of q",
            "inference": self.inference,
            "label_budget": self.labels,
            "average": self.average or "none",
            **averaged,
            "seed": self.seed,
        }

    def _encoding(self, inputs: Inputs, begin: int, end: int, **arrays: Any) -> Encoding:
        fitted, called = self.fitted, dict(zip(self.fitted.classes, self.fitted.class_names, strict=True))
        return Encoding(
            class_names=fitted.class_names,
            components=tuple(component_names(fitted.component_classes, called, fitted.mixture.n_components)),
            names=inputs.names[begin:end],
            files=inputs.files[begin:end],
            index=inputs.index[begin:end].numpy(),
            labels=None if inputs.labels is None else inputs.labels[begin:end],
            things=self.things,
            about=self.about,
            **arrays,
        )


def _array(values: Tensor) -> NDArray[np.floating]:
    array: NDArray[np.floating] = values.detach().cpu().numpy()
    return array
