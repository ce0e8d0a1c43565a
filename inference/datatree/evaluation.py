"""A Pyro model evaluated at draws of its latents: deterministic sites, log prior, log likelihood, log joint density."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.infer.inspect import get_dependencies
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to

from latentmix.inference.datatree.containment import full_plates
from latentmix.inference.datatree.pointwise import (
    Term,
    pointwise_log_prob,
    pointwise_terms,
    share_scale,
    term_log_prob,
)
from latentmix.inference.datatree.sites import is_discrete, is_variable, plate_indices, sites_of

__all__ = ["ModelAtDraws"]

_ELEMENTS = 2**22
"""Elements of values and log densities, with those of events, that are held at a time."""

Quantities = dict[str, dict[str, Tensor]]


class ModelAtDraws:
    """A Pyro model evaluated at draws of its latents, on full plates, with discrete latents that have no draws
    enumerated.

    Args:
        model: The model.
        args, kwargs: Its arguments.
        draw: A first draw: a value per latent that is not enumerated.
        extra_event_dims: Names of event dimensions by site.

    Attributes:
        sites: The sites, as in a run of the model with the first draw.
        indices: The index of each plate that holds a part of its size.
        batch_ndim: The largest number of batch dimensions, of plates or not.
        enumerated: Discrete latents without draws, which are summed out.
        missing: Other latents without draws; with any, sites are known, but nothing can be evaluated.
        has_factors: Whether there is a `pyro.factor`.

    Raises:
        ValueError: If the arguments hold a part of a plate's data alone.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        draw: Mapping[str, Tensor],
        extra_event_dims: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.model, self.args, self.kwargs, self._first = model, tuple(args), dict(kwargs), dict(draw)
        with full_plates() as enlarged:
            try:
                trace: Any = poutine.trace(_Values(draw)(model)).get_trace(*self.args, **self.kwargs)
                trace.compute_log_prob()
            except (IndexError, ValueError, RuntimeError) as error:
                if not enlarged:
                    raise
                name, size = next(iter(enlarged.items()))
                raise ValueError(
                    f"Expected model_args that hold all {size} data of plate {name!r}, on which the model is "
                    f"evaluated; got an error there: {str(error).splitlines()[0]}"
                ) from error
        self.sites = sites_of(trace, extra_event_dims)
        self.indices = plate_indices(trace)
        nodes = [node for node in trace.nodes.values() if node["type"] == "sample"]
        plates = [-frame.dim for node in nodes for frame in node["cond_indep_stack"] if frame.vectorized]
        batches = [site.batch_ndim for site in self.sites.values() if site.kind != "deterministic"]
        self.batch_ndim: int = max([*plates, *batches, *(node["log_prob"].dim() for node in nodes)], default=0)
        self.has_factors = any(isinstance(node["fn"], Unit) for node in nodes)
        self.enumerated = [
            name
            for name, site in self.sites.items()
            if site.kind == "latent" and name not in draw and trace.nodes[name]["fn"].has_enumerate_support
        ]
        self.missing = [name for name in self.names("latent") if name not in draw and name not in self.enumerated]
        self._names = set(self.sites)

    def names(self, kind: str) -> list[str]:
        """Names of the sites of a kind, in the model's order."""
        return [name for name, site in self.sites.items() if site.kind == kind]

    def trace(self, draw: Mapping[str, Tensor]) -> Any:
        """A trace at one draw, with its log densities; sites without a draw are enumerated.

        Raises:
            ValueError: If its sites are not those of the first draw.
        """
        model: Any = _Values(draw)(self.model)
        if self.enumerated:
            enumerated, options = set(self.enumerated), cast(Any, {"enumerate": "parallel", "num_samples": None})
            model = poutine.infer_config(model, lambda site: options if site["name"] in enumerated else {})
            model = _Enumeration(first_available_dim=-1 - self.batch_ndim)(model)
        with full_plates():
            trace: Any = poutine.trace(model).get_trace(*self.args, **self.kwargs)
        different = self._names ^ {name for name, node in trace.nodes.items() if is_variable(node)}
        if different:
            raise ValueError(
                f"Expected the same sites at every draw; got {min(different)!r} at some draws only: convert a model "
                "whose sites do not depend on its latents."
            )
        trace.compute_log_prob()
        return trace

    @cached_property
    def terms(self) -> list[Term]:
        """The variables of the pointwise log likelihood.

        Raises:
            ValueError: If it is not pointwise.
        """
        return pointwise_terms(self.trace(self._first))

    def joint_obstacle(self) -> str | None:
        """The reason, in one sentence, that `log_joint` cannot be evaluated; None if it can."""
        try:
            terms = self.terms
        except ValueError:
            return "The log joint density is not evaluated where a variable that is summed out links the data."
        trace = self.trace(self._first)
        for term in terms:
            if not share_scale(term, trace):
                names = ", ".join(repr(name) for name in (*term.observed, *term.enumerated))
                return f"The log joint density is not defined where {names} have different scales."
        return None

    def shared_latents(self, term: Term) -> set[str]:
        """Latents that more than one datum depends on, among those that enter a variable of the log likelihood: its own
        density, or the priors of the latents that it conditions on.

        Where Pyro cannot follow the dependences of the model, all others than those of single data count.
        """
        others = set(self.names("latent")) - set(term.conditional_on) - set(self.enumerated)
        if not others:
            return others
        try:
            with full_plates():
                dependencies: Any = get_dependencies(_Values(self._first)(self.model), self.args, self.kwargs)
        except Exception:  # a model may do with tensors whatever it likes, and Pyro's tracking does not take all of it
            return others
        entering, reached = [*term.observed, *term.enumerated, *term.conditional_on], set[str]()
        while entering:
            name = entering.pop()
            if name not in reached:
                reached.add(name)
                entering += dependencies["prior_dependencies"].get(name, {})
        return reached & others

    def term_log_prob(self, term: Term, trace: Any) -> Tensor:
        """A variable of the pointwise log likelihood, of the batch shape of its observed site."""
        site = self.sites[term.observed[0]]
        return term_log_prob(term, trace, site.value.shape[: site.batch_ndim])

    def log_joint(self, trace: Any) -> Tensor:
        """Log density of the latents and data, with the model's scales and masks.

        Sites that are summed out are so before the scale applies, as in `pyro.infer.TraceEnum_ELBO`.
        """
        summed = [term for term in self.terms if term.enumerated]
        elsewhere = {name for term in summed for name in (*term.observed, *term.enumerated)}
        total = sum(
            (
                node["log_prob"].sum()
                for name, node in trace.nodes.items()
                if node["type"] == "sample" and name not in elsewhere and name not in self.enumerated
            ),
            torch.zeros(()),
        )
        for term in summed:
            total = total + (self.term_log_prob(term, trace) * trace.nodes[term.observed[0]]["scale"]).sum()
        return total

    def deterministic(self, trace: Any) -> dict[str, Tensor]:
        """Values of deterministic sites, but for those that depend on an enumerated site."""
        values = {name: trace.nodes[name]["value"] for name in self.names("deterministic")}
        return {name: value for name, value in values.items() if value.shape == self.sites[name].value.shape}

    def unconstrained(self, trace: Any) -> dict[str, Tensor]:
        """Continuous latents in unconstrained coordinates, by the transform of their support."""
        values = {}
        for name in self.names("latent"):
            fn = trace.nodes[name]["fn"]
            if name not in self.enumerated and not is_discrete(fn):
                values[name] = biject_to(fn.support).inv(trace.nodes[name]["value"])
        return values

    def log_prior(self, trace: Any) -> dict[str, Tensor]:
        """Log density of each latent that has draws, per element of its batch, without scale and with its mask.

        Empty if a latent depends on an enumerated one: its density is then not its own.
        """
        terms = {}
        for name in self.names("latent"):
            if name not in self.enumerated:
                site = self.sites[name]
                term = pointwise_log_prob(trace.nodes[name])
                shape = site.value.shape[: site.batch_ndim]
                if torch.broadcast_shapes(term.shape, shape) != shape:
                    return {}
                terms[name] = term.expand(shape)
        return terms

    def at(self, draws: Mapping[str, Tensor], *groups: str) -> Quantities:
        """Quantities at each draw, stacked along the first dimension.

        Draws are evaluated together by `torch.vmap`, in parts that fit in memory; one after the other, which takes
        some milliseconds each, where the model does what `vmap` does not take, such as a branch on a value.

        Args:
            draws: Values of the latents, `draws x batch + event`.
            groups: Among `deterministic`, `unconstrained`, `log_prior`, `log_likelihood` and `log_joint`.

        Returns:
            Tensors by group and name.

        Raises:
            ValueError: If shapes or sites differ among draws, or the log likelihood is not pointwise.
        """
        count = len(next(iter(draws.values()))) if draws else 1
        first = self.trace({name: value[0] for name, value in draws.items()})
        terms = self.terms if {"log_likelihood", "log_joint"} & set(groups) else []

        def quantities(draw: dict[str, Tensor]) -> Quantities:
            trace = self.trace(draw)
            result: Quantities = {}
            if "deterministic" in groups:
                result["deterministic"] = self.deterministic(trace)
            if "unconstrained" in groups:
                result["unconstrained"] = self.unconstrained(trace)
            if "log_prior" in groups:
                result["log_prior"] = self.log_prior(trace)
            if "log_likelihood" in groups:
                result["log_likelihood"] = {term.name: self.term_log_prob(term, trace) for term in terms}
            if "log_joint" in groups:
                result["log_joint"] = {"log_joint": self.log_joint(trace)}
            return result

        if not draws:
            return _stack([quantities({})] * count)
        part = max(1, min(count, _ELEMENTS // max(_elements(first), 1)))
        try:
            return torch.vmap(quantities, chunk_size=part, randomness="different")(dict(draws))
        except RuntimeError:  # that of vmap itself, for what it does not take; one of the model comes again below
            return _stack([quantities({name: value[i] for name, value in draws.items()}) for i in range(count)])


class _Values(Messenger):
    """Gives latents their values, without making them observed."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self._values and not msg["is_observed"]:
            msg["value"], msg["done"] = self._values[msg["name"]], True


class _Enumeration(EnumMessenger):
    """Pyro's parallel enumeration, by operations that `torch.vmap` takes."""

    def _pyro_post_sample(self, msg: Any) -> None:
        """As the inherited method, which reads `value.data`."""
        if msg["value"] is None or not isinstance(msg["fn"], TorchDistributionMixin):
            return
        shape = msg["value"].shape[: msg["value"].dim() - msg["fn"].event_dim]
        dims = msg["infer"].setdefault("_dim_to_id", {})
        dims.update(self._param_dims.get(msg["name"], {}))
        self._value_dims[msg["name"]] = {
            dim: index for dim, index in dims.items() if len(shape) >= -dim and shape[dim] > 1
        }


def _elements(trace: Any) -> int:
    """Elements that one draw holds: of values, and of log densities with those of their events."""
    return sum(
        max(node["value"].numel(), node["log_prob"].numel() * node["fn"].event_shape.numel())
        for node in trace.nodes.values()
        if is_variable(node)
    )


def _stack(each: list[Quantities]) -> Quantities:
    stacked: Quantities = {}
    for group, first in each[0].items():
        stacked[group] = {}
        for name in first:
            values = [quantities[group][name] for quantities in each if name in quantities[group]]
            if len({value.shape for value in values}) > 1 or len(values) < len(each):
                raise ValueError(
                    f"Expected site {name!r} to have the same shape at every draw; got "
                    f"{tuple(values[0].shape)} and others."
                )
            stacked[group][name] = torch.stack(values)
    return stacked
