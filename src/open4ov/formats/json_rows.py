"""The formats that are rows of JSON: messages (lines), LLaVA and ShareGPT (an array; lines are read too)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from open4ov.formats import lines
from open4ov.formats.conversations import Conversations
from open4ov.formats.messages import Messages
from open4ov.formats.reading import Reading, files
from open4ov.formats.row import Codec
from open4ov.formats.writing import Splits, Writing
from open4ov.sample import Sample

CODECS: dict[str, Codec] = {
    "messages": Messages(),
    "llava": Conversations("llava", "image"),
    "sharegpt": Conversations("sharegpt", "images"),
}


def read(name: str, source: Path, reading: Reading) -> Iterator[Sample]:
    """The samples of a file, or of all .json and .jsonl files of a folder."""
    for file in files(source, (".json", ".jsonl")):
        for place, row in lines.read(file):
            if isinstance(row, lines.Bad):
                reading.refuse(file, place, row.reason)
            elif (sample := reading.sample(CODECS[name], row, file, place)) is not None:
                yield sample


def write(name: str, samples: Iterable[Sample], writing: Writing) -> None:
    """One file a split: messages as train.jsonl, the others as train.json; images in images/."""
    array, codec = name != "messages", CODECS[name]
    with Splits(lambda split: lines.Rows(writing.out / f"{split}.json{'' if array else 'l'}", array)) as parts:
        for sample in samples:
            if (row := writing.row(codec, sample, [writing.image_file(sha) for sha in sample.images])) is not None:
                parts[sample.split].add(row)
