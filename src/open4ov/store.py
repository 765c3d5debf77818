"""Where samples and images lie: Parquet files of `Sample`s, and PNG files named by the SHA-256 of their bytes.

Everything is written as `writing.py` does it, whose functions are to be had here as well: a reader never meets half a
file.
"""

# pyarrow carries no types:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import gc
import hashlib
import io
import json
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pydantic import ValidationError

from open4ov.errors import UserError
from open4ov.images import MAX_PIXELS, ImageError, open_image
from open4ov.sample import Sample
from open4ov.writing import (
    TEMPORARY,
    UNFINISHED,
    atomic,
    check_finished,
    is_disk_full,
    link,
    sweep,
    unfinished,
    write_json,
)

__all__ = [
    "MAX_PIXELS",
    "TEMPORARY",
    "UNFINISHED",
    "ImageError",
    "ImageStore",
    "Seen",
    "atomic",
    "check_finished",
    "count_samples",
    "is_disk_full",
    "iter_records",
    "iter_samples",
    "join_samples",
    "link",
    "open_image",
    "read_samples",
    "sweep",
    "unfinished",
    "write_json",
    "write_samples",
]

_BATCH = 256
_NAMED = 64  # pictures whose names a store remembers
_RECENT = 2**15
_ROWS = 2048  # of one Parquet row group; bounds memory, and fixed so that the bytes are


class ImageStore:
    """RGB images by content: `put` gives the SHA-256 of the PNG bytes, under which `get` finds them again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._named: OrderedDict[str, tuple[str, int]] = OrderedDict()
        """By the digest of their pixels, the name and length of the latest pictures: questions about one come together,
        and compressing it anew would cost as much as drawing it"""

    def path(self, sha: str) -> Path:
        """Where the image lies, whether or not it is there."""
        return self.root / sha[:2] / f"{sha}.png"

    def put(self, image: Image.Image) -> str:
        """Stores the image (any mode is refused but RGB: `open_image` converts) and gives its SHA-256."""
        if image.mode != "RGB":
            raise ValueError(f"the image store holds RGB images, not {image.mode}; open files with open_image")
        pixels = image.tobytes()
        known = hashlib.sha256(f"{image.size}".encode() + pixels).hexdigest()
        if (named := self._named.get(known)) and _size(self.path(named[0])) == named[1]:
            return named[0]
        buffer = io.BytesIO()
        plain = Image.frombytes("RGB", image.size, pixels)  # without metadata: equal pixels, equal bytes
        plain.save(buffer, format="PNG", compress_level=6)
        data = buffer.getvalue()
        sha = hashlib.sha256(data).hexdigest()
        path = self.path(sha)
        if _size(path) != len(data):
            with atomic(path) as temporary:
                temporary.write_bytes(data)
        self._named[known] = sha, len(data)
        if len(self._named) > _NAMED:
            self._named.popitem(last=False)
        return sha

    def png(self, sha: str) -> bytes:
        """The image's PNG bytes. Raises ImageError when it is not there or its bytes have changed."""
        path, maker = self.path(sha), self.root.parent / "images"
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise ImageError(f"{path}: is missing; delete {maker} too, and the same command makes both anew") from None
        if hashlib.sha256(data).hexdigest() != sha:
            raise ImageError(
                f"{path}: its bytes have changed since it was stored; delete it and {maker}, and the same command "
                "makes both anew"
            )
        return data

    def get(self, sha: str) -> Image.Image:
        """The RGB image. Raises ImageError when it is not there or its bytes have changed."""
        with Image.open(io.BytesIO(self.png(sha))) as image:
            return image.convert("RGB")


def _size(path: Path) -> int | None:
    """Bytes of a file; None when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("images", pa.list_(pa.string())),
        pa.field("question", pa.string()),
        pa.field("response", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("aliases", pa.list_(pa.string())),
        pa.field("record", pa.string(), nullable=False),
    ],
    metadata={"open4ov": "samples-1"},
)


def write_samples(path: Path, samples: Iterable[Sample], again: bool = False) -> int:
    """Writes a Parquet file of samples, in their order, and gives their number.

    The columns before `record` are for reading with other tools; `record` is the whole sample as JSON and the truth.
    The same samples give the same bytes. Raises ValueError for a sample that JSON cannot hold (NaN, unknown types), and
    for one whose id came before, unless samples may come `again` (an order to train in); nothing is written then.
    """
    seen = Seen()
    written = 0
    source = iter(samples)
    with atomic(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer:
        while chunk := list(islice(source, _ROWS)):
            for sample in chunk:
                if not again and not seen.add(sample.id):
                    raise ValueError(f"{path.name}: two samples have the id {sample.id}")
            writer.write_table(pa.Table.from_pylist([_row(sample) for sample in chunk], schema=_SCHEMA))
            written += len(chunk)
            chunk.clear()  # before the next is read: one group in memory, not two
    return written


@contextmanager
def _uncollected() -> Generator[None]:
    """No search for cycles while many objects are made that have none: it would look through all of them again and
    again, for two thirds of the time that reading takes."""
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


def read_samples(path: Path) -> list[Sample]:
    """The samples of a Parquet file, in order. Raises UserError when it is missing, damaged or of something else."""
    try:
        records = pq.read_table(path, columns=["record"]).column("record").to_pylist()
        with _uncollected():
            return [Sample.model_validate_json(record) for record in records]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, KeyError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a readable Parquet file of samples: {reason}") from None


def iter_samples(path: Path, start: int = 0, stop: int | None = None) -> Iterator[Sample]:
    """The samples of a Parquet file from number `start` to before `stop`, in order, a few hundred in memory at a time.

    Only the row groups that hold some of them are read. Raises as `read_samples` does.
    """
    try:
        with pq.ParquetFile(path) as file:
            groups, first, at = [], 0, 0
            for number in range(file.num_row_groups):
                end = at + file.metadata.row_group(number).num_rows
                if end > start and (stop is None or at < stop):
                    first = first if groups else at
                    groups.append(number)
                at = end
            at = first
            for batch in file.iter_batches(_BATCH, row_groups=groups, columns=["record"]):
                for record in batch.column("record"):
                    if at >= start and (stop is None or at < stop):
                        yield Sample.model_validate_json(record.as_py())
                    at += 1
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError, KeyError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not a readable Parquet file of samples: {reason}") from None


def iter_records(path: Path) -> Iterator[str]:
    """The samples of a Parquet file as JSON, in order, for who hands them on unread. The file must be a whole one."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH, columns=["record"]):
            yield from batch.column("record").to_pylist()


def count_samples(path: Path) -> int:
    """How many samples a Parquet file holds. Raises as `read_samples` does."""
    try:
        return pq.read_metadata(path).num_rows
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file of samples: {error}") from None


def join_samples(path: Path, parts: Iterable[Path]) -> int:
    """Writes the samples of several files, one after the other, as `write_samples` would, and gives their number.

    Nothing of them is parsed but their ids. Raises ValueError for an id that came before; nothing is written then.
    """
    seen = Seen()
    written = 0
    left = _SCHEMA.empty_table()
    with atomic(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer:
        for part in parts:
            with pq.ParquetFile(part) as file:
                for number in range(file.num_row_groups):
                    table = file.read_row_group(number).cast(_SCHEMA)
                    for name in table.column("id").to_pylist():
                        if not seen.add(name):
                            raise ValueError(f"{path.name}: two samples have the id {name}")
                    written += len(table)
                    left = pa.concat_tables([left, table])
                    while len(left) >= _ROWS:
                        writer.write_table(left.slice(0, _ROWS).combine_chunks())
                        left = left.slice(_ROWS)
        if len(left):
            writer.write_table(left.combine_chunks())
    return written


class Seen:
    """Which names came before, in 8 bytes a name: 64 bits of their SHA-256.

    Two of a million different names are taken for one with a probability of 3e-8.
    """

    def __init__(self) -> None:
        self._old = np.empty(0, np.uint64)
        self._recent: set[int] = set()

    def add(self, name: str) -> bool:
        """Whether the name is new."""
        key = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8])
        at = int(np.searchsorted(self._old, np.uint64(key)))
        if key in self._recent or (at < len(self._old) and int(self._old[at]) == key):
            return False
        self._recent.add(key)
        if len(self._recent) == _RECENT:
            self._old = np.union1d(self._old, np.fromiter(self._recent, np.uint64, len(self._recent)))
            self._recent.clear()
        return True


def _row(sample: Sample) -> dict[str, Any]:
    questions = [message.text for message in sample.messages if message.role == "user"]
    responses = [message.text for message in sample.messages if message.role == "assistant"]
    whole = sample.model_dump()
    try:
        record = json.dumps(whole, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ValueError(f"sample {sample.id} cannot be stored as JSON: {error}") from error
    columns = ("id", "source", "split", "task", "language", "images", "answer", "aliases")
    return {
        **{name: whole[name] for name in columns},
        "question": questions[0] if questions else None,
        "response": responses[-1] if responses else None,
        "record": record,
    }
