import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch.masked import masked_tensor

from latentmix.inference.mixtures.points.arrays import as_array, as_tensor

VALUES = np.arange(6).reshape(3, 2)


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


FORMS = {
    "big-endian": VALUES.astype(">f8"),
    "big-endian integers": VALUES.astype(">i4"),
    "reversed": VALUES[::-1].copy()[::-1],
    "read-only": read_only(VALUES),
    "transposed": VALUES.T.copy().T,
    "unaligned": np.frombuffer(b"0" + VALUES.astype(float).tobytes(), dtype="u1")[1:].view("f8").reshape(3, 2),
    "long double": VALUES.astype(np.longdouble),
    "half": VALUES.astype(np.float16),
    "objects": VALUES.astype(object),
    "lists": VALUES.tolist(),
    "data frame": pd.DataFrame(VALUES),
    "nullable data frame": pd.DataFrame(VALUES).astype("Int64"),
    "masked, nothing missing": np.ma.array(VALUES, mask=np.zeros((3, 2), bool)),
    **{name: VALUES.astype(name) for name in ("uint8", "uint16", "uint32", "uint64", ">u8", "int8")},
}


@pytest.mark.parametrize("name", FORMS)
def test_as_tensor_keeps_the_values_of_any_array(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = as_tensor(FORMS[name])
    assert torch.equal(tensor.double(), torch.from_numpy(VALUES).double())
    assert (tensor + tensor).dtype == tensor.dtype  # torch has no arithmetic of wide unsigned integers


def test_native_arrays_share_their_memory():
    array = VALUES.astype(float)
    assert np.shares_memory(as_tensor(array).numpy(), array)
    assert np.shares_memory(as_tensor(np.ma.array(array)).numpy(), array)
    field = np.zeros(3, dtype=[("a", "f8"), ("b", "i1")])["a"]  # of a stride that torch does not take
    assert torch.equal(as_tensor(field), torch.zeros(3).double())


def test_integers_beyond_int64_become_floats():
    assert torch.equal(as_tensor(np.array([2**63, 1], dtype=np.uint64)), torch.tensor([2.0**63, 1.0]).double())


@pytest.mark.parametrize("dtype", ["f8", "f4", ">f8", "i8", "?", "O"])
def test_masked_values_are_nan(dtype):
    mask = np.eye(3, 2, dtype=bool)
    array = as_array(np.ma.array(VALUES, mask=mask).astype(dtype))
    expected = np.where(mask, np.nan, VALUES.astype(dtype).astype(float))
    np.testing.assert_array_equal(array.astype(float), expected)
    rows = list(np.ma.array(VALUES, mask=mask))
    np.testing.assert_array_equal(as_array(rows), np.where(mask, np.nan, VALUES))


def test_missing_values_of_pandas_are_nan():
    frame = pd.DataFrame(VALUES).astype("Int64")
    frame.iloc[1, 0] = pd.NA
    expected = np.where([[0, 0], [1, 0], [0, 0]], np.nan, VALUES)
    for form in (frame, frame.astype("Float32"), frame.astype(object), frame.astype(object).to_numpy()):
        np.testing.assert_array_equal(as_array(form), expected)


@pytest.mark.filterwarnings("ignore:.*MaskedTensors")
def test_values_that_are_not_real_numbers_are_refused():
    with pytest.raises(ValueError, match=r"Expected a tensor or an array; got a torch MaskedTensor: pass x\.to_tensor"):
        as_tensor(masked_tensor(torch.zeros(2), torch.tensor([True, False])))
    for values in (["a"], [1j], {"a": 1}, [{}], np.zeros(2, dtype="f8,f8"), np.ma.zeros(2, dtype="f8,f8")):
        with pytest.raises(ValueError, match="Expected real numbers; got values of dtype"):
            as_tensor(values)
