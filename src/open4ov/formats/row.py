"""A row of a foreign file <-> a `Sample`, without losing anything on the way.

A `Codec` knows the conversation part of one form of row. This file does the rest, alike for all forms:

- Fields that the codec does not use are kept in `Sample.extra["fields"]` and written back under their names.
- What the row's form cannot hold (labels, votes, lineage, ...) is written as JSON in the field `open4ov`, and read from
  there. So an export of ours comes back as the same samples.
- After a conversation is written it is read again. Where the form could not hold it (three parties, a video, an
  `<image>` that a user typed), `open4ov` holds the messages too, with a digest of the written ones: a row that somebody
  has edited since is taken as edited.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from pydantic import ValidationError
from pydantic_core import from_json

from open4ov.errors import UserError
from open4ov.sample import Message, Sample, Step, content_id

RECORD = "open4ov"
"""The field with what a row's own form cannot hold: a JSON object, as text (tools want equal types in all rows)."""

Reference = Any
"""What a row calls an image: a path or data URL, bytes, or {"bytes": ..., "path": ...}."""


class RowError(UserError):
    """A row that cannot be used; the message says why, the reader adds where."""


@dataclass
class Parsed:
    """The conversation of a row. `images` are references in the order of `Sample.images`."""

    messages: list[Message] = field(default_factory=list[Message])
    images: list[Reference] = field(default_factory=list[Reference])
    used: set[str] = field(default_factory=set[str])
    """the row's fields that are in here"""
    values: dict[str, Any] = field(default_factory=dict[str, Any])
    """further fields of the Sample: answer, task, scene, ..."""
    as_written: dict[str, Any] | None = None
    """the row's text fields, where `encode` would write them in other words"""
    extra: dict[str, Any] = field(default_factory=dict[str, Any])
    """entries of `Sample.extra`"""


class Decoder(Protocol):
    """One form of row, to read."""

    name: str

    def decode(self, row: Mapping[str, Any]) -> Parsed:
        """Raises RowError for a row that is not of this form."""
        ...


class Codec(Decoder, Protocol):
    """One form of row, to read and write."""

    def encode(self, sample: Sample, images: Sequence[str]) -> dict[str, Any]:
        """The row's own fields; `images` name the sample's images. Raises RowError for what has no form at all."""
        ...


@dataclass(frozen=True)
class Origin:
    """Where a row comes from, and what is said of the whole set."""

    source: str
    file: str
    place: str
    split: str = "train"
    licence: str | None = None


def to_row(codec: Codec, sample: Sample, images: Sequence[str]) -> dict[str, Any]:
    """The row of a sample whose images the row calls `images`."""
    own = codec.encode(sample, images)
    record = sample.model_dump(mode="json", exclude={"messages"}, exclude_defaults=True)
    extra = record.get("extra", {})
    written = extra.pop("as_written", None)
    if written and written["format"] == codec.name:
        again = {**own, **written["row"]}
        read = codec.decode(again)
        if digest(read.messages) == digest(sample.messages) and _rejected(read, sample) == sample.rejected:
            own = again
            extra["as_written"] = written
    fields = cast("dict[str, Any]", extra.pop("fields", {}))
    parsed, kept = _with_fields(codec, own, fields, sample, list(images))
    if parsed.messages != sample.messages or parsed.images != list(images):
        record["messages"] = [message.model_dump(exclude_unset=True) for message in sample.messages]
        record["of"] = digest(parsed.messages)
    if parsed.values.get("answer", sample.answer) != sample.answer:
        record["answer_apart"] = True
    if "rejected" in parsed.values:  # the row's own word counts, unless its form could not hold it
        if parsed.values["rejected"] == sample.rejected:
            record.pop("rejected", None)
        else:
            record["rejected_of"] = digest(parsed.values["rejected"])
    if made := [key for key in own if key not in parsed.used and key not in kept]:
        record["made"] = made
    taken = {key: value for key, value in fields.items() if key not in kept}
    if taken:
        extra["fields"] = taken
    if not extra:
        record.pop("extra", None)
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return {**own, **kept, RECORD: text}


def _rejected(parsed: Parsed, sample: Sample) -> list[Message] | None:
    """A row's rejected response; the sample's own where the form has none."""
    return parsed.values.get("rejected", sample.rejected)


def _with_fields(
    codec: Codec, own: dict[str, Any], fields: dict[str, Any], sample: Sample, images: list[str]
) -> tuple[Parsed, dict[str, Any]]:
    """The user's fields that can stand beside a row's own, and what the row then reads as.

    A field may have a name that means something in this form (`images`, or `A` in a TSV). All stand in the row if it
    then reads as the sample; if not, only those do that change nothing.
    """
    base = codec.decode(own)
    free = {key: value for key, value in fields.items() if key not in base.used and key != RECORD}
    try:
        read = codec.decode({**own, **free})
    except RowError:
        return base, {}
    if free.keys() & read.used:
        free = {key: value for key, value in free.items() if key not in read.used}
        read = codec.decode({**own, **free})
    if (read.messages, read.images) == (sample.messages, images):
        return read, free
    same = (read.messages, read.images) == (base.messages, base.images)
    return (read, free) if same else (base, {})


def into_record(row: dict[str, Any], keys: Iterable[str]) -> None:
    """Moves fields of the user's, for which a file has no column, into the row's `open4ov`."""
    if moved := {key: row.pop(key) for key in keys}:
        record = json.loads(row[RECORD])
        record.setdefault("extra", {}).setdefault("fields", {}).update(moved)
        row[RECORD] = json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def mark_made(row: dict[str, Any], key: str) -> None:
    """Notes that a field was made by the export and is none of the sample's."""
    record = json.loads(row[RECORD])
    record.setdefault("made", []).append(key)
    row[RECORD] = json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def from_row(
    codec: Decoder,
    row: Mapping[str, Any],
    origin: Origin,
    store: Callable[[Reference], str],
    name: Callable[[Reference], str | None],
) -> Sample:
    """The sample of a row. `store` puts an image away and gives its SHA-256; `name` gives its file's name or None.

    Raises RowError, and ImageError from `store`.
    """
    parsed = codec.decode(row)
    shas = [store(reference) for reference in parsed.images]
    fields = {key: value for key, value in row.items() if key not in parsed.used and key != RECORD}
    record = _record(row.get(RECORD))
    if record is not None:
        return _checked(_returned(record, parsed, shas, fields))
    extra: dict[str, Any] = dict(parsed.extra)
    if fields:
        extra["fields"] = fields
    names = [name(reference) for reference in parsed.images]
    if any(names):
        extra["image_files"] = names
    if parsed.as_written is not None:
        extra["as_written"] = {"format": codec.name, "row": parsed.as_written}
    if origin.licence is not None:
        extra["licence"] = origin.licence
    text = "".join(message.text for message in parsed.messages if message.role != "system")
    given = str(row.get("split", "")).lower()
    values: dict[str, Any] = {
        "id": content_id("import", origin.source, shas, digest(parsed.messages), fields, parsed.values),
        "source": origin.source,
        "split": SPLITS.get(given, origin.split),
        "task": "imported" if parsed.messages else "image",
        "language": language(text, row),
        "images": shas,
        "messages": parsed.messages,
        "steps": [Step(stage="import", by=codec.name, file=origin.file, place=origin.place)],
        "extra": extra,
        **parsed.values,
    }
    return _checked(values)


SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val", "test": "test"}


def digest(messages: Sequence[Message]) -> str:
    """A digest of a conversation."""
    return content_id([message.model_dump(exclude_none=True) for message in messages])


def language(text: str, row: Mapping[str, Any]) -> str:
    """`zh` or `en`: what the row says, or else whether a tenth of its letters are Chinese characters."""
    said = str(row.get("language", row.get("lang", ""))).lower()[:2]
    if said in ("en", "zh"):
        return said
    letters = [char for char in text if char.isalpha()]
    chinese = sum("\u4e00" <= char <= "\u9fff" for char in letters)
    return "zh" if letters and chinese * 10 >= len(letters) else "en"


def _record(value: object) -> dict[str, Any] | None:
    if value is None or value == "":
        return None
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RowError(f"its field {RECORD!r} is no JSON object; delete the field to read the row without it")
    return cast("dict[str, Any]", found)


_NOT_OF_SAMPLES = {"of", "made", "answer_apart", "messages", "images", "rejected_of"}


def _returned(record: dict[str, Any], parsed: Parsed, shas: list[str], fields: dict[str, Any]) -> dict[str, Any]:
    """An export of ours, come back."""
    kept = record.get("messages")
    messages: Any = parsed.messages
    images = shas
    if kept is not None and record.get("of") == digest(parsed.messages):
        messages = kept
        if set(record.get("images", [])) <= set(shas):
            images = record.get("images", [])
    extra = dict(record.get("extra", {}))
    fields = {key: value for key, value in fields.items() if key not in record.get("made", ())}
    if all_fields := {**fields, **extra.get("fields", {})}:
        extra["fields"] = all_fields
    values = {key: value for key, value in record.items() if key not in _NOT_OF_SAMPLES}
    if "answer" in parsed.values and not record.get("answer_apart"):
        values["answer"] = parsed.values["answer"]
    if "rejected" in parsed.values and record.get("rejected_of") != digest(parsed.values["rejected"]):
        values["rejected"] = parsed.values["rejected"]
    return {**values, "images": images, "messages": messages, "extra": extra}


def _checked(values: dict[str, Any]) -> Sample:
    try:
        sample = Sample.model_validate(values)
        from_json(json.dumps(sample.model_dump(), ensure_ascii=False, allow_nan=False).encode())  # it can be read again
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise RowError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except UnicodeEncodeError:
        raise RowError("holds half of a character (a lone surrogate), which no text file can hold") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(f"holds something that JSON cannot: {' '.join(str(error).split())}") from None
    return sample
