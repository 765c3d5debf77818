"""VLMEvalKit's TSV: one evaluation question a row, images as base64 in it.

Columns: `index`; `image` (base64, a JSON or Python list of them, or in at most 64 characters the index of the row that
has them) or `image_path` (one, or a list); `question`, `answer`; `hint` and the options `A`, `B`, ... if it has them,
which are put around the question as the user says it and are taken off again when written; and any others.
"""

from __future__ import annotations

import ast
import base64
import csv
import json
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from open4ov.formats import lines
from open4ov.formats.conversations import text_message
from open4ov.formats.pairs import single_question
from open4ov.formats.pictures import from_base64
from open4ov.formats.reading import Reading, files
from open4ov.formats.row import RECORD, Parsed, Reference, RowError, into_record, mark_made
from open4ov.formats.writing import Writing
from open4ov.images import ImageError
from open4ov.sample import Sample, user

REFERENCE = 64
"""An `image` of at most so many characters is the index of another row."""
OPTIONS = tuple(string.ascii_uppercase)
_CELL = 2**29
_FIRST = ("index", "image", "question", "hint", *OPTIONS, "answer", "category", "l2-category", "split")


class Table:
    """The codec. Rows come to it with their images as a list in `images`, and without empty cells."""

    name = "vlmevalkit"

    def decode(self, row: Mapping[str, Any]) -> Parsed:
        if not isinstance(row.get("question"), str) or not (row["question"] or RECORD in row):
            raise RowError("it has no question")
        images = cast("list[Any]", row.get("images") or [])
        before, after = _around(row)
        messages = [user(before + row["question"] + after, images=len(images))]
        values: dict[str, Any] = {"task": "multiple_choice" if after else "question"}
        if (answer := row.get("answer")) is not None:
            messages.append(text_message("assistant", str(answer)))
            values["answer"] = str(answer)
        return Parsed(messages, images, {"question", "answer", "images", "image", "image_path"}, values)

    def encode(self, sample: Sample, images: Sequence[str]) -> dict[str, Any]:
        found = single_question(sample)
        if found is None:
            raise RowError("a TSV row holds one question about all of its images, and one answer")
        question, response = found
        before, after = _around(sample.extra.get("fields", {}))
        if question.startswith(before) and question.endswith(after) and len(question) >= len(before + after):
            question = question[len(before) : len(question) - len(after)]
        answer = sample.answer if sample.answer is not None else response
        row: dict[str, Any] = {"images": list(images), "question": question}
        return {**row, "answer": answer} if answer else row  # an empty cell is read as none


def _around(row: Mapping[str, Any]) -> tuple[str, str]:
    """What stands before and after the question: the hint and the options."""
    hint = row.get("hint")
    options = [f"\n{letter}. {row[letter]}" for letter in OPTIONS if isinstance(row.get(letter), str)]
    return f"Hint: {hint}\n" if isinstance(hint, str) and hint else "", "".join(options)


def read(source: Path, reading: Reading) -> Iterator[Sample]:
    """The questions of a TSV, or of all in a folder. Rows that others refer to are looked for first."""
    codec = Table()
    for file in files(source, (".tsv",)):
        wanted = {_reference(row) for _, row in _rows(file, None)} - {None}
        shared: dict[str, list[str]] = {}
        if wanted:
            for _, row in _rows(file, None):
                if row.get("index") in wanted and _reference(row) is None:
                    try:
                        shared[row["index"]] = [reading.pictures.put(_bytes(one)) for one in _images(row)]
                    except (RowError, ImageError):
                        continue  # told when its own row comes
        for place, row in _rows(file, reading):
            try:
                given = _given(row, shared)
            except RowError as error:
                reading.refuse(file, place, str(error))
                continue
            if (sample := reading.sample(codec, {**row, "images": given}, file, place, _store(reading))) is not None:
                yield sample


def _store(reading: Reading) -> Any:
    def store(reference: Reference) -> str:
        if isinstance(reference, _Known):
            return reference.sha
        return reading.pictures.put(reference)

    return store


class _Known:
    """An image that another row has put away."""

    def __init__(self, sha: str) -> None:
        self.sha = sha


def _rows(file: Path, reading: Reading | None) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and cells of each row, without empty cells; broken ones are told to `reading`."""
    before = csv.field_size_limit(_CELL)
    row = 0
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            table = csv.reader(text, delimiter="\t")
            names = next(table, list[str]())
            for row, cells in enumerate(table, start=1):
                place = f"row {row}"
                if len(cells) != len(names):
                    if reading is not None and cells:
                        reading.refuse(file, place, f"{len(cells)} cells under {len(names)} columns")
                    continue
                yield place, {name: cell for name, cell in zip(names, cells, strict=True) if cell or name == "question"}
    except (csv.Error, UnicodeDecodeError) as error:
        if reading is not None:
            reading.refuse(file, f"row {row + 1}", f"damaged, what follows is lost: {error}")
    finally:
        csv.field_size_limit(before)


def _reference(row: Mapping[str, str]) -> str | None:
    image = row.get("image", "")
    return image if 0 < len(image) <= REFERENCE and not image.startswith("[") else None


def _given(row: Mapping[str, str], shared: Mapping[str, list[str]]) -> list[Reference]:
    if (index := _reference(row)) is not None:
        if index not in shared:
            raise RowError(f"its image is that of row index {index}, which has none that can be used")
        return [_Known(sha) for sha in shared[index]]
    if "image" in row:
        return [_bytes(one) for one in _images(row)]
    return list(_listed(row["image_path"])) if "image_path" in row else []


def _images(row: Mapping[str, str]) -> list[str]:
    return _listed(row["image"]) if "image" in row else []


def _bytes(text: str) -> bytes:
    return from_base64(text.partition(",")[2] if text.startswith("data:") else text, "its image")


def _listed(cell: str) -> list[str]:
    """One text, or the texts of a JSON or Python list."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return [cell]
    try:
        found = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise RowError("its images are neither one nor a list of them") from None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in cast("list[Any]", found)):
        raise RowError("its list of images holds something else than texts")
    return cast("list[str]", found)


def write(samples: Iterable[Sample], writing: Writing) -> None:
    """NAME.tsv with all questions that fit; what does not fit is counted. The columns come from all rows, so these lie
    in a file of lines until the last is known."""
    codec, aside = Table(), writing.out / ".rows"
    names: dict[str, None] = {}
    held = lines.Rows(aside, False)
    taken: set[str] = set()
    for sample in samples:
        row = writing.row(codec, sample, sample.images)
        if row is None:
            continue
        own = {"images", "question", "answer", RECORD}
        into_record(row, [key for key in row if key not in own and not (isinstance(row[key], str) and row[key])])
        if row.get("index") in taken:
            into_record(row, ["index"])
        if "index" not in row:
            row["index"] = _free(taken)
            mark_made(row, "index")
        taken.add(row["index"])
        names |= dict.fromkeys(row)
        held.add(row)
    held.close()
    names.pop("images", None)
    names.update(dict.fromkeys(("index", "image", "question")))
    columns = [*(name for name in _FIRST if name in names), *(name for name in names if name not in _FIRST)]
    with (writing.out / f"{writing.name}.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t")  # lines end in \r\n: cells with either of them are then quoted
        table.writerow(columns)
        for _, row in lines.read(aside):
            assert not isinstance(row, lines.Bad)
            encoded = [base64.b64encode(writing.image_path(sha).read_bytes()).decode() for sha in row.pop("images")]
            row["image"] = encoded[0] if len(encoded) == 1 else json.dumps(encoded) if encoded else ""
            table.writerow([row.get(name, "") for name in columns])
    aside.unlink()


def _free(taken: set[str]) -> str:
    number = len(taken)
    while str(number) in taken:
        number += 1
    return str(number)
