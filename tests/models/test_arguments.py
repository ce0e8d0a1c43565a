from __future__ import annotations

import pytest
import torch

from latentmix.models.arguments import (
    Mismatch,
    check_floating,
    check_n_jobs,
    check_positive,
    first_mismatch,
    positive_number,
)


def test_positive_integers_pass() -> None:
    check_positive(single=1, several=(1, 2), none=())


@pytest.mark.parametrize("value", [0, -1, 1.5, (2, 0), (2, 1.0)])
def test_sizes_that_are_not_positive_integers_are_refused_by_name(value: object) -> None:
    with pytest.raises(ValueError, match="Expected hidden to hold positive integers; got"):
        check_positive(hidden=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1.0, float("inf"), float("nan"), True, "1", None])
def test_other_values_than_positive_numbers_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="Expected a positive scale; got"):
        positive_number(value, "a positive scale")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_integers_and_booleans_are_no_data(dtype: torch.dtype) -> None:
    check_floating(torch.zeros(2))
    with pytest.raises(ValueError, match=f"Expected floating-point data; got {dtype}"):
        check_floating(torch.zeros(2, dtype=dtype))


def test_mismatch_names_the_first_tensor_and_both_shapes() -> None:
    tensors = {"b": torch.zeros(3), "a": torch.zeros(())}
    assert first_mismatch(tensors, dict(tensors)) is None
    assert first_mismatch(tensors, {**tensors, "b": torch.zeros(2)}) == Mismatch("b", (3,), (2,))
    assert first_mismatch(tensors, {"b": tensors["b"]}) == Mismatch("a", (), None)
    assert first_mismatch({"b": tensors["b"]}, tensors) == Mismatch("a", None, ())


@pytest.mark.parametrize("n_jobs", [0, 1.5, "2", True, 1025])
def test_numbers_of_jobs_that_joblib_does_not_take(n_jobs: object) -> None:
    with pytest.raises(ValueError, match=r"Expected --n-jobs of 1 to 1,024, or below 0, .*; got "):
        check_n_jobs(n_jobs, "--n-jobs")


def test_numbers_of_jobs() -> None:
    for n_jobs in (None, 1, -1, -2, 8, 1024):
        check_n_jobs(n_jobs)
