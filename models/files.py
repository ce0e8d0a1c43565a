"""Files written in one step."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write_atomically"]


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file beside its place, then move it there: an interruption leaves the earlier file whole.

    Args:
        path: The file; an earlier one is replaced.
        data: Its content.

    Raises:
        OSError: If the folder does not exist or cannot be written.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from latentmix.models.files import write_atomically
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder) / "summary.json", b"{}")
        ...     [file.name for file in Path(folder).iterdir()]
        ['summary.json']
    """
    beside = path.with_name(f".{path.name}.part")
    beside.write_bytes(data)
    os.replace(beside, path)
