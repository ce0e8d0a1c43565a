"""The JSON file of a benchmark, which holds what has been measured so far."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

__all__ = ["Record"]


@final
class Record:
    """A block with a new JSON file, replaced in one step after each comparison.

    The file is an object: `finished`, which is true once the block has ended without an error; what is known at the
    beginning; and a list of comparisons for each kind. Numbers that are not finite are `null`. A block that ends before
    its first comparison leaves no file.

    Args:
        path: The file; `None` for none.
        beginning: What is known at the beginning, such as the machine.
        kinds: Names of the lists.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from latentmix.experiments.benchmarks.record import Record
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "speed.json"
        ...     with Record(path, {}, "em") as record:
        ...         record.add("em", {"seconds": 0.5})
        ...         before = '"finished": false' in path.read_text()
        ...     before, '"finished": true' in path.read_text()
        (True, True)
    """

    def __init__(self, path: Path | None, beginning: dict[str, Any], *kinds: str) -> None:
        self.path = path
        self._figures = {"finished": False, **beginning, **{kind: [] for kind in kinds}}
        self._count = 0

    def __enter__(self) -> Self:
        """Make the file.

        Raises:
            FileExistsError: If there is one.
        """
        if self.path is not None:
            self.path.touch(exist_ok=False)
            try:
                self._write()
            except BaseException:
                self.path.unlink(missing_ok=True)
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Finish the file.

        Raises:
            KeyboardInterrupt: Another, whose message names the file, where comparisons were interrupted.
        """
        if self.path is None:
            return
        if error is None:
            self._figures["finished"] = True
            self._write()
        elif not self._count:
            self.path.unlink(missing_ok=True)
        elif isinstance(error, KeyboardInterrupt):
            from latentmix.models.words import plural

            raise KeyboardInterrupt(f"; {self.path} has the {plural(self._count, 'comparison')} so far") from error

    def add(self, kind: str, comparison: dict[str, Any]) -> None:
        """Add a comparison to the list of that kind, and replace the file.

        Raises:
            OSError: If it cannot be written; the earlier one is left whole.
        """
        self._figures[kind].append(comparison)
        self._count += 1
        self._write()

    def _write(self) -> None:
        from latentmix.models.files import write_atomically  # imports torch

        if self.path is not None:
            write_atomically(self.path, json.dumps(_finite(self._figures), indent=1, allow_nan=False).encode())


def _finite(value: Any) -> Any:
    """A JSON value with `None` for numbers that are not finite."""
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
