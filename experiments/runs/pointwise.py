"""Figures of each test datum of a run: `pointwise.npz`, written when the run is measured, for paired comparison."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentmix.experiments.data.base import Split
from latentmix.experiments.reading.arrays import read_arrays
from latentmix.experiments.runs.latents import LatentSplit
from latentmix.experiments.runs.measures import Measured, prior_assignments
from latentmix.models import VAE, MixturePrior
from latentmix.models.display import Displayed
from latentmix.models.files import inside
from latentmix.models.reading import REMEDY
from latentmix.models.words import plural

if TYPE_CHECKING:
    from latentmix.experiments.runs.mixtures import FittedMixture

__all__ = ["POINTWISE", "Pointwise", "pointwise_of", "read_pointwise", "split_digest"]

POINTWISE = "pointwise.npz"

_FORMAT = 1  # raised when earlier versions can no longer read a file
_MAX_GIB = 1.0
_PREDICTED = "predicted."
_FLOATS = ("squared_error", "elbo", "iw_log_likelihood")
_ROWS = 4096


@dataclass(frozen=True, repr=False)
class Pointwise(Displayed):
    """Figures of each of a run's `N` test data, of which `summary.json` holds the means.

    Args:
        test_data: Digest of the test data as they are measured, see `split_digest`.
        squared_error: `N` mean squared errors per value of a datum.
        elbo: `N` ELBOs, in nats; `None` where the objective does not tell them.
        iw_log_likelihood: `M <= N` importance-weighted log-likelihoods of the first data, in nats; `None` if they were
            not measured.
        labels: `N` int64 labels; `None` without labels.
        predicted: `N` int64 predicted labels by fit and label budget, as `(em, few)`; `(prior, "")` for the components
            of a mixture prior. With few labels they are those of the first draw of labels, which the run keeps.
    """

    test_data: str
    squared_error: NDArray[np.float64]
    elbo: NDArray[np.float64] | None = None
    iw_log_likelihood: NDArray[np.float64] | None = None
    labels: NDArray[np.int64] | None = None
    predicted: Mapping[tuple[str, str], NDArray[np.int64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.squared_error)

    def to_bytes(self) -> bytes:
        """The content of `pointwise.npz`, the same of the same values; no array needs pickle."""
        arrays: dict[str, NDArray[Any]] = {
            "format": np.array(_FORMAT),
            "test_data": np.array(self.test_data),
            "squared_error": self.squared_error,
        }
        for name in ("elbo", "iw_log_likelihood", "labels"):
            if (values := getattr(self, name)) is not None:
                arrays[name] = values
        for (fit, budget), predicted in self.predicted.items():
            arrays[f"{_PREDICTED}{fit}.{budget}"] = predicted
        file = io.BytesIO()
        np.savez_compressed(file, allow_pickle=False, **arrays)
        return file.getvalue()


def split_digest(split: Split, seen: Tensor) -> str:
    """SHA-256 of the data and labels of a split, and of what is measured of them where that is another tensor.

    Args:
        split: The data.
        seen: The data as model and guide see them before the transform of a batch: `split.x`, or one binary draw of it.
    """
    digest = hashlib.sha256()
    for part in (split.x, *([] if split.labels is None else [split.labels]), *([] if seen is split.x else [seen])):
        digest.update(f"{tuple(part.shape)} {part.dtype};".encode())
        for rows in part.split(_ROWS):
            digest.update(np.ascontiguousarray(rows.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def pointwise_of(
    vae: VAE,
    mixtures: Mapping[str, Mapping[str, FittedMixture]],
    split: Split,
    seen: Tensor,
    measured: Measured,
    latents: LatentSplit,
    prior_classes: tuple[int, ...] = (),
) -> Pointwise:
    """Figures of single data, from what a run measures on its test data.

    Args:
        vae: The model.
        mixtures: Fitted mixtures by inference and label budget.
        split: The test data.
        seen: The data as model and guide see them before the transform of a batch.
        measured: The figures of `measure_vae`.
        latents: The latents of the split.
        prior_classes: The class of each component of a mixture prior, if it has any.
    """
    predicted: dict[tuple[str, str], NDArray[np.int64]] = {}
    if latents.labels is not None:
        for inference, budgets in mixtures.items():
            for budget, fitted in budgets.items():
                if fitted.classes:
                    predicted[inference, budget] = fitted.predict(latents.latents)
        if isinstance(vae.prior, MixturePrior) and prior_classes:
            predicted["prior", ""] = np.asarray(prior_classes)[prior_assignments(vae.prior, latents.latents)]
    return Pointwise(
        split_digest(split, seen),
        measured.squared_errors,
        measured.elbo,
        measured.iw_log_likelihood,
        latents.labels,
        predicted,
    )


def read_pointwise(folder: Path) -> Pointwise | None:
    """The figures of single test data of a run; `None` if its folder has none, as of an earlier version.

    Args:
        folder: The folder of the run.

    Raises:
        ValueError: If the file cannot be read or is damaged, is of a newer version, has an array of more than 1 GiB,
            or values are missing or not one for each datum.

    Example:
        >>> from pathlib import Path
        >>> from latentmix.experiments.runs.pointwise import read_pointwise
        >>> read_pointwise(Path("runs/digits")).elbo.mean()  # doctest: +SKIP
    """
    file = inside(folder, POINTWISE)
    if not file.exists():
        return None
    _, names = read_arrays(file, ())
    arrays, _ = read_arrays(file, names, max_gib=_MAX_GIB, option="")
    version = arrays.get("format", np.array(0))
    if version.shape == () and version.dtype.kind in "iu" and version > _FORMAT:
        raise ValueError(
            f"Expected figures of test data of format {_FORMAT} in {file}; got {int(version)}, of a newer LatentMix: "
            "update it (pip install -U latentmix)."
        )
    wrong = _first_wrong(arrays)
    if wrong:
        raise ValueError(f"Expected figures of each test datum in {file}; got {wrong}: {REMEDY}.")
    predicted = {}
    for name in (name for name in names if name.startswith(_PREDICTED)):
        fit, _, budget = name.removeprefix(_PREDICTED).partition(".")
        predicted[fit, budget] = arrays[name].astype(np.int64)
    floats = {name: arrays[name] for name in ("elbo", "iw_log_likelihood") if name in arrays}
    labels = arrays["labels"].astype(np.int64) if "labels" in arrays else None
    return Pointwise(str(arrays["test_data"]), arrays["squared_error"], labels=labels, predicted=predicted, **floats)


def _first_wrong(arrays: Mapping[str, NDArray[Any]]) -> str:
    """In words, the first array that is missing or is not as described; empty if there is none."""
    if missing := [name for name in ("test_data", "squared_error") if name not in arrays]:
        return f"no {missing[0]!r}"
    if arrays["test_data"].shape != () or arrays["test_data"].dtype.kind != "U":
        return "another kind of 'test_data'"
    count = len(arrays["squared_error"]) if arrays["squared_error"].ndim == 1 else 0
    for name, values in arrays.items():
        if name in ("format", "test_data"):
            continue
        kinds, kind = ("f", "floats") if name in _FLOATS else ("iu", "integers")
        if values.dtype.kind not in kinds or values.ndim != 1:
            return f"other than {kind} as {name!r}"
        least = 1 if name == "iw_log_likelihood" else max(1, count)
        if not least <= len(values) <= count:
            return f"{plural(len(values), 'value')} of {plural(count, 'datum', 'data')} as {name!r}"
    return ""
