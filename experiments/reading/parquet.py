"""Tables of Parquet files: their metadata are checked before values are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from latentmix.experiments.reading.limits import MAX_GIB, refuse_larger
from latentmix.models.reading import one_sentence, open_regular

__all__ = ["read_parquet"]

ROWS = 1024  # read at a time: a column of few words, each given once in the file, may be far larger than its metadata


def read_parquet(path: Path, *, max_gib: float = MAX_GIB, option: str = "--data.max_gib") -> Any:
    """The table of a file, as a data frame of pandas; pyarrow reads it.

    Args:
        path: The file.
        max_gib: Most memory, in GiB.
        option: The option that raises it, for the message.

    Raises:
        ValueError: If the file cannot be read or takes more memory, or pyarrow is not installed.
    """
    try:
        import pyarrow  # type: ignore[import-not-found, import-untyped, unused-ignore]
        from pyarrow import parquet  # type: ignore[import-not-found, import-untyped, unused-ignore]
    except ImportError:
        raise ValueError(
            f"Expected pyarrow to read {str(path)!r}; got none: install it (pip install 'latentmix[parquet]'), or "
            "write the table as .csv."
        ) from None
    try:
        with open_regular(path) as file:
            stored = parquet.ParquetFile(file)
            known = stored.metadata
            packed = sum(known.row_group(index).total_byte_size for index in range(known.num_row_groups))
            refuse_larger(max(packed, 8 * known.num_rows * known.num_columns), max_gib, "a table", path, option)
            batches, size = list[Any](), 0
            for batch in stored.iter_batches(ROWS):
                size += sum(map(_size, batch.columns))
                refuse_larger(size, max_gib, "a table", path, option)
                batches.append(batch)
            return pyarrow.Table.from_batches(batches, stored.schema_arrow).to_pandas()
    except Exception as error:  # pyarrow raises exceptions of many kinds on what is no Parquet
        if isinstance(error, ValueError) and str(error).startswith("Expected"):
            raise
        raise ValueError(
            f"Expected a Parquet table in {str(path)!r}; got something else: {one_sentence(error)}."
        ) from error


def _size(column: Any) -> int:
    """Bytes of a column, with a word in every row."""
    decode = getattr(column, "dictionary_decode", None)
    return int((column if decode is None else decode()).nbytes)
