import warnings

import numpy as np
import pytest
import torch

from latentmix.inference.mixtures.points.points import as_points

from tests.inference.mixtures.clouds import blobs
from tests.inference.mixtures.points.one_of_several import fits, run_two


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    x = blobs(3, n=200, spread=0.3)
    weight = torch.from_numpy(np.random.RandomState(1).randint(0, 4, len(x))).double()
    labels = torch.full((len(x),), -1)
    labels[torch.arange(0, 200, 10)] = torch.arange(20) % 4
    torch.save((x, weight, labels), folder / "points.pt")
    return (x, weight, labels), run_two(folder, seconds=240)


@pytest.mark.parametrize("streamed", [False, True])
def test_two_processes_agree_with_one(outcome, streamed):
    (x, weight, labels), results = outcome
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = fits(as_points(x, weight), labels, np.random.RandomState(0))
    assert len(expected) == 13
    for name, tensors in expected.items():
        for ours, first, second in zip(tensors, results[0][streamed][name], results[1][streamed][name], strict=True):
            assert torch.equal(first, second), name
            torch.testing.assert_close(first, ours, rtol=0, atol=1e-10, msg=name)


def test_errors_of_one_process_are_raised_on_all(outcome):
    (_, results) = outcome
    messages = [result[2] for result in results]
    assert messages[0] == messages[1]
    called = {name: messages[0].pop(name) for name in list(messages[0]) if name.startswith("estimator")}
    assert messages[0] == {
        "features": "Expected points with the same features on every process; got 3, 2.",
        "dtype": "Expected points with the same dtype on every process; got torch.float32, torch.float64.",
        "value": "Process 1: Expected finite points; got NaN in row 3: drop or mend the row (masked values are NaN).",
        "rows": "Process 1: Expected points; got no rows.",
        "generator": messages[0]["generator"],
    }
    assert "Process 1: Expected batches that can be iterated again" in messages[0]["generator"]
    assert len(called) == 11
    assert (
        called.pop("estimator, noise on one") == "Expected the same noise_covariance on every process; got none, one."
    )
    assert called.pop("estimator, warm start on one") == (
        "Expected the same last fit to resume on every process; got none, one."
    )
    assert called.pop("estimator, step on one").startswith("Expected partial_fit after a fit on every process")
    assert called.pop("estimator, options") == "Expected the same max_iter on every process; got 2, 3."
    assert called.pop("estimator, labels on one") == "Expected labels on every process, or on none; got them on 1 of 2."
    assert all(message.startswith("Process 1: ") for message in called.values()), called


def test_points_are_not_distributed_by_default(outcome):
    (_, results) = outcome
    assert [result[3:5] for result in results] == [(70, 200), (130, 200)]


def test_a_reader_that_fails_on_one_process_fails_on_all(outcome):
    (_, results) = outcome
    for result in results:
        assert set(result[5].values()) == {"Process 1: the file is gone"}
        assert len(result[5]) == 7


def test_a_reduction_takes_one_exchange(outcome):
    (_, results) = outcome
    for result in results:
        assert result[6] == {
            3: (True, ["all_reduce"]),
            4095: (True, ["all_reduce"]),
            4096: (True, ["all_reduce"] * 2),
            10_000: (True, ["all_reduce"] * 2),
            "gather": ([0, 1], ["all_gather_object"]),
            "agree": (True, ["broadcast"]),
        }
