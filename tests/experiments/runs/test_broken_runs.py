"""Weights, mixtures and states of training that no fit has left are refused by the name of the tensor and the file."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentmix.experiments.cli import main
from latentmix.experiments.runs.artifacts import RunFolder, load_tree, save_tree
from latentmix.experiments.runs.run import load_run
from latentmix.experiments.runs.stored import read_history, read_summary
from latentmix.inference import TrainingState

EARLIER = Path(__file__).parent / "earlier_run"
Change = Callable[[Any], Any]


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return shutil.copytree(EARLIER / "finished", tmp_path / "finished")


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    return shutil.copytree(EARLIER / "interrupted", tmp_path / "interrupted")


def filled(value: float) -> Change:
    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[0] = value
        return changed

    return change


WEIGHTS: dict[str, tuple[Change, str]] = {
    "NaN": (filled(math.nan), "Expected finite weights {name}; got NaN or infinity in .*{file}"),
    "infinity": (filled(math.inf), "Expected finite weights {name}; got NaN or infinity in .*{file}"),
    "dtype": (
        lambda tensor: tensor.half(),
        r"Expected weights {name} of torch\.float32; got torch\.float16 in .*{file}",
    ),
    "integers": (
        lambda tensor: tensor.long(),
        r"Expected weights {name} of torch\.float32; got torch\.int64 in .*{file}",
    ),
    "shape": (lambda tensor: tensor[None], r"Expected weights {name} of shape .*; got .* in .*{file}"),
}


@pytest.mark.parametrize("part", ["vae", "guide"])
@pytest.mark.parametrize("damage", WEIGHTS)
def test_weights_are_checked(finished: Path, part: str, damage: str) -> None:
    change, message = WEIGHTS[damage]
    file = finished / "checkpoints" / f"{part}.safetensors"
    weights = load_file(file)
    name = min(weights)
    weights[name] = change(weights[name]).contiguous()
    save_file(weights, file)
    with pytest.raises(ValueError, match=message.format(name=repr(name), file=file.name)):
        load_run(finished)


MIXTURES: dict[str, tuple[str, Change, str]] = {
    "NaN mean": ("means_", filled(math.nan), "Expected finite means of a mixture; got NaN or infinity"),
    "infinite covariance": ("covariances_", filled(math.inf), "Expected finite covariances"),
    "integers": ("means_", lambda tensor: tensor.long(), "Expected means of a mixture in float32 or float64"),
    "half": ("weights_", lambda tensor: tensor.half(), "Expected weights of a mixture in float32 or float64"),
    "shape": (
        "covariances_",
        lambda tensor: tensor[..., 0],
        r"Expected covariances of a mixture of shape \(3, 2, 2\)",
    ),
    "sum": ("weights_", lambda tensor: 2 * tensor, "Expected weights of a mixture that sum to one"),
    "negative": (
        "weights_",
        lambda _: torch.tensor([1.5, -0.5, 0.0]).double(),
        "Expected weights of a mixture that sum",
    ),
    "indefinite": ("covariances_", lambda tensor: -tensor, "Expected positive definite covariances of a mixture"),
    "asymmetric": ("covariances_", lambda tensor: tensor.tril(), "Expected positive definite covariances"),
    "no tensor": ("means_", lambda _: 3, "Expected means of a mixture as a tensor; got int"),
}


@pytest.mark.parametrize("damage", MIXTURES)
def test_mixtures_are_checked(finished: Path, damage: str) -> None:
    name, change, message = MIXTURES[damage]
    path = finished / "checkpoints" / "mixtures"
    tree = load_tree(path)
    state = tree["svi"]["few"]["learned"]
    state[name] = change(state[name])
    save_tree(path, tree)
    with pytest.raises(ValueError, match=rf"mixtures\.safetensors: {message}"):
        RunFolder(finished).load_mixtures()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update(component_classes=[1]), "Expected a class out of .* for each of 3 components"),
        (lambda state: state.update(component_classes=[1, 4, 77]), "Expected a class out of"),
        (lambda state: state.update(classes=3), "Expected classes of a mixture as a list of labels; got 3"),
        (lambda state: state.pop("learned"), "got none with 'learned'"),
        (lambda state: state["scalars"].update(n_features_in_=7), "Expected n_features_in_ of a mixture to be the len"),
        (lambda state: state["scalars"].update(n_iter_="x"), "Expected n_iter_ of a mixture as a number"),
        (lambda state: state["parameters"].update(unknown=1), "got other values"),
    ],
)
def test_mixtures_of_other_parts_are_refused(finished: Path, change: Change, message: str) -> None:
    path = finished / "checkpoints" / "mixtures"
    tree = load_tree(path)
    change(tree["em"]["none"])
    save_tree(path, tree)
    with pytest.raises(ValueError, match=rf"mixtures\.safetensors.*{message}"):
        RunFolder(finished).load_mixtures()


def test_trees_without_a_tensor_are_refused(finished: Path) -> None:
    file = finished / "checkpoints" / "mixtures.safetensors"
    data = file.read_bytes()
    file.write_bytes(data.replace(b'{\\"$tensor\\": \\"3\\"}', b'{\\"$tensor\\": \\"x\\"}'))
    with pytest.raises(ValueError, match=r"Expected safetensors with a structure in .*mixtures\.safetensors; got none"):
        RunFolder(finished).load_mixtures()


STATES: dict[str, tuple[Change, str]] = {
    "epoch of 1e11": (lambda s: s.update(epoch=10**11), "Expected a record of each of 100,000,000,000 epochs"),
    "epoch as a float": (lambda s: s.update(epoch=1e11), "Expected epoch of at least 0 in the state"),
    "negative epoch": (lambda s: s.update(epoch=-1), "Expected epoch of at least 0 .*; got -1"),
    "negative batch": (lambda s: s.update(batch=-1), "Expected batch of at least 0"),
    "batch beyond the epoch": (lambda s: s.update(batch=99), "Expected at most 3 batches of an epoch"),
    "no optimizer": (lambda s: s.pop("optimizer"), "got none with 'optimizer'"),
    "optimizer of a list": (lambda s: s.update(optimizer=[]), "Expected the optimizer state by name"),
    "NaN parameter": (
        lambda s: s["parameters"].update({min(s["parameters"]): torch.full((2,), math.nan)}),
        "Expected finite 'guide",
    ),
    "history of words": (lambda s: s.update(history=["a", "b"]), "got other values"),
    "record of another epoch": (lambda s: s["history"][0].update(epoch=5), "Expected the figures of epoch 1"),
    "order of other data": (lambda s: s.update(order=torch.zeros(150, dtype=torch.int64)), "Expected an order of 150"),
    "number of data": (lambda s: s.update(length=0), "Expected length of at least 1"),
}


@pytest.mark.parametrize("damage", STATES)
def test_states_of_training_are_checked(interrupted: Path, damage: str) -> None:
    change, message = STATES[damage]
    path = interrupted / "checkpoints" / "training"
    saved = load_tree(path)
    change(saved)
    with pytest.raises(ValueError, match=message):
        TrainingState.from_state_dict(saved)
    save_tree(path, saved)
    with pytest.warns(UserWarning, match=rf"training\.safetensors.*{message}.* It is left out"):
        assert RunFolder(interrupted).load_training() == []


def test_resume_names_the_file_of_a_state_that_does_not_fit(
    interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = interrupted / "checkpoints" / "training"
    whole = load_tree(path)
    entry = whole["optimizer"]["state"][0]
    damages: list[tuple[Change, str]] = [
        (lambda _: entry.update(exp_avg=torch.zeros(3)), "Expected exp_avg of shape (4, 784) of the optimizer"),
        (lambda _: entry.pop("exp_avg"), "Expected exp_avg of every parameter of the optimizer"),
    ]
    for change, message in damages:
        kept = dict(entry)
        change(entry)
        save_tree(path, whole)
        assert main(["resume", str(interrupted)]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert message in error
        assert "training.safetensors" in error
        entry.clear()
        entry.update(kept)


def test_summaries_and_histories_are_checked(finished: Path) -> None:
    file = finished / "summary.json"
    whole = json.loads(file.read_text())
    for change, cause in [
        (lambda s: [s], "a list"),
        (lambda s: {**s, "test": 3}, "a number as test"),
        (lambda s: {**s, "test": {**s["test"], "elbo": "high"}}, "a word as test.elbo"),
        (lambda s: {name: value for name, value in s.items() if name != "seconds"}, "none with 'seconds'"),
        (lambda s: {**s, "mixtures": {"em": []}}, "a list as mixtures.em"),
        (
            lambda s: {
                **s,
                "mixtures": {"em": {"none": {**s["mixtures"]["em"]["none"], "calibration": {"n_draws": 1}}}},
            },
            "none with 'mixtures.em.none.calibration.plug_in'",
        ),
        (lambda s: {**s, "parameters": 10**400}, "a number too large as parameters"),
    ]:
        file.write_text(json.dumps(change(whole)))
        with pytest.raises(ValueError, match=rf"the figures of a finished run in .*summary\.json; got {cause}"):
            read_summary(file)
    (finished / "metrics.jsonl").write_text('{"epoch": 1, "training": []}\n')
    with pytest.raises(ValueError, match=r"Expected the record of an epoch in line 1 of .*; got a list as training"):
        read_history(finished / "metrics.jsonl")


ESTIMATES: dict[str, Any] = {
    "components": ["1", "2"],
    "quantities": [["weight", 1, None], ["scale", None, 0]],
    "fits": {"em": {"point": [0.5, 1.0]}, "posterior": {part: [0.5, 1.0] for part in ("point", "sd", "low", "high")}},
    "sentence": "They differ.",
}
GUIDES = {"guide": "AutoNormal", "guides": [{"guide": "AutoNormal", "note": "", "bound": -1.5, "seconds": 0.5}]}


def test_posteriors_in_summaries_are_checked(finished: Path) -> None:
    file = finished / "summary.json"
    whole = json.loads(file.read_text())
    interval = {"em": {"none": {**whole["mixtures"]["em"]["none"], "accuracy_interval": {"median": 0.5, "low": "x"}}}}
    file.write_text(json.dumps({**whole, "estimates": ESTIMATES, "posterior": GUIDES}))
    assert read_summary(file)["estimates"] == ESTIMATES
    fits = ESTIMATES["fits"]
    for change, cause in [
        ({"estimates": [1]}, "a list as estimates"),
        ({"estimates": {**ESTIMATES, "fits": {"em": {"point": [1.0]}}}}, "not one number for each of its quantities"),
        ({"estimates": {**ESTIMATES, "fits": {"em": {"point": [1.0, "x"]}}}}, r"a word as estimates\.fits\.em\.point"),
        ({"estimates": {**ESTIMATES, "fits": {"em": {**fits["em"], "low": [0, 0]}}}}, "an interval without its end"),
        (
            {"estimates": {**ESTIMATES, "quantities": [["weight", 2, None], ["scale", None, 0]]}},
            r"\['weight', 2, None\]",
        ),
        ({"estimates": {**ESTIMATES, "quantities": [["size", 0, None], ["scale", None, 0]]}}, r"\['size', 0, None\]"),
        ({"posterior": {"guide": "AutoNormal", "guides": [3]}}, "a number as posterior.guides"),
        ({"posterior": 3}, "a number as posterior"),
        ({"posterior": {**GUIDES, "k_hat": "x"}}, "a word as posterior.k_hat"),
        ({"estimates": {**ESTIMATES, "left_out": "x"}}, "a word as estimates.left_out"),
        ({"estimates": {**ESTIMATES, "fits": {}}}, "none with 'estimates.fits.em'"),
        ({"mixtures": interval}, "a word as mixtures.em.none.accuracy_interval.low"),
    ]:
        file.write_text(json.dumps({**whole, **change}))
        with pytest.raises(ValueError, match=rf"figures of a finished run in .*summary\.json; got {cause}"):
            read_summary(file)


def test_files_of_two_runs_are_refused(finished: Path) -> None:
    path = finished / "checkpoints" / "mixtures"
    tree = load_tree(path)
    state = tree["em"]["none"]
    narrow = {"means_": (slice(None), slice(1)), "covariances_": (..., slice(1), slice(1))}
    for name, part in narrow.items():
        state["learned"][name] = state["learned"][name][part].contiguous()
    for name in ("precisions_", "precisions_cholesky_"):
        state["learned"][name] = state["learned"][name][..., :1, :1].contiguous()
    state["scalars"]["n_features_in_"] = 1
    save_tree(path, tree)
    with pytest.raises(ValueError, match=r"the mixture em, none in .* of 2 latent dimensions, as the VAE; got 1"):
        load_run(finished)


def test_images_that_cannot_be_read_are_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "large.npy", np.zeros((200, 28, 28), bool))
    assert main(["classify", str(finished), str(tmp_path / "large.npy"), "--max_gib", "0.0001"]) == 2
    assert "got 0.000146 GiB: allow more by --max_gib." in capsys.readouterr().err
