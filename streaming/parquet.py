"""Parquet files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from streaming.errors import UserError
from streaming.settings import Settings

# What readers skip by: large enough to compress, small enough to hold (15 MB).
ROW_GROUP: Final = 131_072


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Where to write what is to replace `path` at the end; what could not be finished never appears. Raises UserError where it cannot be written."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


class Groups:
    """Tables written as row groups of about ROW_GROUP rows, so that no more is held than that."""

    def __init__(self, writer: Any) -> None:
        self._writer, self._waiting, self._rows = writer, list[Any](), 0

    def add(self, table: Any) -> None:
        self._waiting.append(table)
        self._rows += table.num_rows
        if self._rows >= ROW_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=2 * ROW_GROUP)
        self._waiting, self._rows = [], 0


def metadata(settings: Settings) -> dict[str, str]:
    """The settings travel with the file: what a step and a tile are, and whose day begins when."""
    return {
        "trendcast.namespace": settings.namespace,
        "trendcast.step_ms": str(settings.step_ms),
        "trendcast.tile_ms": str(settings.tile_ms),
        "trendcast.timezone": settings.timezone,
        "trendcast.currency": settings.currency or "",
    }
