"""Trees are the same after netCDF and zarr, with their attributes."""

from __future__ import annotations

import warnings

import pytest
import torch
import xarray as xr

from latentmix.guides import AmortizedGuide, MLPEncoder
from latentmix.inference import to_datatree
from latentmix.models import VAE, Bernoulli, MLPDecoder, StandardNormal

from tests.inference.trees.fits import POINTS, fitted


@pytest.fixture(scope="module", params=["nuts", "svi", "em", "vae"])
def tree(request):
    if request.param != "vae":
        return to_datatree(fitted(request.param, "full"), X=POINTS, draws=20, posterior_predictive=True)
    torch.manual_seed(0)
    shape = (1, 3, 4)
    vae = VAE(
        decoder=MLPDecoder(latent_dim=2, hidden=(8,), shape=shape), prior=StandardNormal(2), likelihood=Bernoulli()
    )
    guide = AmortizedGuide(encoder=MLPEncoder(latent_dim=2, hidden=(8,), shape=shape))
    return to_datatree(vae, guide=guide, data=torch.ones(5, *shape), draws=10, images=["a", "b", "c", "d", "é"])


def same(read: xr.DataTree, written: xr.DataTree) -> None:
    assert read.identical(written)
    for node in written.subtree:
        assert read[node.path].attrs.keys() == node.attrs.keys()
        for name, values in node.to_dataset(inherit=False).variables.items():
            assert read[node.path].variables[name].dtype == values.dtype, name


def test_netcdf(tree, tmp_path):
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "tree.nc") as read:
        same(read.load(), tree)


def test_zarr(tree, tmp_path):
    pytest.importorskip("zarr", reason="zarr is an extra: pip install latentmix[zarr]")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata")  # zarr's own, on its format
        warnings.filterwarnings("ignore", ".*does not have a Zarr V3 specification")
        tree.to_zarr(tmp_path / "tree.zarr")
        with xr.open_datatree(tmp_path / "tree.zarr", engine="zarr") as read:
            same(read.load(), tree)
