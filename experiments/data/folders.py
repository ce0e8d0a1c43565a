"""Folders of images: the files in them, and the splits and classes that their sub-folders are."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from mimetypes import MimeTypes
from pathlib import Path
from typing import final

from latentmix.experiments.data.image_cache import some
from latentmix.models.words import plural

__all__ = ["Layout", "image_names"]

EXTENSIONS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
FORMATS = MimeTypes()  # the standard library's own table, the same on every machine
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def image_names(folder: Path) -> list[str]:
    """Names of the image files below a folder, relative to it, with forward slashes, sorted.

    Links are followed, and every folder is read once, under its own name rather than that of a link. Hidden files and
    folders are skipped; a warning names images of other formats, broken links, and links to folders that have been
    read.

    Raises:
        ValueError: If there is no such folder or no image in it, or a folder below it cannot be read.
    """
    names, skipped = list[str](), list[str]()
    read = set[str]()
    starts = [folder]  # links come after all other folders, so that these keep their own names
    for start in starts:
        for place, folders, files in os.walk(start, onerror=_refuse_unreadable):
            real = os.path.realpath(place)
            below = Path(place).relative_to(folder)
            if real in read:
                folders.clear()
                if real not in map(os.path.realpath, Path(place).parents):  # else it is a cycle, and nothing is skipped
                    skipped.append(f"{below.as_posix()} (is read already)")
                continue
            read.add(real)
            visible = sorted(name for name in folders if not name.startswith("."))
            folders[:] = [name for name in visible if not os.path.islink(os.path.join(place, name))]
            starts += [Path(place, name) for name in visible if name not in folders]
            for name in sorted(name for name in files if not name.startswith(".")):
                kind, _ = FORMATS.guess_type(name)
                if name.lower().endswith(EXTENSIONS):
                    names.append((below / name).as_posix())
                elif not os.path.exists(os.path.join(place, name)):
                    skipped.append(f"{(below / name).as_posix()} (a broken link)")
                elif kind is not None and kind.startswith("image/"):
                    skipped.append(f"{(below / name).as_posix()} ({kind})")
    if skipped:
        warnings.warn(
            f"{plural(len(skipped), 'file or link', 'files and links')} in {str(folder)!r} "
            f"{'is' if len(skipped) == 1 else 'are'} left out: {some(skipped)}.",
            stacklevel=3,
        )
    if not names:
        raise ValueError(
            f"Expected images ({', '.join(EXTENSIONS)}) in the folder {str(folder)!r} or below it; got "
            f"{'none' if folder.is_dir() else 'no such folder'}."
        )
    return sorted(names)


def _refuse_unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise ValueError(f"Expected folders that can be read; got {error.filename}: {error.strerror}.") from error


@final
@dataclass(frozen=True)
class Layout:
    """The split and the class of every image of a folder.

    Args:
        names: Names of N images, as `image_names` gives them.
        splits: `train`, `validation` or `test` for each; empty if the folder has no such sub-folders.
        classes: The class of each; empty if there are none.
    """

    names: list[str]
    splits: list[str]
    classes: list[str]

    @classmethod
    def of(cls, folder: Path, names: Sequence[str]) -> Layout:
        """Splits and classes by the sub-folders.

        `train`, `val` (or `valid`, `validation`) and `test` in a folder are splits if there is `train` and another, or
        nothing beside `train`; within them, or else within the folder, several sub-folders are classes if every image
        is in one. Warnings name images that are beside the splits, and are left out, or beside the classes.

        Raises:
            ValueError: If two sub-folders are the same split, or there is no `train` beside `val` and `test`.

        Example:
            >>> from pathlib import Path
            >>> from latentmix.experiments.data.folders import Layout
            >>> Layout.of(Path(), ["test/cat/3.png", "train/cat/1.png", "train/dog/2.png"]).splits
            ['test', 'train', 'train']
        """
        tops = list(dict.fromkeys(name.partition("/")[0] for name in names if "/" in name))
        found = {top: SPLITS[top.lower()] for top in tops if top.lower() in SPLITS}
        depth, kept, where = 0, list(names), repr(str(folder))
        if len(found) > 1 and ("train" in found.values() or len(found) == len(tops)):
            if len(set(found.values())) < len(found):
                raise ValueError(f"Expected one folder for each split in {where}; got {', '.join(found)}.")
            if "train" not in found.values():
                raise ValueError(f"Expected a folder train beside {', '.join(found)} in {where}; got none.")
            kept, depth = [name for name in names if name.partition("/")[0] in found], 1
        elif len(tops) == 1 and "train" in found.values() and all("/" in name for name in names):
            depth = 1
        if len(kept) < len(names):
            beside = sorted(set(names) - set(kept))
            warnings.warn(
                f"{len(beside):,} of {len(names):,} images {'lies' if len(beside) == 1 else 'lie'} beside the splits "
                f"{', '.join(found)} of {where}, and {'is' if len(beside) == 1 else 'are'} left out: {some(beside)}.",
                stacklevel=3,
            )
        parts = [name.split("/") for name in kept]
        classes = [part[depth] if len(part) > depth + 1 else "" for part in parts]
        stray = [name for name, group in zip(kept, classes, strict=True) if not group]
        if len({*classes} - {""}) > 1 and stray:
            warnings.warn(
                f"{len(stray):,} of {len(kept):,} images {'lies' if len(stray) == 1 else 'lie'} beside the sub-folders "
                f"of {where}, so that there are no labels: {some(stray)}. Move them into sub-folders to have these as "
                "classes.",
                stacklevel=3,
            )
        labelled = not stray and len({*classes}) > 1
        return cls(kept, [found[part[0]] for part in parts] if depth else [], classes if labelled else [])
