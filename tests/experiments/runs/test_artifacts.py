"""Trees and weights round-trip through files, and nothing in a file is executed."""

import math
import pickle

import pytest
import torch

from latentmix.experiments.runs.artifacts import RunFolder, load_tree, save_tree
from latentmix.experiments.runs.run import load_run
from latentmix.models.pretrained import load_weights


def test_trees_round_trip(tmp_path):
    shared = torch.arange(3)
    tree = {
        "tensor": torch.randn(2, 3, dtype=torch.float64),
        1: [shared, shared, None, True, 1.5, "text"],
        "nested": {"empty": {}, "infinite": math.inf, "scalar": torch.tensor(4)},
    }
    save_tree(tmp_path / "tree", tree)
    back = load_tree(tmp_path / "tree")
    assert list(back) == ["tensor", 1, "nested"]
    torch.testing.assert_close(back["tensor"], tree["tensor"], rtol=0, atol=0)
    assert torch.equal(back[1][0], shared)
    assert back[1][2:] == tree[1][2:]
    assert back["nested"]["infinite"] == math.inf
    assert back["nested"]["scalar"].shape == ()
    assert [file.name for file in tmp_path.iterdir()] == ["tree.safetensors"]


def test_a_pickle_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("executed",))

    (tmp_path / "tree.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"Expected safetensors in .*tree.safetensors"):
        load_tree(tmp_path / "tree")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"tree.safetensors; it is not there"):
        load_tree(tmp_path / "tree")
    with pytest.raises(ValueError, match="Expected the folder of a run"):
        load_run(tmp_path)


def test_weights_that_do_not_fit_are_named_with_both_shapes():
    weights = {"weight": torch.zeros(3, 2), "bias": torch.zeros(4)}
    with pytest.raises(ValueError, match=r"Expected weights 'weight' of shape \(4, 2\); got \(3, 2\)"):
        load_weights(torch.nn.Linear(2, 4), weights)
    with pytest.raises(ValueError, match=r"Expected weights 'bias' of shape none; got \(4,\)"):
        load_weights(torch.nn.Linear(2, 3, bias=False), weights)


def test_a_folder_that_exists_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="exists already"):
        RunFolder.create(tmp_path)
    with pytest.raises(ValueError, match=r"Expected a place that can be written; got .*file is no folder"):
        RunFolder.create(tmp_path / "file" / "run")
