"""Patches of photographs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from latentmix.experiments.data.datasets import Data
from latentmix.experiments.data.sources.natural_patches import load_patches


class TestPatches:
    def test_splits(self) -> None:
        patches = Data("natural_patches").load()
        assert [len(split) for split in patches.splits.values()] == [2574, 858, 858]
        assert patches.shape == (3, 32, 32)
        assert patches.classes == (0, 1)
        for split in patches.splits.values():
            assert split.x.dtype == torch.uint8
            assert split.x.is_contiguous()
            assert split.labels is not None
            assert split.labels.bincount().tolist() == [len(split) // 2] * 2

    @pytest.mark.parametrize("size", [32, 64, 128])
    def test_no_pixel_is_shared_between_splits(self, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """Photographs whose colours encode positions tell the origin of every patch."""
        from sklearn import datasets

        down, across = np.mgrid[:427, :640]
        places = np.stack([down // 2, across // 3, 3 * (down % 2) + across % 3], -1).astype(np.uint8)
        marked = [places, places + np.array([0, 0, 6], np.uint8)]
        monkeypatch.setattr(datasets, "load_sample_images", lambda: SimpleNamespace(images=marked))
        shares = torch.zeros(3, 2 * 427 * 640, dtype=torch.bool)
        for (patches, target), seen in zip(load_patches(size), shares, strict=True):
            high, wide, rest = patches.int().unbind(1)
            row, column, photograph = 2 * high + rest % 6 // 3, 3 * wide + rest % 3, rest // 6
            assert torch.equal(photograph, target[:, None, None].expand_as(photograph))
            assert bool((row.diff(dim=1) == 1).all())
            assert bool((column.diff(dim=2) == 1).all())
            seen[((photograph * 427 + row) * 640 + column).flatten()] = True
        assert int(shares.sum(0).max()) == 1
        assert float(shares.any(0).float().mean()) > 0.75

    def test_patches_are_cut_from_the_photographs(self) -> None:
        from sklearn.datasets import load_sample_images

        photographs = load_sample_images().images
        for patches, target in load_patches(64):
            patch = patches[0].permute(1, 2, 0).numpy()
            windows = np.lib.stride_tricks.sliding_window_view(photographs[int(target[0])][..., 0], (64, 64))
            corners = (windows[:, :, ::9, ::9] == patch[::9, ::9, 0]).all((2, 3))
            windows = [
                photographs[int(target[0])][top : top + 64, left : left + 64] for top, left in np.argwhere(corners)
            ]
            assert any(np.array_equal(window, patch) for window in windows)

    def test_the_seed_changes_only_the_order(self) -> None:
        for (first, labels), (again, same), (other, others) in zip(
            *map(load_patches, (64, 64, 64), (0, 0, 1)), strict=True
        ):
            assert torch.equal(first, again)
            assert torch.equal(labels, same)
            assert not torch.equal(labels, others)
            assert torch.equal(first.flatten(1).sum(1).sort().values, other.flatten(1).sum(1).sort().values)

    def test_one_photograph(self) -> None:
        assert len(Data("natural_patches", size=64, classes=[1]).load().train) == 648

    def test_too_large(self) -> None:
        with pytest.raises(
            ValueError, match=r"Expected patches of at most 128 pixels for natural_patches; got --data.size 129\."
        ):
            Data("natural_patches", size=129).load()
