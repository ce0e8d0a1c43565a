"""Pictures: cut, empty, of other kinds, of odd sizes and modes, and what is no file."""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.verify.fuzz.mutations import mutated_bytes

__all__ = ["picture"]

FORMATS = {"png": "PNG", "jpg": "JPEG", "gif": "GIF", "bmp": "BMP", "webp": "WEBP", "tif": "TIFF", "ppm": "PPM"}
MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "I", "F", "I;16", "LA", "YCbCr")


def picture(folder: Path, seed: int, run: Path) -> list[str]:
    """Write a broken or an odd picture, and give the words of a command that reads it.

    Args:
        folder: An empty folder.
        seed: Seed of all draws.
        run: The folder of a finished run on images.
    """
    draws = random.Random(seed)
    images = folder / "images"
    images.mkdir()
    suffix = draws.choice(list(FORMATS))
    file = images / f"some.{suffix}"
    kind = seed % 10
    if kind == 0:
        _special(images / "some.png", seed // 10 % 6)
        file = images / "some.png"
    elif kind == 1:
        side = draws.choice([9_000, 12_000, 40_000, 2**31 - 1])
        file = images / "some.png"
        file.write_bytes(_bomb(side, draws.choice([1, side])))
    elif kind == 2:
        mode = draws.choice(MODES)
        file = images / "some.tif" if mode in ("F", "CMYK", "YCbCr") else images / "some.png"
        Image.new(mode, (draws.choice([1, 9, 300]), 9)).save(file)
    elif kind == 3:
        frames = [Image.new("P", (20, 20), index) for index in range(5)]
        frames[0].save(images / "some.gif", save_all=True, append_images=frames[1:])
        file = images / "some.gif"
        file.write_bytes(mutated_bytes(file.read_bytes(), draws))
    else:
        file.write_bytes(mutated_bytes(_encoded(FORMATS[suffix], seed), draws))
    if seed % 4 == 3:
        extra = ["--data.source", "image_folder", "--data.root", str(images), "--data.cache", str(folder / "cache")]
        return ["evaluate", str(run), *extra]
    return ["classify", str(run), str(file)]


def _encoded(kind: str, seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, kind)
    return data.getvalue()


def _bomb(width: int, height: int) -> bytes:
    """A PNG of black rows that a few bytes hold."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b"\0" * min(width * height, 10**6)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _special(path: Path, kind: int) -> None:
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        with socket.socket(socket.AF_UNIX) as listener:
            here = os.open(path.parent, os.O_RDONLY)
            listener.bind(f"/proc/self/fd/{here}/{path.name}")
            os.close(here)
    elif kind == 2:
        path.symlink_to("/dev/zero")
    elif kind == 3:
        path.mkdir()
    elif kind == 4:
        path.symlink_to(path.with_name("nowhere.png"))
    else:
        path.symlink_to(path)
