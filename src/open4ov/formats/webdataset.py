"""WebDataset: tar shards in which the members of a sample stand together and share a name up to the first dot.

Read: images (NAME.jpg, or NAME.0.png, NAME.1.png, ...), NAME.json (a row of any form that we know, or fields), NAME.txt
(a caption where there is no question). Written: train-000000.tar, with NAME.png or NAME.0.png ... and NAME.json in the
messages form, whose images are named by their members.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from open4ov.formats import lines, tar
from open4ov.formats.messages import Messages
from open4ov.formats.pairs import codec_of
from open4ov.formats.pictures import SUFFIXES
from open4ov.formats.reading import Reading, files
from open4ov.formats.row import RECORD, Reference
from open4ov.formats.writing import Splits, Writing
from open4ov.sample import Sample

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
MAX_MEMBERS, MAX_GROUP = 512, 2**28
"""Members of one sample, and their bytes."""
_SHARD_BYTES, _SHARD_SAMPLES = 2**28, 5000
_TEXTS = ("txt", "text", "caption", "cls")


def read(source: Path, reading: Reading) -> Iterator[Sample]:
    """The samples of a shard, or of all shards of a folder."""
    for file in files(source, ENDINGS):
        for key, group in _groups(file, reading):
            if (sample := _sample(key, group, file, reading)) is not None:
                yield sample


def _groups(file: Path, reading: Reading) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Key, and bytes by ending, of the members that stand together."""
    key, group, size = "", dict[str, bytes](), 0
    for member in tar.members(file):
        if member.data is None:
            reading.refuse(file, f"member {member.name}" if member.name else "", member.reason)
            continue
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if name.startswith("."):
            continue
        own = f"{folder}/{stem}" if folder else stem
        if own != key and group:
            yield key, group
        if own != key:
            key, group, size = own, {}, 0
        size += len(member.data)
        if ending.lower() in group:
            reading.refuse(file, f"member {member.name}", "a second member of this name")
        elif len(group) >= MAX_MEMBERS or size > MAX_GROUP:
            reading.refuse(file, f"member {member.name}", f"more than {MAX_MEMBERS} members or {MAX_GROUP} bytes")
        else:
            group[ending.lower()] = member.data
    if group:
        yield key, group


def _sample(key: str, group: dict[str, bytes], file: Path, reading: Reading) -> Sample | None:
    place = f"sample {key}"
    images = {end: data for end, data in sorted(group.items(), key=_natural) if f".{end}".endswith(SUFFIXES)}
    row: dict[str, Any] = {}
    if "json" in group:
        found = lines.parse(group["json"])
        if isinstance(found, lines.Bad):
            reading.refuse(file, place, f"its .json: {found.reason}")
            return None
        row = found
    caption: str | None = None
    for ending, data in group.items():
        if ending == "json" or ending in images:
            continue
        value: Any = None
        if ending.endswith(".json"):
            value = lines.parse(data)
        elif ending in _TEXTS:
            value = _text(data)
        if value is None or isinstance(value, lines.Bad):
            reading.refuse(file, place, f"its .{ending} has no place in a sample; the rest of it is kept")
        elif (ending == "txt" and RECORD in row) or (
            ending == "txt" and not {"messages", "conversations", "question"} & set(row)
        ):
            caption = value
        else:
            row.setdefault(ending.removesuffix(".json"), value)
    if not images and not row:
        if caption is not None:
            reading.refuse(file, place, "a text without an image and without a question")
        return None
    stem = key.rpartition("/")[2]
    by_name = {f"{stem}.{ending}": data for ending, data in images.items()}
    codec = codec_of(row)
    named = codec.decode(row).images if images and _readable(codec, row) else []
    if images and not named:
        row["images" if "conversations" not in row or len(images) > 1 else "image"] = list(by_name)
        named = list(by_name)
    in_order = dict(zip(map(str, named), by_name.values(), strict=False)) if len(named) == len(by_name) else {}

    def store(reference: Reference) -> str:
        name = str(reference)
        data = by_name.get(name) or by_name.get(Path(name).name if len(name) < 4096 else "") or in_order.get(name)
        return reading.pictures.put_bytes(data, f"{key}: {name}") if data else reading.pictures.put(reference)

    sample = reading.sample(codec, row, file, place, store)
    if sample is not None and caption is not None:
        sample.scene = {**(sample.scene or {}), "caption": caption}
    return sample


def _readable(codec: Any, row: dict[str, Any]) -> bool:
    try:
        codec.decode(row)
    except ValueError:
        return False
    return True


def _natural(item: tuple[str, bytes]) -> list[tuple[int, str]]:
    """Endings in the order of the numbers in them: 2.png before 10.png."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", item[0])]


def _text(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


class _Shards:
    """The shards of one split: a new one when the last is large enough."""

    def __init__(self, folder: Path, split: str) -> None:
        self._folder, self._split = folder, split
        self._shard, self._number, self._size = -1, 0, 0
        self._tar: tarfile.TarFile | None = None

    def add(self, members: list[tuple[str, bytes]]) -> None:
        """Writes the members of a sample, named by the running number and what each is given."""
        if self._tar is None or self._size >= _SHARD_BYTES or self._number % _SHARD_SAMPLES == 0:
            self.close()
            self._shard += 1
            path = self._folder / f"{self._split}-{self._shard:06d}.tar"
            self._tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115  closed by `close`
            self._size = 0
        for ending, data in members:
            info = tarfile.TarInfo(f"{self._number:09d}.{ending}")  # owner, group and time stay 0: same bytes each time
            info.size = len(data)
            self._tar.addfile(info, io.BytesIO(data))
            self._size += len(data)
        self._tar.members = []  # pyright: ignore[reportAttributeAccessIssue]  it would keep every header
        self._number += 1

    @property
    def key(self) -> str:
        """The name of the next sample."""
        return f"{self._number:09d}"

    def close(self) -> None:
        """Ends the shard."""
        if self._tar is not None:
            self._tar.close()
            self._tar = None


def write(samples: Iterable[Sample], writing: Writing) -> None:
    """Shards of at most about 256 MiB or 5,000 samples, one series a split."""
    codec = Messages()
    with Splits(lambda split: _Shards(writing.out, split)) as parts:
        for sample in samples:
            shards = parts[sample.split]
            paths = [writing.image_path(sha) for sha in sample.images]
            endings = [
                f"{place}{path.suffix}" if len(paths) > 1 else path.suffix[1:] for place, path in enumerate(paths)
            ]
            row = writing.row(codec, sample, [f"{shards.key}.{ending}" for ending in endings])
            if row is None:
                continue
            members = [(ending, path.read_bytes()) for ending, path in zip(endings, paths, strict=True)]
            text = json.dumps(row, ensure_ascii=False, allow_nan=False)
            caption = (sample.scene or {}).get("caption")
            if not sample.messages and isinstance(caption, str):
                members.append(("txt", caption.encode()))
            shards.add([*members, ("json", text.encode())])
