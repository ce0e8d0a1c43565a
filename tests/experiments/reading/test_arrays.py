"""Arrays that claim too much, are cut, encrypted, pickled or of other kinds are refused before they are allocated."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy

from latentmix.experiments.reading.arrays import read_array, read_arrays


def header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    data = io.BytesIO()
    npy.write_array_header_1_0(data, {"descr": descr, "fortran_order": False, "shape": shape})
    return data.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            header((98_000_000_000,)),
            r"Expected an array of at most 2 GiB in .*; got 730 GiB: allow more by --data",
        ),
        (header((2**62, 2**62)), "Expected an array of at most 2 GiB"),
        (header((1000, 3)), r"Expected an array of shape \(1000, 3\) .* ends after 0 of its 24,000 bytes"),
        (header((-3, 2)), r"something else \(a header of version \(1, 0\) and shape \(-3, 2\)\)"),
        (b"", "something else"),
        (b"words of no kind", r"got something else \(it does not begin as a \.npy file\)\.$"),
        (b"\x93NUMPY\x01", "something else"),
        (b"\x93NUMPY\x09\x09" + bytes(100), "something else"),
        (header((3,), "|O"), "pickled objects, which are never opened"),
        (header((3,), "<c16"), "got complex numbers"),
        (header((3,), "<U4"), "got words"),
        (header((3,), "<M8[s]"), "got dates"),
    ],
)
def test_an_array_is_refused_by_its_header(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "some.npy"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_array(file)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(12, dtype=">i4").reshape(3, 4),
        np.array(3.0),
        np.zeros((0, 3)),
        np.array([True, False]),
    ],
)
def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path, array: Any) -> None:
    np.save(tmp_path / "some.npy", array)
    np.savez_compressed(tmp_path / "some.npz", x=array)
    for read in (read_array(tmp_path / "some.npy"), read_arrays(tmp_path / "some.npz", ["x"])[0]["x"]):
        np.testing.assert_array_equal(read, array)
        assert read.dtype == array.dtype.newbyteorder("=")
        assert read.flags.writeable


def test_a_bomb_is_refused_without_being_unpacked(tmp_path: Path) -> None:
    """Of 3 MB that unpack to 3.5 GB, and of a member that claims less than it holds."""
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", header((500_000, 28, 28)) + bytes(10**6))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"at most 2 GiB in .*bomb\.npz, array 'images'; got 2\.92 GiB"):
        read_arrays(tmp_path / "bomb.npz", ["images"])
    assert tracemalloc.get_traced_memory()[1] < 10**7
    tracemalloc.stop()
    with pytest.raises(ValueError, match=r"ends after 1,000,000 of its"):
        read_arrays(tmp_path / "bomb.npz", ["images"], max_gib=3)


def test_an_encrypted_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", images=np.zeros(3))
    packed = bytearray((tmp_path / "some.npz").read_bytes())
    packed[packed.find(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "some.npz").write_bytes(packed)
    with pytest.raises(ValueError, match="got an encrypted file: decrypt it"):
        read_arrays(tmp_path / "some.npz", ["images"])


@pytest.mark.parametrize("at", [150, -40])
def test_a_corrupt_archive_is_refused(tmp_path: Path, at: int) -> None:
    np.savez_compressed(tmp_path / "some.npz", images=np.arange(1000.0))
    packed = bytearray((tmp_path / "some.npz").read_bytes())
    packed[at : at + 20] = bytes(20)
    (tmp_path / "some.npz").write_bytes(packed)
    with pytest.raises(ValueError, match=r"Expected arrays of numbers in .*some\.npz"):
        read_arrays(tmp_path / "some.npz", ["images"])


def test_other_arrays_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", other=np.zeros(3))
    assert read_arrays(tmp_path / "some.npz", ["images"]) == ({}, ["other"])
