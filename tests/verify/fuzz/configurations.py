"""Configurations: the presets' own, mutated as values and as bytes."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import yaml

from latentmix.experiments.presets import preset_path

from tests.verify.fuzz.mutations import mutated_bytes, mutated_tree

__all__ = ["configuration"]

PRESETS = ("digits", "digits_mlp2", "gmm3d")
SMALL: dict[str, Any] = {
    "epochs": 1,
    "mixture": {
        "n_init": 1,
        "draws": 1,
        "max_iter": 5,
        "n_components": 3,
        "svi": {"epochs": 2},
        "posterior": {"epochs": 2},
    },
}
LONG = {"epochs", "points", "max_iter", "n_init", "draws", "patience", "warmup", "chains", "samples"}
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
NUMBERS = [0, 1, 2, -1, 0.5, 1e-30, 1e30, float("nan"), float("inf"), 10**30]
OPTIONS: dict[str, list[Any]] = {
    "latent_dim": [1, 3, 100, 10**9],
    "batch_size": [20, 10**6],
    "beta": [0.0, 4.0],
    "warmup": [1, 3],
    "free_bits": [0.1, 0.0],
    "patience": [1],
    "seed": [5, 2**31],
    "device": ["cpu", "cuda:7", "tpu", "meta"],
    "drop_last": [True],
    "precision": ["bf16-mixed", "16"],
    "compile": ["auto", "often"],
    "clip_norm": [0, -1.0, 5.0, "inf"],
    "max_skipped": [-1, 0],
    "schedule_steps": [True],
    "start_prior": [1, 2],
    "init_from": ["/dev/null", "/", "nowhere", "."],
    "max_gib": [1e-6, 1.0],
    "objective": ["Trace_ELBO", "TraceEnum_ELBO", "RenyiELBO", "ELBO", "TraceGraph_ELBO"],
    "optimizer": ["Adam", "SGD", "LBFGS", "SparseAdam", "torch.optim.Adam"],
    "scheduler": ["ExponentialLR", "StepLR", "ReduceLROnPlateau"],
    "optimizer.init_args.lr": [0.1, 100.0],
    "prior.class_path": ["latentmix.models.MixturePrior", "latentmix.models.VampPrior", "latentmix.models.Bernoulli"],
    "prior.init_args.n_components": [2, 10**9],
    "likelihood.class_path": ["latentmix.models.Gaussian", "latentmix.models.Laplace", "os.path.join"],
    "encoder.init_args.hidden": [[], [3], [10**9], [-1], [2] * 300, [3.5]],
    "decoder.init_args.hidden": [[], [3], [10**9], [-1]],
    "data.source": ["mnist", "nowhere.npz", "celeba", "image_folder", "/dev/zero.npy", "gmm3d", "natural_patches"],
    "data.classes": [[1, 4], [77], [], [1, 1]],
    "data.seed": [3, -3],
    "data.labels_per_class": [1, 10**6],
    "data.binarize": ["static", "none", "often"],
    "data.size": [16, 10**6],
    "data.points": [50, 10**12, 5],
    "data.max_gib": [1e-9],
    "data.max_pixels": [1],
    "measure.samples": [2],
    "measure.images": [3],
    "mixture.n_components": [1, 7, 1000],
    "mixture.covariance_type": ["tied", "diag", "spherical", "odd"],
    "mixture.latents": ["sample", "median"],
    "mixture.reg_covar": [0.0, 1e3],
    "mixture.tol": [0.0],
    "mixture.svi_start": ["em"],
    "mixture.svi.guide": ["AutoNormal", "AutoDelta", "AutoGuide"],
    "mixture.svi.optimizer": ["Adam", "SGD"],
    "mixture.svi.batch_size": [1, 10, 10**6],
    "mixture.nuts.draws": [-1],
}
WHOLE = [
    b"",
    b"[]",
    b"3",
    b"text",
    b"null",
    b"\xff\xfe\x00\x01",
    b"[" * 50_000,
    b"{a: " * 2000,
    b"- " * 5000,
    b"? [1, 2]\n: 3\n",
    b"1: 2\n",
    b"null: 2\n",
    b"epochs: 3\nepochs: 4\n",
    b"epochs: !!python/object/apply:os.system ['true']\n",
    b"epochs: !!binary aGVsbG8=\n",
    b"--- 1\n--- 2\n",
    b"a: &a [*a]\n",
    b"a: &a\n  b: *a\n",
    b"<<: 3\n",
    b"\tepochs: 3\n",
    b"%YAML 9.9\n---\na: 1\n",
    b"epochs: " + b"9" * 6000,
    b"description: '" + b"x" * 200_000 + b"'\n",
    b"description: 2024-99-99\n",
    BOMB.encode(),
    b"encoder: {class_path: latentmix.guides.MLPEncoder, init_args: {hidden: [1000000000]}}\n",
]


def configuration(folder: Path, seed: int) -> list[str]:
    """Write a broken configuration, and give the words of a command that reads it.

    Args:
        folder: An empty folder.
        seed: Seed of all draws.
    """
    draws = random.Random(seed)
    preset = draws.choice(PRESETS)
    values: dict[str, Any] = {**yaml.safe_load(preset_path(preset).read_text()), **SMALL}
    values["data"] = {
        **values["data"],
        **({"points": 100} if preset == "gmm3d" else {"limit": 120, "labels_per_class": 2}),
    }
    file = folder / "options.yaml"
    words = ["run", str(file), "--out", str(folder / "run")]
    way = seed % 6
    if way == 0:
        content = WHOLE[seed // 6 % len(WHOLE)]
        if content.startswith(b"encoder:"):
            rest = {name: value for name, value in values.items() if name != "encoder"}
            content += yaml.safe_dump(rest).encode()
        file.write_bytes(content)
        return words
    if way == 1:
        file.write_bytes(mutated_bytes(yaml.safe_dump(values).encode(), draws))
        return words
    changed = mutated_tree(values, draws) if way < 4 else _other_options(values, draws)
    _shorten(changed)
    file.write_bytes(yaml.dump(changed, allow_unicode=draws.random() < 0.5).encode("utf-8", "surrogatepass"))
    return words


def _other_options(values: dict[str, Any], draws: random.Random) -> dict[str, Any]:
    """The values with one to three options at numbers and words of the right kind, in range or out of it."""
    changed = copy.deepcopy(values)
    for _ in range(draws.choice([1, 1, 2, 3])):
        name = draws.choice(list(OPTIONS))
        *path, last = name.split(".")
        inner = changed
        for key in path:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                break
        else:
            inner[last] = draws.choice([*OPTIONS[name], *OPTIONS[name], *NUMBERS])
    return changed


def _shorten(tree: Any) -> None:
    """Replace counts that are valid, and take hours."""
    items = list(tree.items()) if isinstance(tree, dict) else []
    for name, value in items:
        if name in LONG and isinstance(value, int) and value > 1000:
            tree[name] = 2
        _shorten(value)
