"""Parquet: our own files, any table by the names of its columns, and out in the form that `datasets` reads as images.

Out: `data/train-00000.parquet` and so on. Column `images` is a list of structs of `bytes` and `path`, and the schema
says so in the words of Hugging Face `datasets`, so that `load_dataset("parquet", ...)` gives PIL images. `messages` has
typed parts; `open4ov` is the rest of the sample as JSON, unknown fields among it.
"""

# pyarrow carries no types:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from open4ov.formats.pairs import codec_of
from open4ov.formats.preference_rows import as_pair
from open4ov.formats.reading import Reading, files
from open4ov.formats.row import Codec, Parsed, RowError, into_record
from open4ov.formats.writing import Splits, Writing
from open4ov.images import kind_of
from open4ov.sample import Message, Sample
from open4ov.store import ImageError, ImageStore, iter_samples

_GROUP_BYTES, _GROUP_ROWS = 2**25, 512
_FILE_BYTES = 2**29
_BATCH = 16
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_PART = pa.struct(
    [("type", pa.string()), ("text", pa.string()), ("index", pa.int32()), ("times", pa.list_(pa.float64()))]
)
_COLUMNS = [
    ("id", pa.string()),
    ("images", pa.list_(IMAGE)),
    ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(_PART))]))),
    ("answer", pa.string()),
    ("source", pa.string()),
    ("task", pa.string()),
    ("language", pa.string()),
    ("open4ov", pa.string()),
]


def value(kind: str) -> dict[str, str]:
    """A column of single values, in the words of `datasets`."""
    return {"dtype": kind, "_type": "Value"}


def several(of: object) -> dict[str, object]:
    """A column of lists."""
    return {"feature": of, "_type": "List"}


_FEATURES: dict[str, Any] = {name: value("string") for name, _ in _COLUMNS}
_FEATURES["images"] = several({"_type": "Image"})
_PARTS = {
    "type": value("string"),
    "text": value("string"),
    "index": value("int32"),
    "times": several(value("float64")),
}
_FEATURES["messages"] = several({"role": value("string"), "content": several(_PARTS)})
SCHEMA = pa.schema(_COLUMNS, metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})})


class Typed:
    """The codec of our own export: parts that name images by their place."""

    name = "parquet"

    def decode(self, row: Mapping[str, Any]) -> Parsed:
        try:
            messages = [
                Message.model_validate({**turn, "content": [_filled(part) for part in turn["content"]]})
                for turn in row["messages"] or ()
            ]
        except (TypeError, KeyError, ValueError) as error:
            raise RowError(f"its messages are none of an export: {' '.join(str(error).split())[:200]}") from None
        used = {"id", "images", "messages", "answer", "source", "task", "language"}
        return Parsed(messages, list(row.get("images") or ()), used, {"answer": row.get("answer")})

    def encode(self, sample: Sample, images: Sequence[str]) -> dict[str, Any]:
        messages = [
            {"role": message.role, "content": [part.model_dump(include=_PART_FIELDS) for part in message.content]}
            for message in sample.messages
        ]
        own = sample.model_dump(include={"id", "answer", "source", "task", "language"})
        return {**own, "images": list(images), "messages": messages}


_PART_FIELDS = {"type", "text", "index", "times"}


def _filled(part: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if value is not None}


def read(source: Path, reading: Reading) -> Iterator[Sample]:
    """The samples of a Parquet file, or of all in a folder and its data/."""
    for file in files(source, (".parquet",)):
        try:
            schema = pq.read_schema(file)
        except (pa.ArrowException, OSError) as error:
            reading.refuse(file, "", f"no readable Parquet file: {_words(error)}")
            continue
        if (schema.metadata or {}).get(b"open4ov", b"").startswith(b"samples-"):
            yield from _ours(file, reading)
        else:
            yield from _table(file, schema, reading)


def _ours(file: Path, reading: Reading) -> Iterator[Sample]:
    """A file of samples whose images lie in the image store beside it, or in the folder above."""
    roots = (file.parent / "image-store", file.parent.parent / "image-store")
    store = ImageStore(next((root for root in roots if root.is_dir()), roots[0]))
    for row, sample in enumerate(iter_samples(file), start=1):
        try:
            moved = [reading.pictures.store.put(store.get(sha)) for sha in sample.images]
            yield sample.model_copy(update={"images": moved})
        except ImageError as error:
            reading.refuse(file, f"row {row}", str(error))


def _table(file: Path, schema: Any, reading: Reading) -> Iterator[Sample]:
    ours = "open4ov" in schema.names and {"messages", "images"} <= set(schema.names)
    row = 0
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(_BATCH):
                for found in batch.to_pylist():
                    row += 1
                    cells = found if ours else {key: _plain(value, key) for key, value in found.items()}
                    try:
                        cells = cells if ours else as_pair(_renamed(cells, reading.columns))
                    except RowError as error:
                        reading.refuse(file, f"row {row}", str(error))
                        continue
                    codec = Typed() if ours else codec_of(cells)
                    if (sample := reading.sample(codec, cells, file, f"row {row}")) is not None:
                        yield sample
    except (pa.ArrowException, OSError) as error:
        reading.refuse(file, f"row {row + 1}", f"damaged; what follows is lost: {_words(error)}")


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    return {columns.get(key, key): value for key, value in row.items()}


def _plain(value: Any, key: str) -> Any:
    """A cell as JSON can hold it, where it is no image: times as text, other bytes as base64; JSON text is read."""
    if isinstance(value, dict):
        if isinstance(value.get("bytes"), bytes):
            return value
        return {name: _plain(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, key) for inner in value]
    if isinstance(value, bytes):
        return value if key in ("image", "images") or _looks_like_image(value) else base64.b64encode(value).decode()
    if isinstance(value, str) and key in ("messages", "conversations") and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _looks_like_image(value: bytes) -> bool:
    return kind_of(value) is not None


class _File:
    """The Parquet files of one split: a new one when the last is large enough."""

    def __init__(self, folder: Path, split: str, schema: Any) -> None:
        self._folder, self._split, self._schema = folder, split, schema
        self._number, self._size, self._held = 0, 0, 0
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None

    def add(self, row: dict[str, Any], size: int) -> None:
        """Takes a row with so many bytes of images."""
        self._rows.append(row)
        self._held += size
        if self._held >= _GROUP_BYTES or len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            if self._writer is None:
                path = self._folder / f"{self._split}-{self._number:05d}.parquet"
                self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._size += self._held
        self._rows, self._held = [], 0
        if self._size >= _FILE_BYTES:
            self._end()

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer, self._size, self._number = None, 0, self._number + 1

    def close(self) -> None:
        self._flush()
        self._end()


def write(samples: Iterable[Sample], writing: Writing, codec: Codec | None = None, schema: Any = SCHEMA) -> None:
    """Files of at most about half a GiB of images, one series a split. codec, schema: of another table that has images
    and `open4ov` as ours has them."""
    folder, codec = writing.out / "data", codec or Typed()
    folder.mkdir(parents=True, exist_ok=True)
    with Splits(lambda split: _File(folder, split, schema)) as parts:
        for sample in samples:
            row = writing.row(codec, sample, sample.images)
            if row is None:
                continue
            into_record(row, [key for key in row if key not in schema.names])
            cells = [_cell(writing.image_path(sha), sample, place) for place, sha in enumerate(sample.images)]
            parts[sample.split].add({**row, "images": cells}, sum(len(cell["bytes"]) for cell in cells))


def _cell(path: Path, sample: Sample, place: int) -> dict[str, Any]:
    names = sample.extra.get("image_files") or ()
    name = names[place] if place < len(names) else None
    return {"bytes": path.read_bytes(), "path": Path(name).name if name else path.name}


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
