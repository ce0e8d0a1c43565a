"""The covariance types of Gaussian mixtures, by name."""

from __future__ import annotations

from typing import Literal

from latentmix.models.mixture.matrices import LEAST_COLLINEARITY, Full, Matrices, Tied
from latentmix.models.mixture.structure import LOG_TWO_PI, CovarianceStructure
from latentmix.models.mixture.variances import Diagonal, Spherical, TiedDiagonal, Variances

__all__ = [
    "LEAST_COLLINEARITY",
    "LOG_TWO_PI",
    "CovarianceStructure",
    "CovarianceType",
    "Matrices",
    "Variances",
    "covariance_structure",
    "covariance_types",
    "register_structure",
]

CovarianceType = Literal["full", "diag", "tied", "spherical", "tied_diag"]
"""Names of the structures shipped here; those that are registered later are names as well."""

_STRUCTURES: dict[str, CovarianceStructure] = {}


def register_structure(structure: CovarianceStructure) -> None:
    """Make a covariance type known by its name, wherever a `covariance_type` is taken.

    Args:
        structure: An instance, such as one of a subclass of `Matrices` or `Variances`.

    Raises:
        ValueError: If it is no instance, or has no name, or another structure has its name.

    Example:
        >>> from latentmix.models.mixture.covariances import Variances, covariance_structure, register_structure
        >>> class TiedSpherical(Variances):
        ...     name, shared, isotropic = "tied_spherical", True, True
        >>> covariance_structure(TiedSpherical()).covariance_shape(3, 2)
        ()
    """
    if not isinstance(structure, CovarianceStructure):
        raise ValueError(f"Expected an instance of CovarianceStructure; got {structure!r}.")
    if not isinstance(getattr(structure, "name", None), str):
        raise ValueError(f"Expected a covariance structure with a name; got {structure!r}.")
    if _STRUCTURES.setdefault(structure.name, structure) != structure:
        raise ValueError(f"Expected a new name for a covariance structure; got {structure.name!r}, which is taken.")


def covariance_types() -> tuple[str, ...]:
    """Names of all registered structures, in the order of registration.

    Example:
        >>> from latentmix.models.mixture.covariances import covariance_types
        >>> "tied_diag" in covariance_types()
        True
    """
    return tuple(_STRUCTURES)


def covariance_structure(covariance_type: str | CovarianceStructure) -> CovarianceStructure:
    """The structure of a name; a structure is returned as it is.

    Raises:
        ValueError: If no structure is registered by that name.

    Example:
        >>> from latentmix.models.mixture.covariances import covariance_structure
        >>> covariance_structure("tied").covariance_shape(3, 2)
        (2, 2)
    """
    if isinstance(covariance_type, CovarianceStructure):
        return covariance_type
    if covariance_type not in _STRUCTURES:
        raise ValueError(f"Expected covariance_type in {sorted(_STRUCTURES)}; got {covariance_type!r}.")
    return _STRUCTURES[covariance_type]


for _structure in (Full(), Diagonal(), Tied(), Spherical(), TiedDiagonal()):
    register_structure(_structure)
