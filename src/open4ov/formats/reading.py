"""What all readers are given: where images go, what is said of the whole set, and where bad rows are listed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from open4ov.errors import UserError
from open4ov.formats.pictures import Pictures, name_of
from open4ov.formats.row import SPLITS, Decoder, Origin, Reference, RowError, from_row
from open4ov.images import ImageError
from open4ov.sample import Sample

_MOST_REASONS = 200


class Reading:
    """One import. Refused rows go to `report`, as JSON lines of file, place and reason; `strict` stops at the first."""

    def __init__(
        self,
        source: Path,
        pictures: Pictures,
        name: str,
        *,
        split: str | None = None,
        licence: str | None = None,
        columns: Mapping[str, str] | None = None,
        strict: bool = False,
        report: TextIO | None = None,
    ) -> None:
        self.source = source
        self.pictures = pictures
        self.name = name
        self.split = split
        self.licence = licence
        self.columns = dict(columns or {})
        self.strict = strict
        self.report = report
        self.reasons: Counter[str] = Counter()
        self.examples: list[str] = []

    @property
    def refused(self) -> int:
        """How many rows, members and files were refused."""
        return self.reasons.total()

    def refuse(self, file: Path | str, place: str, reason: str) -> None:
        """Lists what cannot be used. Raises UserError under `strict`."""
        name = self.relative(file)
        where = f"{name}, {place}" if place else name
        if self.strict:
            raise UserError(f"{where}: {reason}")
        kind = _kind(reason)
        self.reasons[kind if kind in self.reasons or len(self.reasons) < _MOST_REASONS else "other reasons"] += 1
        if len(self.examples) < 3:
            self.examples.append(f"{where}: {reason}")
        if self.report is not None:
            entry = {"file": name, "place": place, "reason": reason}
            self.report.write(json.dumps(entry, ensure_ascii=False).encode(errors="backslashreplace").decode() + "\n")

    def sample(
        self,
        codec: Decoder,
        row: Mapping[str, Any],
        file: Path | str,
        place: str,
        store: Callable[[Reference], str] | None = None,
    ) -> Sample | None:
        """The sample of a row; None, and an entry in the list, when it cannot be used."""
        renamed = {self.columns.get(key, key): value for key, value in row.items()}
        origin = Origin(self.name, self.relative(file), place, self.split or split_of(file), self.licence)
        try:
            return from_row(codec, renamed, origin, store or self.pictures.put, name_of)
        except UnicodeEncodeError:
            self.refuse(file, place, "holds half of a character (a lone surrogate), which no text file can hold")
        except (RowError, ImageError) as error:
            self.refuse(file, place, str(error))
        return None

    def relative(self, file: Path | str) -> str:
        """A file's name as reports and samples have it: below the source, or its own."""
        path = Path(file)
        with suppress(ValueError):
            path = path.relative_to(self.source)
        name = path.as_posix() if path.parts else self.source.name
        return name.encode(errors="backslashreplace").decode()


def split_of(file: Path | str) -> str:
    """The split that a file's name begins with (train-00000.parquet); `train` for other names."""
    word = Path(file).name.replace("_", "-").replace(".", "-").split("-")[0].lower()
    return SPLITS.get(word, "train")


def files(source: Path, suffixes: Sequence[str]) -> list[Path]:
    """The source itself, or the files in it and in its `data` that end so, in order. Raises UserError for none."""
    if source.is_file():
        return [source]
    found = [
        path
        for folder in (source, source / "data")
        for path in sorted(folder.glob("*"))
        if path.is_file() and path.name.lower().endswith(tuple(suffixes)) and not path.name.startswith(".")
    ]
    if not found:
        raise UserError(f"{source}: no file here or in its data/ ends in {' or '.join(suffixes)}")
    return found


def _kind(reason: str) -> str:
    """A reason without what is different in each row, so that equal ones are counted together."""
    head, colon, rest = reason.partition(": ")
    return rest if colon and rest and " " not in head else reason
