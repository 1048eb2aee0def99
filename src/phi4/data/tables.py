"""Parquet files as this project writes them: zstd, a fixed schema, whole or not at all.

The same rows give the same bytes (contract 8), so no writer option may depend on the clock or the machine.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from phi4.errors import DataError
from phi4.run.files import atomic_write

Columns = Mapping[str, Sequence[Any]]


def write_table(
    path: Path, schema: pa.Schema, row_groups: Iterable[Columns], metadata: Mapping[str, str] | None = None
) -> int:
    """Write row groups to `path`, which appears complete or not at all; returns the number of rows.

    A group is a mapping of column name to values. Only the compressed bytes are held in memory.
    `metadata` goes into the file's footer. Raises RunError when the disk is full (the old file stays).
    """
    marks = dict(sorted((metadata or {}).items()))
    sink = pa.BufferOutputStream()
    rows = 0
    with pq.ParquetWriter(sink, schema.with_metadata(marks), compression="zstd", version="2.6") as writer:
        for group in row_groups:
            arrays = [pa.array(group[column.name], type=column.type) for column in schema]
            table = pa.Table.from_arrays(arrays, schema=schema)
            rows += table.num_rows
            writer.write_table(table.replace_schema_metadata(marks), row_group_size=max(1, table.num_rows))
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, sink.getvalue().to_pybytes())
    return rows


def open_table(path: Path) -> pq.ParquetFile:
    """Open a parquet file, or raise DataError in one line when it is missing or not parquet."""
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else "not a readable parquet file"
        raise DataError(f"{path}: {reason}", "make it again: run the recipe with --fresh") from error


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a whole file (or some of its columns) into memory."""
    file = open_table(path)
    try:
        return file.read(columns=list(columns) if columns is not None else None)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: damaged or missing columns", str(error).splitlines()[0]) from error


def read_groups(path: Path) -> Iterator[dict[str, list[Any]]]:
    """Yield the row groups of a file as columns of Python values, one group in memory at a time."""
    file = open_table(path)
    for number in range(file.num_row_groups):
        try:
            yield file.read_row_group(number).to_pydict()
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{path}: row group {number} is damaged", str(error).splitlines()[0]) from error


def footer(path: Path) -> dict[str, str]:
    """The metadata written with `write_table`."""
    found = open_table(path).schema_arrow.metadata or {}
    return {key.decode(): value.decode() for key, value in found.items()}
