"""Data sets of images or points: their splits, their label budgets, and pixels as a likelihood wants them."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, final

import torch
from torch import Tensor

from latentmix.experiments.data.folders import load_celeba, load_image_folder
from latentmix.experiments.data.sources import TORCHVISION, load_digits, load_file, load_patches, load_torchvision
from latentmix.experiments.data.splits import held_out_fifth, shortened
from latentmix.experiments.data.synthetic import gmm3d, three_dimensional_mixture
from latentmix.models import Likelihood, MixtureParameters

Binarization = Literal["none", "static", "dynamic"]

SOURCES = ("digits", *TORCHVISION, "celeba", "image_folder", "natural_patches", "gmm3d")
ROOTED = (*TORCHVISION, "celeba", "image_folder")
SIZES = {"celeba": 64, "image_folder": 64, "natural_patches": 32}
APPLIES: dict[str, Collection[str]] = {
    "size": SIZES,
    "attribute": ("celeba",),
    "cache": ("celeba", "image_folder"),
    "max_corrupt": ("celeba", "image_folder"),
    "points": ("gmm3d",),
}
CONVERT = "convert them to a torch tensor of uint8 in 0..255, or of floats in [0, 1]"


@final
@dataclass(frozen=True)
class Split:
    """Data and their labels.

    Args:
        x: An `N x C x H x W` uint8 tensor of images, or an `N x D` float32 tensor of points.
        labels: N int64 labels, as the data set names them; `None` where it has none.
        attributes: An `N x A` boolean tensor of named attributes; `None` where there are none.
    """

    x: Tensor
    labels: Tensor | None = None
    attributes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device | str) -> Split:
        """The same split on another device."""
        return self._map(lambda part: part.to(device))

    def take(self, rows: Tensor) -> Split:
        """The data of these rows: a copy."""
        return self._map(lambda part: part[rows])

    def first(self, count: int) -> Split:
        """The data of the first rows: a view, which loads no memory-mapped image."""
        return self._map(lambda part: part[:count])

    def _map(self, change: Callable[[Tensor], Tensor]) -> Split:
        parts = (None if part is None else change(part) for part in (self.labels, self.attributes))
        return Split(change(self.x), *parts)


@final
@dataclass(frozen=True)
class Dataset:
    """A loaded data set.

    Args:
        name: The source it was loaded from.
        train: What models are fitted to.
        validation: What choices are made on.
        test: What figures are reported on.
        classes: The labels that occur in any split, ascending; empty where the data set has no labels.
        attributes: Names of the columns of `Split.attributes`; empty where there are none.
        truth: The mixture that the data were drawn from, where they were.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[int, ...] = ()
    attributes: tuple[str, ...] = ()
    truth: MixtureParameters | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one datum: channels, height and width of an image, or the length of a point."""
        return tuple(self.train.x.shape[1:])

    @property
    def pictorial(self) -> bool:
        """Whether the data are images."""
        return len(self.shape) == 3

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name: `train`, `validation`, `test`."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def to(self, device: torch.device | str) -> Dataset:
        """The same data on another device; images as uint8, so that MNIST's training split moves as 38 MB."""
        train, validation, test = (split.to(device) for split in self.splits.values())
        return replace(self, train=train, validation=validation, test=test)


@dataclass(frozen=True)
class Data:
    """Which data an experiment runs on; `load` reads and splits them.

    | source | data | splits |
    |---|---|---|
    | `digits` | scikit-learn's digits, 1 x 28 x 28 | 64/16/20 |
    | `mnist`, `fashion_mnist`, `kmnist` | 1 x 28 x 28 | official test images, the others 80/20 |
    | path of a `.npz` or `.npy` file | its images | 64/16/20 |
    | `celeba` | faces in CelebA's own layout in `root`, in colour | official |
    | `image_folder` | every image below `root`, in colour; several sub-folders are classes | 64/16/20 |
    | `natural_patches` | patches of scikit-learn's two photographs, in colour; labels: which | apart in space |
    | `gmm3d` | points of a known mixture of ten Gaussians in three dimensions; labels: components | 64/16/20 |

    Shares are drawn from `seed` and stratified by class. Of a class of fewer than seven data, how many a split has does
    not depend on the seed, and at least one is for training; so data are refused for every seed, or for none. Images of
    `celeba` stay in a memory-mapped file until they are used; those of `image_folder` are read into memory, since a
    drawn split has its own order.

    Args:
        source: `digits`, `mnist`, `fashion_mnist`, `kmnist`, `celeba`, `image_folder`, `natural_patches`, `gmm3d`, or
            the path of a `.npz` or `.npy` file.
        root: The folder that holds `MNIST/raw` and its like, or `celeba`; by default the environment variable
            LATENTMIX_DATA. For `image_folder`, the folder of images.
        download: Fetch what is missing of MNIST and its like into `root`.
        classes: Keep the data of these classes alone, under their own labels.
        labels_per_class: How many training data per class have a label in the `few` budget.
        binarize: How grey pixels become binary: `dynamic` draws them anew for every batch, `static` once;
            `auto` is `dynamic` for a likelihood of binary data and `none` for any other.
        seed: The seed of the splits, of the points of `gmm3d`, and of the draws of labelled data.
        limit: Keep at most this many data of each split, for a quick trial: the first ones, or those of each class in
            proportion where a class has fewer than seven.
        size: The side of the images of `celeba` and `image_folder` (by default 64 pixels), or of `natural_patches`
            (32).
        attribute: The attribute of `celeba` whose values, 0 and 1, are the labels, such as `Male`; by default there
            are no labels.
        cache: The folder that decoded images of `celeba` and `image_folder` are kept in; by default LATENTMIX_CACHE,
            or else `~/.cache/latentmix`.
        max_corrupt: How many files of `celeba` and `image_folder` may be unreadable; they are named and left out.
        points: How many points of `gmm3d` are drawn.

    Example:
        >>> from latentmix.experiments.data.datasets import Data
        >>> Data("gmm3d", points=500).load().shape
        (3,)
    """

    source: str = "digits"
    root: str | None = None
    download: bool = False
    classes: list[int] | None = None
    labels_per_class: int = 5
    binarize: Literal["auto", "none", "static", "dynamic"] = "auto"
    seed: int = 0
    limit: int | None = None
    size: int | None = None
    attribute: str | None = None
    cache: str | None = None
    max_corrupt: int = 10
    points: int = 10_000

    def load(self) -> Dataset:
        """Reads the data, filters their classes and splits them; no global random state is touched.

        Raises:
            ValueError: On an unknown source, an option that is for other sources, files that are missing or hold
                something else, a class that is not there, or fewer training data of a class than `labels_per_class`.
        """
        self._check_options()
        splits, attributes = self._read()
        if self.classes is not None:
            splits = self._filter(splits, self.classes)
        if len(splits) == 1:
            splits = self._divide(splits[0])
        if len(splits) == 2:
            splits = [*self._divide(splits[0]), splits[1]]
        if self.limit is not None:
            splits = [self._shorten(split, self.limit) for split in splits]
        train, validation, test = splits
        classes: tuple[int, ...] = ()
        if train.labels is not None:
            every = [split.labels for split in splits if split.labels is not None]
            classes = tuple(torch.cat(every).unique().tolist())
            _check_budget(train.labels, classes, self.labels_per_class)
        truth = three_dimensional_mixture(self.classes) if self.source == "gmm3d" else None
        return Dataset(self.source, train, validation, test, classes, attributes, truth)

    def _check_options(self) -> None:
        for name, least in (("labels_per_class", 1), ("limit", 1), ("size", 1), ("max_corrupt", 0), ("points", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"Expected {name} >= {least}; got {value}.")
        for field in fields(self):
            sources = APPLIES.get(field.name, (self.source,))
            value = getattr(self, field.name)
            if value != field.default and self.source not in sources:
                raise ValueError(
                    f"Expected {field.name} with the source {' or '.join(sources)} alone; got {value!r} with "
                    f"{self.source!r}."
                )
        if self.source == "gmm3d" and self.binarize in ("static", "dynamic"):
            raise ValueError(f"Expected binarize auto or none for the points of gmm3d; got {self.binarize}.")

    def _read(self) -> tuple[list[Split], tuple[str, ...]]:
        """All data, or training and test data, or the three splits; and the names of the attributes."""
        root = self.root or os.environ.get("LATENTMIX_DATA") or None
        size = self.size or SIZES.get(self.source, 0)
        match self.source:
            case "digits":
                return [Split(*load_digits())], ()
            case name if name in TORCHVISION:
                parts = [load_torchvision(name, root, train=train, download=self.download) for train in (True, False)]
                return [Split(*part) for part in parts], ()
            case "celeba":
                faces, attributes = load_celeba(
                    root, size=size, attribute=self.attribute, cache=self.cache, max_corrupt=self.max_corrupt
                )
                return [Split(*part) for part in faces], attributes
            case "image_folder":
                images = load_image_folder(self.root, size=size, cache=self.cache, max_corrupt=self.max_corrupt)
                return [Split(*images)], ()
            case "natural_patches":
                return [Split(*part) for part in load_patches(size, self.seed)], ()
            case "gmm3d":
                return [Split(*gmm3d(self.points, self.seed))], ()
            case path if path.endswith((".npz", ".npy")):
                return [Split(*load_file(path))], ()
        raise ValueError(
            f"Expected source to be one of {', '.join(SOURCES)}, or the path of a .npz or .npy file; got "
            f"{self.source!r}."
        )

    def _filter(self, splits: Sequence[Split], classes: Sequence[int]) -> list[Split]:
        labels = [split.labels for split in splits if split.labels is not None]
        if not labels:
            remedy = ": name an attribute by --data.attribute" if self.source == "celeba" else ""
            raise ValueError(f"Expected labels in {self.source!r} to choose classes by; got images alone{remedy}.")
        present = torch.cat(labels).unique().tolist()
        absent = sorted(set(classes) - set(present))
        if absent or not classes:
            got = _listed(absent) or "none"
            raise ValueError(f"Expected classes of {self.source!r}, which has {_listed(present)}; got {got}.")
        rows = [torch.isin(of_split, torch.tensor(classes)).nonzero().squeeze(1) for of_split in labels]
        if not all(map(len, rows)):
            raise ValueError(
                f"Expected the classes {_listed(classes)} in every split of {self.source!r}; got one without."
            )
        return [split.take(of_split) for split, of_split in zip(splits, rows, strict=True)]

    def _divide(self, split: Split) -> list[Split]:
        """Four fifths, and one fifth."""
        if len(split) < 4:
            raise ValueError(f"Expected 5 images or more in {self.source!r} to split; got too few.")
        parts = held_out_fifth(split.labels, len(split), self.seed)
        if not len(parts[1]):
            raise ValueError(
                f"Expected three images or more of a class in {self.source!r}, one for each split; got fewer."
            )
        return [split.take(torch.from_numpy(part)) for part in parts]

    def _shorten(self, split: Split, limit: int) -> Split:
        rows = shortened(split.labels, len(split), limit, self.seed)
        return split.first(limit) if rows is None else split.take(torch.from_numpy(rows))


def draw_labelled(labels: Tensor, classes: Sequence[int], per_class: int, seed: int) -> Tensor:
    """Draws the images that have a label under a budget: the same number of every class.

    Args:
        labels: N int64 labels of the training split.
        classes: The classes to draw from.
        per_class: How many images to draw of each.
        seed: The seed of the draw; the global random state is not touched.

    Returns:
        A `len(classes) * per_class` int64 tensor of rows, class by class, without repetition.

    Raises:
        ValueError: Where a class has fewer than `per_class` images.
    """
    _check_budget(labels, classes, per_class)
    generator = torch.Generator().manual_seed(seed)
    draws = []
    for label in classes:
        rows = (labels.cpu() == label).nonzero().squeeze(1)
        draws.append(rows[torch.randperm(len(rows), generator=generator)[:per_class]])
    return torch.cat(draws)


def resolve_binarize(binarize: Literal["auto", "none", "static", "dynamic"], likelihood: Likelihood) -> Binarization:
    """What `auto` means for a likelihood: `dynamic` where its `support` is `"binary"`, `none` otherwise.

    Raises:
        ValueError: If images are to become binary for a likelihood of other data.
    """
    if binarize in ("static", "dynamic") and likelihood.support != "binary":
        raise ValueError(
            f"Expected --data.binarize none (or auto) for {type(likelihood).__name__}, whose data are not binary; got "
            f"{binarize}."
        )
    if binarize == "auto":
        return "dynamic" if likelihood.support == "binary" else "none"
    return binarize


def binarize_static(images: Tensor, seed: int) -> Tensor:
    """One draw of binary images, for good.

    Args:
        images: An `N x C x H x W` tensor of grey images, uint8 or boolean.
        seed: The seed of the draw; the global random state is not touched.

    Returns:
        A uint8 tensor of the same shape: 255 with probability `images / 255`, else 0; 255 where a boolean is True.

    Raises:
        ValueError: If the images are of another type.
    """
    if images.dtype == torch.bool:
        return images.to(torch.uint8) * 255
    if images.dtype != torch.uint8:
        raise ValueError(f"Expected uint8 or boolean images; got {images.dtype}: {CONVERT}.")
    generator = torch.Generator(images.device).manual_seed(seed)
    draw = torch.randint(0, 255, images.shape, dtype=torch.uint8, device=images.device, generator=generator)
    return (draw < images).to(torch.uint8) * 255


@final
@dataclass(frozen=True)
class ToFloat:
    """Maps a batch of any shape to floats in [0, 1]: bytes are divided by 255, and True is 1; floats stay as they are.

    Raises:
        ValueError: On integers other than bytes, whose range is unknown.
    """

    def __call__(self, batch: Tensor) -> Tensor:
        """Returns the batch as floats: float32 for bytes and booleans."""
        if isinstance(batch, Tensor):
            if batch.is_floating_point():
                return batch
            if batch.dtype == torch.bool:
                return batch.to(torch.float32)
            if batch.dtype == torch.uint8:
                return batch.to(torch.float32) / 255.0
        kind = getattr(batch, "dtype", type(batch).__name__)
        raise ValueError(f"Expected a tensor of uint8, booleans or floats; got {kind}: {CONVERT}.")


@final
@dataclass(frozen=True)
class DynamicBinarization:
    """Maps a batch of any shape to float32 zeros and ones, drawn anew at every call; floats stay as they are.

    A pixel is 1 with probability `batch / 255` for bytes, and where a boolean is True, from torch's global random state
    (Salakhutdinov and Murray, 2008, "On the quantitative analysis of deep belief networks",
    https://doi.org/10.1145/1390156.1390266).

    Raises:
        ValueError: As `ToFloat` does.
    """

    def __call__(self, batch: Tensor) -> Tensor:
        """Returns one draw of the batch."""
        rates = ToFloat()(batch)
        return torch.bernoulli(rates) if batch.dtype == torch.uint8 else rates


def batch_transform(binarize: Binarization) -> ToFloat | DynamicBinarization:
    """What a training loop applies to every batch; `binarize_static` draws `static` images before."""
    return DynamicBinarization() if binarize == "dynamic" else ToFloat()


def _check_budget(labels: Tensor, classes: Sequence[int], per_class: int) -> None:
    for label in classes:
        count = int((labels == label).sum())
        if count < per_class:
            raise ValueError(f"Expected {per_class} or more training images of class {label} to label; got {count}.")


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))
