"""Configurations: the presets' own, mutated as values and as bytes."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import yaml

__all__ = ["configuration"]

PRESETS = ("digits", "digits_mlp2", "gmm3d")
SMALL: dict[str, Any] = {
    "epochs": 1,
    "mixture": {"n_init": 1, "draws": 1, "max_iter": 5, "n_components": 3, "svi": {"epochs": 2}},
}
LONG = {"epochs", "points", "max_iter", "n_init", "draws", "patience", "warmup", "chains", "samples"}
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
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
    from latentmix.experiments.presets import preset_path

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
        from tests.verify.fuzz.mutations import mutated_bytes

        file.write_bytes(mutated_bytes(yaml.safe_dump(values).encode(), draws))
        return words
    from tests.verify.fuzz.mutations import mutated_tree

    changed = mutated_tree(values, draws)
    _shorten(changed)
    file.write_bytes(yaml.dump(changed, allow_unicode=draws.random() < 0.5).encode("utf-8", "surrogatepass"))
    return words


def _shorten(tree: Any) -> None:
    """Replace counts that are valid, and take hours."""
    items = list(tree.items()) if isinstance(tree, dict) else []
    for name, value in items:
        if name in LONG and isinstance(value, int) and value > 1000:
            tree[name] = 2
        _shorten(value)
