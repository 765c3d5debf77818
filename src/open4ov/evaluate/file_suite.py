"""A set in a file as a stream of items: its rows read, pictures found, options lettered, prompts filled in.

Pictures of a TSV stand in it as base64 (`image`: one, a list, or in at most 64 characters the index of the row that has
them) or as files beside it (`image_path`). Videos are folders of frames beside it: `frames/VIDEO/` with pictures that
are taken in the order of their names. The file is read twice, row by row, so that it need not fit in memory.
"""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from open4ov.errors import UserError
from open4ov.evaluate import tables
from open4ov.evaluate.benchmarks import Benchmark, render
from open4ov.evaluate.item import Fault, Item
from open4ov.evaluate.set_pictures import SetPictures
from open4ov.evaluate.tables import Row
from open4ov.formats.row import RowError
from open4ov.images import ImageError
from open4ov.mllm.asked import Picture
from open4ov.sample import Message, Part

TURN = 1_000_000
"""Rotations of one question have indices that are equal modulo this, in the files of VLMEvalKit"""
DETAILS = ("question_type", "answer_type", "precision", "choices", "l2-category", "components", "component_weight")
_LETTERS = string.ascii_uppercase
_MARK = {"numbered": re.compile(r"<image (\d+)>"), "in_turn": re.compile(r"<image>")}
_HAN = re.compile(r"[\u3400-\u9fff]")


class FileSuite:
    """The set in `path`. `folders`: where files of `image_path` may lie, beside its own. `rotate`: every choice is
    asked once for each rotation of its options. `frames`: at most so many of a video. `limit`: the first so many rows.

    Raises UserError for a file that cannot be asked at all; see `tables.rows`.
    """

    def __init__(
        self,
        name: str,
        benchmark: Benchmark,
        path: Path,
        template: str,
        *,
        folders: Sequence[Path] = (),
        rotate: bool = False,
        frames: int = 16,
        max_tokens: int | None = None,
        samples: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
        limit: int | None = None,
    ) -> None:
        self.name, self.benchmark, self.template, self.source = name, benchmark, template, str(path)
        self._path, self._rotate, self._limit = path, rotate, limit
        self._pictures = SetPictures(path, folders, frames)
        self._settings: dict[str, Any] = {
            "max_tokens": max_tokens or benchmark.max_tokens,
            "samples": samples,
            "temperature": temperature,
            "seed": seed,
        }
        render(template, "", [("A", "")])  # what it asks for and is not there is told before the file is read
        self.count = self._scan()

    def items(self) -> Iterator[Item | Fault]:
        seen: dict[str, str] = {}
        for number, found in enumerate(self._rows()):
            if isinstance(found, Fault):
                yield found
                continue
            place, row = found
            index = str(row.get("index", row.get("id", number)))
            if index in seen:
                yield Fault(place, f"index {index} stands at {seen[index]} already; an index names one row")
                continue
            seen[index] = place.removeprefix(f"{self._path}, ")
            try:
                yield from self._items(place, index, row)
            except (RowError, ImageError) as error:
                yield Fault(place, str(error))

    def _rows(self) -> Iterator[tuple[str, Row] | Fault]:
        """The rows that are asked, as the entry names their fields."""
        count = 0
        for found in tables.rows(self._path, self.benchmark.columns or self._needed()):
            if not isinstance(found, Fault) and any(
                str(found[1].get(name, "")) != value for name, value in self.benchmark.where.items()
            ):
                continue
            if count == self._limit:
                return
            count += 1
            yield found

    def _needed(self) -> list[str]:
        """Columns of a set of the user's own."""
        answer = [] if self.benchmark.type == "rubric" else ["answer"]
        index = ["index"] if self._path.suffix == ".tsv" else []
        return [*index, "question", *answer]

    def _scan(self) -> int:
        """Counts the rows, and keeps the pictures that other rows refer to."""
        wanted: set[str] = set()
        count = answered = 0
        for found in self._rows():
            count += 1
            if isinstance(found, Fault):
                continue
            answered += self._field(found[1], "answer") is not None
            wanted |= self._pictures.referred(found[1])
        if count and not answered and self.benchmark.type != "rubric":
            raise UserError(f"{self._path}: no row has an answer; is this a split whose answers are not public?")
        if not count:
            rows = " and ".join(f"{key} {value!r}" for key, value in self.benchmark.where.items())
            raise UserError(f"{self._path}: no row{f' with {rows}' if rows else ''} to ask")
        if wanted:
            self._pictures.share(wanted)
        return count

    def _field(self, row: Row, name: str) -> Any:
        called = self.benchmark.fields.get(name, name)
        return row.get(called) if isinstance(called, str) else [row.get(one) for one in called]

    def _items(self, place: str, index: str, row: Row) -> Iterator[Item]:
        options = self._options(row)
        answers = self._answers(row, options)
        turns = len(options) if self._rotate and self.benchmark.rule == "choice" and options else 1
        if self.benchmark.shuffle:
            order = list(options.values())
            random.Random(f"options/{index}").shuffle(order)
            right = options[answers[0]]
            options = dict(zip(_LETTERS, order, strict=False))
            answers = tuple(letter for letter, text in options.items() if text == right)[:1]
        film = self.benchmark.media == "video"
        pictures, times = self._pictures.film(row) if film else (self._pictures.of(row), None)
        if not pictures and "image" in self.benchmark.columns:
            raise RowError("it has no picture")
        for turn in range(turns):
            yield self._item(place, index, row, _rotated(options, turn), answers, turn, turns, pictures, times)

    def _item(
        self,
        place: str,
        index: str,
        row: Row,
        options: Mapping[str, str],
        answers: tuple[str, ...],
        turn: int,
        turns: int,
        pictures: Sequence[Picture],
        times: list[float] | None,
    ) -> Item:
        if turn:
            size = len(options)
            answers = tuple(_LETTERS[(_LETTERS.index(letter) - turn) % size] for letter in answers)
        question = str(self._field(row, "question") or "")
        hint = str(row.get("hint", ""))
        text = render(self.template, question, list(options.items()), hint)
        group = index
        if self.benchmark.circular == "file" and index.isdecimal():
            group = str(int(index) % TURN)
        shas = [picture.sha for picture in pictures]
        named = self.benchmark.cluster
        cluster = index if named == "item" or (named == "image" and not shas) else "/".join(shas)
        if named not in ("item", "image"):
            cluster = str(self._field(row, named) or index)
        return Item(
            id=f"{self.name}/{index}{f'~{turn}' if turns > 1 else ''}",
            suite=self.name,
            place=place,
            messages=(Message(role="user", content=self._parts(text, len(pictures), times)),),
            images=tuple(pictures),
            answers=answers,
            rule=self.benchmark.rule,
            options=options,
            language="zh" if _HAN.search(question) else "en",
            category=str(self._field(row, "category") or ""),
            group=group,
            cluster=cluster,
            details={name: str(row[name]) for name in DETAILS if name in row},
            question=question,
            hint=hint,
            **self._settings,
        )

    def _options(self, row: Row) -> dict[str, str]:
        if self.benchmark.type != "mcq" and self.benchmark.rule not in ("maths", "mathvista"):
            return {}
        given = tables.listed(self._field(row, "options") or row.get("choices"))
        if given is not None:
            if len(given) > len(_LETTERS) or not all(isinstance(one, str | int | float) for one in given):
                raise RowError(f"its {len(given)} options are not at most {len(_LETTERS)} texts")
            options = {letter: str(one) for letter, one in zip(_LETTERS, given, strict=False)}
        else:
            options = {letter: str(row[letter]) for letter in _LETTERS if letter in row}
            letters = "".join(options)
            if letters != _LETTERS[: len(letters)]:
                raise RowError(f"its options are {', '.join(letters)}: one between is empty")
        if self.benchmark.type == "mcq" and len(options) < 2 and "question" in self.benchmark.columns:
            raise RowError(f"it has {len(options)} options; a choice has at least two")
        return options

    def _answers(self, row: Row, options: Mapping[str, str]) -> tuple[str, ...]:
        given = self._field(row, "answer")
        if given is None or not str(given).strip():
            if self.benchmark.type == "rubric":
                return ()
            raise RowError("it has no answer")
        if self.benchmark.rule == "choice":
            return (_letter(given, options),)
        if self.benchmark.rule in ("maths", "mathvista", "boxed", "number"):
            return (str(given).strip(),)
        several = tables.listed(given)
        answers = tuple(text for one in several or [given] if (text := str(one).strip()))
        if not answers:
            raise RowError("its list of answers is empty")
        if self.benchmark.rule == "yes_no" and answers[0].lower() not in ("yes", "no", "是", "否", "1", "0"):
            raise RowError(f"its answer {answers[0][:40]!r} is neither yes nor no")
        return answers

    def _parts(self, text: str, count: int, times: list[float] | None) -> list[Part]:
        if times is not None:
            return [Part(type="video", index=0, times=times), Part(type="text", text=text)]
        mark = _MARK.get(self.benchmark.places)
        pieces: list[Part] = []
        placed: set[int] = set()
        end = 0
        for turn, found in enumerate(mark.finditer(text) if mark else ()):
            index = int(found[1]) - 1 if found.re.groups else turn
            if not 0 <= index < count:
                continue  # a mark without its picture stays text
            if found.start() > end:
                pieces.append(Part(type="text", text=text[end : found.start()]))
            pieces.append(Part(type="image", index=index))
            placed.add(index)
            end = found.end()
        before = [Part(type="image", index=index) for index in range(count) if index not in placed]
        rest = [Part(type="text", text=text[end:])] if text[end:] or not pieces else []
        return [*before, *pieces, *rest]


def _letter(given: object, options: Mapping[str, str]) -> str:
    """The letter of a right answer that is given as letter, number of an option from 0, or text."""
    if isinstance(given, int) and not isinstance(given, bool):
        if not 0 <= given < len(options):
            raise RowError(f"its answer {given} is none of its {len(options)} options (from 0)")
        return _LETTERS[given]
    text = str(given).strip()
    if text in _LETTERS and len(text) == 1 and (text in options or not options):
        return text
    alike = [letter for letter, option in options.items() if option.strip() == text]
    if len(alike) != 1:
        raise RowError(f"its answer {text[:40]!r} is none of its options {', '.join(options)}, nor the text of one")
    return alike[0]


def _rotated(options: Mapping[str, str], turn: int) -> dict[str, str]:
    """The options with each text `turn` letters further up."""
    texts = list(options.values())
    return dict(zip(options, [*texts[turn:], *texts[:turn]], strict=True))


def counted(faults: Sequence[Fault]) -> dict[str, int]:
    """How many rows there are of each kind of fault, the most first."""
    return dict(Counter(re.sub(r"'[^']*'|\d+", "…", fault.reason) for fault in faults).most_common())
