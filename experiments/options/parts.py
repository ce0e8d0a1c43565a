"""The parts of a VAE and its guide: their base classes, and their construction from plain values."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from latentmix.experiments.options.imports import check_import
from latentmix.experiments.options.literals import instantiated
from latentmix.experiments.options.sealed import SealedParser
from latentmix.guides import AmortizedGuide, Encoder, Family
from latentmix.models import VAE, Decoder, Likelihood, Prior, VampPrior

__all__ = ["LINKED", "PARTS", "build_parts", "import_object", "join", "subclasses"]

PARTS = {"encoder": Encoder, "decoder": Decoder, "prior": Prior, "likelihood": Likelihood, "family": Family}
LINKED = {"latent_dim", "shape", "outputs", "enumerated", "frozen"}


def build_parts(parts: Mapping[str, Any]) -> tuple[VAE, AmortizedGuide]:
    """Build the VAE and the guide from plain values, with initial weights from torch's random state.

    Args:
        parts: A class path and its arguments for each of encoder, decoder, prior, likelihood and family.

    Raises:
        ValueError: If the parts do not fit each other.
    """
    parser = SealedParser()
    for name, base in PARTS.items():
        parser.add_subclass_arguments(base, name, required=True)
    objects = instantiated(parser, parser.parse_object(dict(parts)), PARTS)
    vae = VAE(decoder=objects.decoder, prior=objects.prior, likelihood=objects.likelihood)
    if objects.encoder.latent_dim != vae.latent_dim or tuple(objects.encoder.shape) != vae.shape:
        raise ValueError(
            f"Expected an encoder of data {vae.shape} into latent_dim {vae.latent_dim}; got "
            f"{tuple(objects.encoder.shape)} into {objects.encoder.latent_dim}."
        )
    return join(vae, AmortizedGuide(encoder=objects.encoder, family=objects.family))


def join(vae: VAE, guide: AmortizedGuide) -> tuple[VAE, AmortizedGuide]:
    """A model and its guide, with a prior that is made of the guide bound to it."""
    if isinstance(vae.prior, VampPrior):
        vae.prior.bind(guide.posterior)
    return vae, guide


def import_object(path: str) -> Any:
    """The object of a dotted import path.

    Raises:
        ValueError: If there is no such module, or nothing of that name in it, or the check in force refuses it.
    """
    module, _, name = path.rpartition(".")
    if not module:
        raise ValueError(f"Expected to import {path}; got no {name!r} in no module.")
    if not all(part.isidentifier() for part in path.split(".")):
        raise ValueError(f"Expected to import {path}; got no import path.")
    check_import(path)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        top = missing.partition(".")[0]
        where = "" if top in sys.modules else f": run the command from the folder that holds {top}.py"
        raise ValueError(f"Expected to import {name} from {module}; got no module {missing}{where}.") from error
    except Exception as error:
        cause = " ".join(str(error).split()) or "no reason"
        raise ValueError(
            f"Expected to import {name} from {module}; got {type(error).__name__} in it, {cause}: correct the module."
        ) from error
    if not hasattr(found, name):
        raise ValueError(f"Expected to import {path}; got no {name!r} in {module}.")
    return getattr(found, name)


def subclasses(base: type) -> list[type]:
    """The classes derived from a base, at any depth."""
    children: list[type] = base.__subclasses__()
    return [kind for child in children for kind in (child, *subclasses(child))]
