"""Files of run folders and files of data, mutated as bytes, values and tensors."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.lib import format as npy
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentmix.experiments.runs.artifacts import load_tree, save_tree

from tests.verify.fuzz.mutations import ODD, deep_json, mutated_bytes, mutated_tree, places

__all__ = ["broken_file"]

OF_RUNS = (
    *("config.yaml", "summary.json", "metrics.jsonl", "checkpoints/vae.json", "checkpoints/guide.json"),
    *("checkpoints/vae.safetensors", "checkpoints/guide.safetensors", "checkpoints/mixtures.safetensors"),
    *("checkpoints/training", "checkpoints/training"),
)


def broken_file(folder: Path, seed: int, run: Path) -> list[str]:
    """Write a broken file, and give the words of a command that reads it.

    Args:
        folder: An empty folder.
        seed: Seed of all draws.
        run: The folder of a finished run on images.
    """
    draws = random.Random(seed)
    if seed % 3 == 0:
        return _of_data(folder, draws, seed // 3, run)
    name = OF_RUNS[seed % len(OF_RUNS)]
    copied = folder / "run"
    shutil.copytree(run, copied)
    file = copied / name
    if name.endswith("training"):
        file, *others = sorted(file.parent.glob("training*.safetensors"))
        for other in others:  # an earlier generation, which would be taken instead
            other.unlink()
    _spoil(file, draws)
    if name.endswith("training"):
        (copied / "summary.json").unlink()
        return ["resume", str(copied)]
    if name == "metrics.jsonl":
        return ["report", str(copied)]
    if name == "summary.json" and draws.random() < 0.5:
        return ["report", str(copied)]
    if name.startswith("checkpoints/vae") and draws.random() < 0.3:
        return ["sample", str(copied), "-n", "3", "--out", str(folder / "samples.npy")]
    if name == "config.yaml" and draws.random() < 0.5:
        return ["evaluate", str(copied)]
    return ["classify", str(copied), str(_images(folder))]


def _images(folder: Path) -> Path:
    np.save(folder / "images.npy", np.zeros((3, 28, 28), bool))
    return folder / "images.npy"


def _spoil(file: Path, draws: random.Random) -> None:
    if draws.random() < 0.05:
        file.unlink()
        if draws.random() < 0.5:
            os.mkfifo(file)
        return
    if draws.random() < 0.3:
        file.write_bytes(mutated_bytes(file.read_bytes(), draws))
    elif file.suffix == ".json":
        file.write_bytes(deep_json(json.loads(file.read_text()), draws))
    elif file.suffix == ".jsonl":
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_bytes(b"\n".join(deep_json(line, draws) for line in lines))
    elif file.suffix == ".yaml":
        tree = mutated_tree(yaml.safe_load(file.read_text()), draws)
        file.write_text(yaml.dump(tree), errors="replace")
    elif file.stem.startswith(("mixtures", "training")):
        path = file.with_suffix("")
        tree = load_tree(path)
        for _ in range(draws.choice([1, 1, 2])):
            _spoil_tree(tree, draws)
        file.unlink()
        save_tree(path, _plain(tree))
    else:
        tensors = load_file(file)
        name = draws.choice(sorted(tensors))
        spoilt = _spoilt(tensors.pop(name), draws)
        if spoilt is not None:
            tensors[draws.choice([name, name, name, "unknown"])] = spoilt
        save_file(tensors, file)


def _spoil_tree(tree: Any, draws: random.Random) -> None:
    *path, last = draws.choice(places(tree))
    parent = tree
    for key in path:
        parent = parent[key]
    value = parent[last]
    if draws.random() < 0.15:
        del parent[last]
    elif isinstance(value, Tensor) and draws.random() < 0.8:
        parent[last] = _spoilt(value, draws)
    else:
        odd: list[Callable[[], Any]] = [*ODD, lambda: 10**11, lambda: torch.zeros(3)]
        parent[last] = draws.choice(odd)()


def _spoilt(tensor: Tensor, draws: random.Random) -> Tensor | None:
    """A tensor with NaN or infinity, of another dtype or shape, or none."""
    tensor = tensor.clone()
    if tensor.is_floating_point() and tensor.numel() and draws.random() < 0.4:
        tensor.view(-1)[draws.randrange(tensor.numel())] = draws.choice([float("nan"), float("inf"), -1e30, -5.0])
        return tensor
    return draws.choice(
        [
            None,
            tensor.to(draws.choice([torch.float16, torch.int64, torch.bool, torch.bfloat16, torch.float64])),
            torch.zeros(*tensor.shape, 2),
            tensor.reshape(-1)[:-1].clone(),
            torch.zeros(0),
            tensor.unsqueeze(0).clone(),
        ]
    )


def _plain(tree: Any) -> Any:
    """A tree that JSON can hold."""
    if isinstance(tree, dict):
        return {_plain(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(value) for value in tree]
    return tree if tree is None or isinstance(tree, Tensor | int | float | str | bool) else str(tree)


def _of_data(folder: Path, draws: random.Random, seed: int, run: Path) -> list[str]:
    kind = seed % 4
    settings = ["--n_components", "1..2", "--covariance_types", "diag", "--criteria", "bic", "--starts", "1"]
    settings += ["--mode_starts", "2", "--out", str(folder / "selection")]
    if kind == 0:
        file = folder / "points.csv"
        file.write_bytes(_table(draws))
        return ["select", str(file), *settings]
    file = folder / f"some.{'npy' if kind < 3 else 'npz'}"
    file.write_bytes(_npy(draws) if kind < 3 else _npz(draws))
    if kind == 1:
        return ["select", str(file), *settings]
    if seed % 8 < 4:
        return ["classify", str(run), str(file)]
    return ["evaluate", str(run), "--data.source", str(file)]


def _table(draws: random.Random) -> bytes:
    rows = [[f"{draws.gauss(0, 1):.3f}" for _ in range(2)] for _ in range(30)]
    good = "x,y\n" + "\n".join(",".join(row) for row in rows) + "\n"
    odd = [
        b"",
        b"\n\n",
        b"x,y\n",
        b"x\n1\n2\n3\n4\n",
        b"1,2\n3\n4,5\n6,7\n",
        b"1,nan\n3,4\n5,6\n7,8\n",
        b'"1,2\n3,4\n',
        b"1;2\n3;4\n5;6\n7;8\n",
        b"a,b\nc,d\ne,f\ng,h\n",
        b"1e999,2\n3,4\n5,6\n7,8\n",
        b"1" * 200_000,
        b"1,2\r3,4\r5,6\r7,8\r",
        b"\0" * 1000,
    ]
    return draws.choice([mutated_bytes(good.encode(), draws), mutated_bytes(good.encode(), draws), *odd])


def _npy(draws: random.Random) -> bytes:
    good = np.random.default_rng(draws.randrange(100)).random((6, 28, 28) if draws.random() < 0.5 else (30, 2))
    choices = [
        lambda: mutated_bytes(_saved(good), draws),
        lambda: mutated_bytes(_saved(good), draws),
        lambda: _claim(draws.choice([(10**11, 2), (730 * 2**27, 1), (-3, 2), (2**62, 2**62), (True, 4)])),
        lambda: _saved(np.asfortranarray(good)),
        lambda: _saved(good.astype(">f8")),
        lambda: _saved(np.array(3.0)),
        lambda: _saved(np.zeros((0, 3))),
        lambda: _saved(good.astype(complex)),
        lambda: _saved(np.zeros(9, dtype=[("x", "f8"), ("y", "i4")])),
        lambda: _saved(np.array(["a", "b", "c", "d"])),
        lambda: _saved(np.array([{"a": 1}, None], dtype=object), pickled=True),
        lambda: _saved(np.full((8, 2), np.nan)),
        lambda: _saved(np.arange(9).astype("datetime64[s]")),
        lambda: _saved(good.astype(np.float16)),
    ]
    return draws.choice(choices)()


def _npz(draws: random.Random) -> bytes:
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), np.uint8)
    arrays: dict[str, Any] = {"images": images, "labels": np.arange(30) % 3}
    data = io.BytesIO()
    kind = draws.randrange(9)
    if kind < 3:
        np.savez_compressed(data, **arrays)
        return mutated_bytes(data.getvalue(), draws)
    if kind == 3:
        np.savez(data)
    elif kind == 4:
        np.savez(data, other=images)
    elif kind == 5:
        arrays["labels"] = np.array([None] * 30, dtype=object)
        np.savez(data, **arrays)
    elif kind == 6:
        np.savez_compressed(data, images=np.zeros((draws.choice([9, 40_000]), 28, 28), np.uint8))
    elif kind == 7:
        np.savez(data, **arrays)
        packed = bytearray(data.getvalue())
        for at in (packed.find(b"PK\x03\x04") + 6, packed.find(b"PK\x01\x02") + 8):
            packed[at] |= 1  # the flag of encryption
        return bytes(packed)
    else:
        with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("images.npy", _claim((10**7, 28, 28)) + b"\0" * 10**6)
    return data.getvalue()


def _saved(array: Any, *, pickled: bool = False) -> bytes:
    data = io.BytesIO()
    np.save(data, array, allow_pickle=pickled)
    return data.getvalue()


def _claim(shape: tuple[Any, ...]) -> bytes:
    """A header without the data."""
    data = io.BytesIO()
    npy.write_array_header_1_0(data, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return data.getvalue()
