"""The samples of a set by their place, read from its Parquet files when they are asked for."""

# pyarrow carries no types:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from open4ov.errors import UserError
from open4ov.sample import Sample

_KEPT = 4
"""Row groups in memory, of 2048 samples each as we write them"""


class Records:
    """All samples of some files, one file after the other: `len`, `records[place]`, and `raw` for all as JSON.

    The files stay open, so that a set that is made anew meanwhile does not change under the reader. Raises UserError
    for a file that is missing, damaged or of something else.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files: list[tuple[Path, pq.ParquetFile]] = []
        self._groups: list[tuple[int, int]] = []  # file, and row group in it
        self._starts: list[int] = []
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()
        self._lock = threading.Lock()
        self._count = 0
        for number, path in enumerate(paths):
            with _readable(path):
                file = pq.ParquetFile(path)
                self._files.append((path, file))
                for group in range(file.num_row_groups):
                    self._groups.append((number, group))
                    self._starts.append(self._count)
                    self._count += file.metadata.row_group(group).num_rows

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, place: int) -> Sample:
        at = bisect_right(self._starts, place) - 1
        with self._lock:
            if at not in self._kept:
                self._kept[at] = self._read(at)
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(at)
            record = self._kept[at][place - self._starts[at]].as_py()
        with _readable(self._files[self._groups[at][0]][0]):
            return Sample.model_validate_json(record)

    def __iter__(self) -> Iterator[Sample]:
        return map(Sample.model_validate_json, self.raw())

    def raw(self) -> Iterator[str]:
        """The samples as JSON, in order, a row group in memory at a time."""
        for at in range(len(self._groups)):
            with self._lock:
                column = self._read(at)
            for value in column:
                yield value.as_py()

    def _read(self, at: int) -> Any:
        number, group = self._groups[at]
        path, file = self._files[number]
        with _readable(path):
            return file.read_row_group(group, columns=["record"]).column("record")


@contextmanager
def _readable(path: Path) -> Generator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, KeyError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a readable Parquet file of samples: {reason}") from None
