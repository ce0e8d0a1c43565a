import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from latentmix.inference.mixtures.points.sources import as_source


class Reader:
    """Batches of an array, which overwrite one another in the same memory."""

    def __init__(self, x: np.ndarray, size: int) -> None:
        self.x, self.size = x, size

    def __iter__(self):
        memory = np.empty((self.size, self.x.shape[1]), self.x.dtype)
        for first in range(0, len(self.x), self.size):
            part = self.x[first : first + self.size]
            memory[: len(part)] = part
            yield memory[: len(part)]


class Watched(np.memmap):
    """A mapped file that records the greatest number of values read at once."""

    most = 0

    def __getitem__(self, index):
        part = super().__getitem__(index)
        Watched.most = max(Watched.most, part.size)
        return part


def numbers(n=100, n_features=3):
    return np.random.RandomState(0).randn(n, n_features)


def joined(source, rows):
    chunks = [(x.clone(), weight) for x, weight in source.chunks(rows)]
    assert all(0 < len(x) <= rows for x, _ in chunks)
    weights = [weight for _, weight in chunks]
    return torch.cat([x for x, _ in chunks]), None if weights[0] is None else torch.cat(weights)


@pytest.mark.parametrize("size", [1, 7, 50, 100, 300])
@pytest.mark.parametrize("rows", [1, 10, 64, 1000])
def test_batches_are_cut_to_chunks_in_order(size, rows):
    x = numbers()
    source = as_source(Reader(x, size))
    for _ in range(2):
        read, weight = joined(source, rows)
        assert weight is None
        np.testing.assert_array_equal(read.numpy(), x)


def test_small_batches_are_joined():
    assert [len(x) for x, _ in as_source(Reader(numbers(), 7)).chunks(50)] == [49, 49, 2]


def test_a_loader_gives_points_or_pairs_with_weights():
    x, weight = torch.from_numpy(numbers()), torch.arange(100.0)
    read, none = joined(as_source(DataLoader(TensorDataset(x), batch_size=33)), 40)
    assert none is None
    assert torch.equal(read, x)
    read, weights = joined(as_source(DataLoader(TensorDataset(x, weight), batch_size=33)), 40)
    assert torch.equal(read, x)
    assert weights.dtype == torch.float64
    assert torch.equal(weights, weight.double())


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_a_mapped_file_is_read_chunk_by_chunk(tmp_path, mode, recwarn):
    x = numbers(1000).astype(np.float32)
    x.tofile(tmp_path / "points")
    mapped = Watched(tmp_path / "points", dtype=np.float32, mode=mode, shape=x.shape)
    Watched.most = 0
    read, _ = joined(as_source(mapped), 10)
    np.testing.assert_array_equal(read.numpy(), x)
    assert Watched.most == 30
    rows, _ = as_source(mapped).take(torch.tensor([3, 500, 999]))
    np.testing.assert_array_equal(rows.numpy(), x[[3, 500, 999]])
    assert Watched.most == 30
    assert not recwarn.list


def test_arrays_and_tensors_share_their_memory_with_chunks():
    array, tensor = numbers(), torch.from_numpy(numbers())
    for x, pointer in [(array, array.ctypes.data), (tensor, tensor.data_ptr())]:
        chunk, _ = next(as_source(x).chunks(10))
        assert chunk.data_ptr() == pointer


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(">f4", torch.float32), ("f2", torch.float16), ("i4", torch.float64), ("u2", torch.float64), ("?", torch.float64)],
)
def test_dtypes_become_floating(dtype, expected):
    x = np.array([[1, 0], [1, 1]], dtype=dtype)
    chunk, _ = next(as_source(x).chunks(10))
    assert chunk.dtype == expected
    assert chunk.tolist() == [[1, 0], [1, 1]]
    reversed_rows, _ = next(as_source(numbers()[::-1]).chunks(10))
    np.testing.assert_array_equal(reversed_rows.numpy(), numbers()[::-1][:10])


def test_rows_are_taken_from_batches():
    x = numbers(150_000, 2)
    source = as_source([(x[:70_000], np.arange(70_000.0)), (x[70_000:], np.arange(70_000.0, 150_000.0))])
    indices = torch.tensor([0, 1, 69_999, 70_000, 149_999])
    rows, weight = source.take(indices)
    np.testing.assert_array_equal(rows.numpy(), x[indices])
    assert torch.equal(weight, indices.double())


def test_invalid_points_and_batches_are_refused():
    x = torch.zeros(4, 2)
    refused = [
        ((part for part in [x]), r"got a generator, which is spent after one pass: pass a list"),
        (iter([x]), "got a list_iterator"),
        (3, "Expected a tensor, an array or batches of points; got int"),
        (torch.zeros(4), r"Expected points of shape n x D; got \(4,\)"),
        (np.array([["a"]]), "Expected real numbers; got values of dtype <U1"),
        (x.to(torch.complex64), "Expected real numbers"),
        ([x, torch.zeros(4, 3)], r"same features, 2; got 3 in batch 1"),
        ([x, x.double()], r"same dtype, torch.float32; got torch.float64 in batch 1"),
        ([x, (x, torch.ones(4))], r"same weights, False; got True in batch 1"),
        ([(x, torch.ones(3))], r"Expected weights of shape \(4,\) in batch 0; got \(3,\)"),
        ([x, x[0]], r"Expected batches of shape n_i x D; got \(2,\) in batch 1"),
        ([(x, x, x)], "got 3 parts in batch 0"),
    ]
    for given, message in refused:
        with pytest.raises(ValueError, match=message):
            list(as_source(given).chunks(10))
    with pytest.raises(ValueError, match="let the batches be pairs"):
        as_source([x], torch.ones(4))
    with pytest.raises(ValueError, match=r"Expected sample_weight of shape \(4,\); got \(3,\)"):
        as_source(x, torch.ones(3))


def test_batches_that_differ_between_passes_are_refused():
    class Dry:
        def __init__(self) -> None:
            self.left = iter([torch.zeros(4, 2), torch.zeros(4, 2)])

        def __iter__(self):
            yield from self.left

    source = as_source(Dry())
    assert len(list(source.chunks(10))) == 1
    with pytest.raises(ValueError, match="Expected the same 8 rows in every pass over the batches; got 0"):
        list(source.chunks(10))


def kinds(x, path):
    """The same rows as an array, a tensor, a mapped file that is read only, and batches."""
    np.save(path, x)
    return {
        "array": as_source(x),
        "tensor": as_source(torch.from_numpy(x)),
        "mapped": as_source(x, check=lambda _: np.asarray(np.load(path, mmap_mode="r"))),
        "batches": as_source(Reader(x, 7)),
    }


@pytest.mark.parametrize("kind", ["array", "tensor", "mapped", "batches"])
def test_rows_in_another_dtype_keep_their_order_and_kind(tmp_path, kind):
    x = numbers()
    source = kinds(x, tmp_path / "x.npy")[kind]
    moved = source.to(torch.device("cpu"), torch.float32)
    read, _ = joined(moved, 40)
    assert read.dtype == torch.float32
    np.testing.assert_array_equal(read.numpy(), x.astype(np.float32))
    np.testing.assert_array_equal(moved.take(torch.tensor([3, 99]))[0].numpy(), x[[3, 99]].astype(np.float32))
    assert len(moved) == len(source) == 100
    assert isinstance(moved.like, torch.Tensor) == isinstance(source.like, torch.Tensor) == (kind == "tensor")
    assert moved.at_once == source.at_once == (kind != "batches")
    assert moved.ordered


def test_all_rows_are_one_tensor_unless_they_come_in_batches(tmp_path):
    x = numbers()
    for kind, source in kinds(x, tmp_path / "x.npy").items():
        for same in (source, source.to(dtype=torch.float64)):
            if kind == "batches":
                with pytest.raises(ValueError, match=r"Expected an array or a tensor with all rows; got batches: pass"):
                    same.tensor("all rows")
                continue
            assert torch.equal(same.tensor()[0], torch.from_numpy(x))
    weights = as_source(x, np.arange(100)).tensor()[1]
    assert torch.equal(weights, torch.arange(100.0).double())


def test_a_large_mapped_file_is_never_copied_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("latentmix.inference.mixtures.points.sources._MOST_BYTES", 100)
    source = kinds(numbers(), tmp_path / "x.npy")["mapped"]
    assert source.by_columns() is source


def test_columns_are_a_copy_of_the_user_s_rows(tmp_path):
    x = numbers()
    for source in kinds(x, tmp_path / "x.npy").values():
        columns = source.by_columns()
        if columns is not source:
            next(columns.chunks(10))[0].fill_(0.0)
        np.testing.assert_array_equal(joined(source, 40)[0].numpy(), numbers())
