"""A small folder in CelebA's own layout, made of real JPEG files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latentmix.experiments.data.base import Dataset
from latentmix.experiments.data.datasets import Data
from latentmix.experiments.reading.pictures import decode

HEADER = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair
Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones
Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie
Young"""
ATTRIBUTES = HEADER.split()
NAMES = [f"{number:06d}.jpg" for number in range(1, 41)]


def make_celeba(root: Path, n: int = 40, seed: int = 0) -> Path:
    """Write `root/celeba` in the layout of CelebA: n JPEG files of 178 x 218 pixels, 40 attributes, the partition.

    The images are crops of scikit-learn's photographs, those of the flower are `Male`, and `Blond_Hair` is where a crop
    is brighter than the median; other attributes are random. Of every five images three are for training, one for
    validation and one for testing: interleaved, unlike CelebA's own, so that a mistaken order shows.

    Returns:
        The folder `root/celeba`.
    """
    from sklearn.datasets import load_sample_images

    folder, photographs = Path(root) / "celeba", load_sample_images().images
    (folder / "img_align_celeba").mkdir(parents=True)
    random = np.random.default_rng(seed)
    names = [f"{number:06d}.jpg" for number in range(1, n + 1)]
    which = np.arange(n) // 2 % 2
    values = random.choice([-1, 1], (n, len(ATTRIBUTES)))
    brightness = np.empty(n)
    for row, name in enumerate(names):
        top, left = random.integers(427 - 218), random.integers(640 - 178)
        crop = photographs[which[row]][top : top + 218, left : left + 178]
        brightness[row] = crop.mean()
        Image.fromarray(crop).save(folder / "img_align_celeba" / name, quality=90)
    values[:, ATTRIBUTES.index("Male")] = 2 * which - 1
    values[:, ATTRIBUTES.index("Blond_Hair")] = np.where(brightness > np.median(brightness), 1, -1)
    lines = [f"{name} {' '.join(f'{value:2d}' for value in row)}" for name, row in zip(names, values, strict=True)]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(n), " ".join(ATTRIBUTES) + " ", *lines, ""]))
    parts = [f"{name} {(0, 0, 0, 1, 2)[row % 5]}" for row, name in enumerate(names)]
    (folder / "list_eval_partition.txt").write_text("\n".join([*parts, ""]))
    return folder


def part(rows: tuple[int, ...]) -> list[str]:
    """Names of the forty images at these positions of every five: (3,) are for validation, (4,) for testing."""
    return [name for row, name in enumerate(NAMES) if row % 5 in rows]


def expected(root: Path, names: list[str], size: int = 64) -> Tensor:
    """The images of these names, decoded one by one."""
    return torch.stack([torch.tensor(decode(root / "celeba/img_align_celeba" / name, size)) for name in names])


def load(root: Path, **options: object) -> Dataset:
    """The faces of a root folder."""
    return Data("celeba", root=str(root), labels_per_class=1, **options).load()  # type: ignore[arg-type]


def mapped(x: Tensor) -> bool:
    """Whether a tensor's memory is a memory-mapped file."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [(line[0].split("-"), line[-1]) for line in lines]
    return any(
        int(start, 16) <= x.data_ptr() < int(end, 16) and name.endswith("pixels.bin") for (start, end), name in spans
    )
