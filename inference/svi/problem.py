"""The optimisation problem of `fit`: model, guide and objective, checked once before training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from latentmix.inference.batches import Batch, Transform, transformed
from latentmix.inference.compiled.objective import CompiledObjective
from latentmix.inference.compiled.plan import UNCOMPILED, CompilePlan
from latentmix.inference.evaluation import Bound, evaluate
from latentmix.inference.isolation import Modules, RandomState, plain_errors
from latentmix.inference.objectives.base import (
    Objective,
    Stochastic,
    Terms,
    data_count,
    data_plate,
    local_sites,
    samples,
)
from latentmix.inference.objectives.conversion import as_objective
from latentmix.inference.objectives.precision import MixedPrecision, slow_products
from latentmix.inference.support import check_support

__all__ = ["Frozen", "Problem", "check_scaling"]


class Frozen(Messenger):
    """Keeps frozen parameters frozen, and the initial tensors of `pyro.param` statements unchanged.

    Pyro requires gradients of every parameter that it registers, and would train the initial tensor of a `pyro.param`
    statement in place; inside the block it trains a copy.

    Args:
        functions: Model and guide.

    Attributes:
        leaves: The frozen parameters of their modules.

    Raises:
        ValueError: If a module was made in inference mode, so that it cannot be trained.
    """

    def __init__(self, *functions: Stochastic) -> None:
        super().__init__()
        with Modules(*functions, evaluation=False) as modules:
            owners = list(modules)
        for name, tensor in (
            each for module in owners for each in (*module.named_parameters(), *module.named_buffers())
        ):
            if tensor.is_inference():
                raise ValueError(
                    f"Expected modules that can be trained; got {name!r}, made in torch.inference_mode(): make the "
                    "modules outside of it, or load their state_dict into ones that are."
                )
        self.leaves = [leaf for module in owners for leaf in module.parameters() if not leaf.requires_grad]

    def __exit__(self, *details: Any) -> None:
        super().__exit__(*details)
        for leaf in self.leaves:
            leaf.requires_grad_(False)

    def _pyro_param(self, msg: Any) -> None:
        name, *arguments = msg["args"]
        if arguments and isinstance(arguments[0], Tensor) and not isinstance(arguments[0], nn.Parameter):
            msg["args"] = (name, arguments[0].detach().clone(), *arguments[1:])


@dataclass(frozen=True)
class Problem:
    """A model and a guide with their objective and the objective that measures the reported ELBO.

    Attributes:
        model: Pyro callable.
        guide: Pyro callable.
        objective: The objective that is minimised.
        monitor: The objective that measures the ELBO at beta = 1.
        transform: Applied to every minibatch.
        modules: The modules of model, guide and objective.
        compiled: The objective with compiled steps, for minibatches of the lengths of `plan`.
        plan: Which minibatches run compiled.
    """

    model: Stochastic
    guide: Stochastic
    objective: Objective
    monitor: Objective
    transform: Transform | None
    modules: list[nn.Module]
    compiled: CompiledObjective | None = None
    plan: CompilePlan = UNCOMPILED

    @classmethod
    def prepare(
        cls,
        model: Stochastic,
        guide: Stochastic,
        objective: Objective,
        monitor: Objective,
        transform: Transform | None,
        data: Batch,
        held_out: Batch | None,
        size: int,
    ) -> Problem:
        """Run one minibatch, so that lazy parameters exist, arguments are validated and scaling is checked.

        Then check that all data, training and held-out, lie in the support of the sites that observe them.

        Args:
            model: Pyro callable.
            guide: Pyro callable.
            objective: The objective that is minimised.
            monitor: The objective that measures the ELBO.
            transform: Applied to every minibatch.
            data: Training data.
            held_out: Validation data.
            size: Data a minibatch.

        Raises:
            ValueError: If the objective does not accept model and guide, a minibatch is scaled wrongly, or data lie
                outside the support.
        """
        for name, function in (("model", model), ("guide", guide)):
            plain = isinstance(function, nn.Module) and type(function).forward is nn.Module.forward
            if plain and not isinstance(function, AutoMessenger):
                kind = type(function).__name__
                raise ValueError(f"Expected a Pyro callable for {name}; got a {kind}: pass its method, as vae.model.")
        with plain_errors(), Modules(model, guide) as modules:
            batch = transformed(tuple(tensor[:size] for tensor in data), transform)
            model_trace, guide_trace = _run(model, guide, batch)
            check_scaling(model_trace, guide_trace, len(data[0]), size)
            objective.rehearse(model, guide, *batch)
            if held_out is not None:
                randomness = RandomState.capture()
                monitor(model, guide, *transformed(tuple(tensor[:size] for tensor in held_out), transform))
                randomness.restore()
            if monitor is objective and objective.terms(model, guide, *batch).elbo is None:
                monitor = as_objective(Trace_ELBO())
            for part in (data,) if held_out is None else (data, held_out):
                check_support(model_trace, batch, partial(_run, model, guide), part, transform, size)
        stateful = [*modules, *objective.modules]
        return cls(model, guide, objective, monitor, transform, stateful)

    def leaves(self, frozen: Sequence[Tensor]) -> dict[str, Tensor]:
        """The unconstrained parameters of Pyro's parameter store and the modules by name, without duplicates.

        Args:
            frozen: Parameters to leave out.

        Raises:
            ValueError: If there is no parameter to train.
        """
        named = dict(pyro.get_param_store().named_parameters())
        for index, module in enumerate(self.modules):
            named |= {f"{index}.{name}": leaf for name, leaf in module.named_parameters()}
        seen = {id(leaf) for leaf in frozen}
        leaves: dict[str, Tensor] = {}
        for name, leaf in named.items():
            if leaf.requires_grad and id(leaf) not in seen:
                leaves[name] = leaf
                seen.add(id(leaf))
        if not leaves:
            raise ValueError("Expected a model or a guide with parameters to train; got none.")
        return leaves

    def check_batches(self, data: Batch, size: int, drop_last: bool) -> None:
        """Refuse minibatches of one datum under batch normalisation in training mode with one value per channel.

        Args:
            data: Training data.
            size: Data a minibatch.
            drop_last: Whether an incomplete last minibatch is left out.

        Raises:
            ValueError: If there is such a minibatch; the message names the remedy.
        """
        length = len(data[0])
        if not (size == 1 or (length % size == 1 and not drop_last)):
            return

        def refuse(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].numel() > inputs[0].shape[1]:
                return
            batches = "batches of 1" if size == 1 else f"a last one of 1, of {length} data in batches of {size}"
            remedy = "a batch_size of at least 2" if size == 1 else "drop_last=True or another batch_size"
            raise ValueError(
                f"Expected minibatches of more than one datum for {type(layer).__name__} in training mode; got "
                f"{batches}: pass {remedy}."
            )

        layers = {layer for module in self.modules for layer in module.modules() if isinstance(layer, _BatchNorm)}
        handles = [layer.register_forward_pre_hook(refuse) for layer in layers if layer.training]
        if not handles:
            return
        randomness = RandomState.capture()
        store = pyro.get_param_store()
        try:
            with (
                plain_errors(),
                torch.no_grad(),
                store.scope(store.get_state()),
                Modules(self.model, self.guide),
            ):
                _run(self.model, self.guide, transformed(tuple(tensor[:1] for tensor in data), self.transform))
        finally:
            for handle in handles:
                handle.remove()
            randomness.restore()

    def mixed(self, data: Batch, size: int) -> Problem:
        """The problem with products of networks in bfloat16, see `MixedPrecision`; the monitor stays in full precision.

        Args:
            data: Training data.
            size: Data a minibatch.

        Raises:
            ValueError: If model and guide have no such products, or are not in float32.

        Warns:
            UserWarning: If the device has no fast products in bfloat16.
        """
        objective = MixedPrecision(self.objective)
        randomness = RandomState.capture()
        with plain_errors(), Modules(self.model, self.guide):
            objective.rehearse(
                self.model, self.guide, *transformed(tuple(tensor[:size] for tensor in data), self.transform)
            )
        randomness.restore()
        if (reason := slow_products(data[0].device)) is not None:
            warnings.warn(f"precision='bf16-mixed' gains no time here: {reason}.", stacklevel=3)
        return replace(self, objective=objective)

    def with_compiled(self, plan: CompilePlan) -> Problem:
        """The problem with compiled steps; its objective warns, with the reason, where they run uncompiled."""
        if isinstance(self.objective, CompiledObjective):  # of compile_elbo, for minibatches of all lengths
            return replace(self, compiled=self.objective, plan=CompilePlan(frozenset(), None))
        if not plan.lengths:
            return replace(self, plan=plan)
        return replace(self, compiled=CompiledObjective(self.objective, self.model, self.guide), plan=plan)

    @property
    def compilation(self) -> str:
        """Whether steps run compiled, and why others do not, such as "compiled" or "not compiled (compile=False)"."""
        if self.compiled is None:
            return f"not compiled ({self.plan.reason})"
        if self.compiled.obstacle is not None:
            return f"not compiled ({self.compiled.obstacle.rstrip('.')})"
        return "compiled" if self.plan.reason is None else f"compiled, {self.plan.reason}"

    def backward(self, batch: Batch, *, length: int | None = None, check: bool = False, guarded: bool = True) -> Terms:
        """Accumulate the gradients of one minibatch, and return the loss with the reported terms, those of the monitor.

        Args:
            batch: The minibatch.
            length: Its number of data before the transform; by default that of the batch.
            check: Whether a compiled step is compared with the uncompiled one, whose gradients are taken then.
            guarded: See `CompiledObjective`.
        """
        length = len(batch[0]) if length is None else length
        compiled = self.compiled if length in self.plan.lengths or self.compiled is self.objective else None
        if compiled is None:
            terms = self.objective.backward(self.model, self.guide, *batch)
        else:
            compiled.guarded = guarded or check
            backward = compiled.checked_backward if check else compiled.backward
            terms = backward(self.model, self.guide, *batch)
        if terms.elbo is not None and (self.monitor is self.objective or self.monitor is self.objective.bound()):
            return terms
        with torch.no_grad(), Modules(self.model, self.guide):
            return self.monitor.terms(self.model, self.guide, *batch)._replace(loss=terms.loss)

    def measure(self, data: Batch, size: int) -> Bound:
        """The bound on held-out data."""
        return evaluate(
            self.model,
            self.guide,
            data,
            objective=self.monitor,
            transform=self.transform,
            batch_size=size,
            store=pyro.get_param_store().get_state(),
        )


def _run(model: Stochastic, guide: Stochastic, batch: Batch) -> tuple[poutine.Trace, poutine.Trace]:
    """Traces of model and guide on a minibatch."""
    guide_trace = poutine.trace(guide).get_trace(*batch)
    replayed = _Undrawn()(poutine.replay(model, trace=guide_trace))
    return poutine.trace(replayed).get_trace(*batch), guide_trace


class _Undrawn(Messenger):
    """Gives sites that are to be enumerated their first value: a draw for every datum takes longer than a step."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["value"] is None and msg["infer"].get("enumerate") and msg["fn"].has_enumerate_support:
            msg["value"] = msg["fn"].enumerate_support(expand=False)[0].expand(msg["fn"].shape())


def check_scaling(model: poutine.Trace, guide: poutine.Trace, length: int, size: int) -> None:
    """Refuse a minibatch that is not scaled up to all data, in the model or in the guide.

    A subsampled plate scales it up, or `pyro.poutine.scale` around all sites of single data.

    Args:
        model: Trace of the model on a minibatch.
        guide: Trace of the guide on it.
        length: Number of data.
        size: Length of the minibatch.

    Raises:
        ValueError: If the model has latents of the whole data set and a plate or scale does not scale up the minibatch,
            or a scale is not that of the minibatch.
    """
    plate = data_plate(model.nodes.values(), size)
    counted = data_count(model.nodes.values(), size)
    subsampled = plate is not None and plate.full_size not in (None, plate.size)
    remedy = f"write pyro.plate('data', {length}, subsample=x), so that a minibatch of {size} is scaled up."
    for site in guide.nodes.values():
        for frame in site["cond_indep_stack"] if site["type"] == "sample" else ():
            if plate is not None and frame.name == plate.name and frame.full_size != plate.full_size:
                raise ValueError(
                    f"Expected the guide's plate {frame.name!r} over {plate.full_size} data, as the model's; got one "
                    f"over {frame.full_size}: {remedy}"
                )
    local = {site["name"]: site for site in local_sites(model.nodes.values(), size)}
    unscaled = plate is None and counted == size
    latents = {
        name: site
        for name, site in samples(model)
        if not site["is_observed"] and not site_is_subsample(site) and (unscaled or name not in local)
    }
    factor = length / size
    if counted != length:
        if latents and counted != size and not subsampled:
            raise ValueError(
                f"Expected poutine.scale by {factor:g}, {length} data over a minibatch of {size}, because "
                f"{next(iter(latents))!r} is a latent of the whole data set; got {counted / size:g}: {remedy}"
            )
        if latents:
            raise ValueError(
                f"Expected a plate over all {length} data around what is observed, because {next(iter(latents))!r} is "
                f"a latent of the whole data set; got one over {counted:g}: {remedy}"
            )
        return
    if size == length:
        return
    if subsampled:
        twice = [name for name, site in local.items() if site["is_observed"] and _is(site["scale"], factor**2)]
        if latents and twice:
            raise ValueError(
                f"Expected a minibatch to be scaled up once; got {twice[0]!r} in a plate over all {length} data and "
                f"under poutine.scale by {factor:g} besides: leave the one or the other out."
            )
        return
    for name, site in latents.items():
        if not _is(site["scale"], 1.0):
            raise ValueError(
                f"Expected {name!r}, a latent of the whole data set, outside poutine.scale by {factor:g}, which is for "
                "what belongs to single data; got it inside."
            )
    for name, site in samples(guide):
        if name in local and not _is(site["scale"], factor):
            raise ValueError(
                f"Expected poutine.scale by {factor:g} around {name!r} in the guide, as in the model; got a scale of "
                f"{float(torch.as_tensor(site['scale']).mean()):g}."
            )


def _is(scale: float | Tensor, wanted: float) -> bool:
    return bool(torch.isclose(torch.as_tensor(scale, dtype=torch.float64), torch.tensor(wanted).double()).all())
