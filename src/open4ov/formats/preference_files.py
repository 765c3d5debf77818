"""Preference pairs in files: Parquet as `datasets` and TRL load it (`trl`), JSON for the others; either is read."""

# pyarrow carries no types:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeStubs=false
from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from open4ov.formats import json_rows, parquet
from open4ov.formats.preferences import Preferences
from open4ov.formats.reading import Reading
from open4ov.formats.writing import Writing
from open4ov.sample import Sample

_PART = pa.struct([("type", pa.string()), ("text", pa.string())])
_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(_PART))]))
_COLUMNS = [
    ("id", pa.string()),
    ("images", pa.list_(parquet.IMAGE)),
    ("prompt", _MESSAGES),
    ("chosen", _MESSAGES),
    ("rejected", _MESSAGES),
    ("open4ov", pa.string()),
]
_TURN = {"role": parquet.value("string"), "content": parquet.several({"type": parquet.value("string"),
                                                                      "text": parquet.value("string")})}  # fmt: skip
_FEATURES: dict[str, Any] = {
    "id": parquet.value("string"),
    "images": parquet.several({"_type": "Image"}),
    **{name: parquet.several(_TURN) for name in ("prompt", "chosen", "rejected")},
    "open4ov": parquet.value("string"),
}
SCHEMA = pa.schema(_COLUMNS, metadata={"huggingface": json.dumps({"info": {"features": _FEATURES}})})


class Trl(Preferences):
    """The codec of the Parquet form: the content of every message is a list of parts."""

    def __init__(self) -> None:
        super().__init__("trl")

    def encode(self, sample: Sample, images: Sequence[str]) -> dict[str, Any]:
        row = {"images": [], **super().encode(sample, images)}
        for key in ("prompt", "chosen", "rejected"):
            row[key] = [_typed(message) for message in row[key]]
        return row


def read(name: str, source: Path, reading: Reading) -> Iterator[Sample]:
    """The samples of a file, or of all files of a folder: Parquet, or JSON in whichever of the forms."""
    folders = [source, source / "data"]
    tables = source.suffix.lower() == ".parquet" if source.is_file() else any(any(f.glob("*.parquet")) for f in folders)
    yield from parquet.read(source, reading) if tables else json_rows.read(name, source, reading)


def write_trl(samples: Iterable[Sample], writing: Writing) -> None:
    """data/train-00000.parquet and so on, which `load_dataset("parquet", ...)` gives with PIL images."""
    parquet.write(samples, writing, Trl(), SCHEMA)


def _typed(message: Mapping[str, Any]) -> dict[str, Any]:
    content = message["content"]
    return {**message, "content": [{"type": "text", "text": content}] if isinstance(content, str) else content}
