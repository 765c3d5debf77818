"""What of a data set stands in an evaluation set: its pictures and its questions, against any TSVs given.

Pictures are found again as copies, re-encodings, mirror images and crops (`copies.py`), whatever is asked about them.
Questions are found again in other words (`paraphrase.py`); where the recipe names an embedder, it is asked about those
that the rules do not find: texts near each other, in another language too, unless the rules see a contradiction.

A question alone says little when each side has a picture of its own ("What is this?"): then it counts only if it is
specific, that is has `SPECIFIC` words of content and stands in the evaluation sets with one picture.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open4ov.data import evaluation_tsv, hashing
from open4ov.data.copies import Gallery
from open4ov.data.paraphrase import Question, alike, contradictory, question
from open4ov.data.wording import Embedder, Floats

SPECIFIC = 5
"""Words of content that make a question recognisable without its picture."""

_COMMON = 0.02  # a word in more than this share of the questions leads to no candidates by itself
_FEW = 200  # ... unless that is so few


@dataclass(frozen=True)
class Evidence:
    """Why something counts as contaminated: the row, what of it was found, and how near.

    `found`: copy, mirrored, crop, part (of a picture), or question. `bits`: Hamming distance of the hashes; `likeness`:
    correlation of grey levels, or overlap of the words.
    """

    file: str
    index: str
    found: str
    likeness: float
    bits: int | None = None
    question: str | None = None

    def record(self) -> dict[str, Any]:
        """As it stands in a report: without what does not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass
class _Asked:
    file: str
    index: str
    text: str
    read: Question
    pictures: frozenset[bytes]


class Benchmarks:
    """The pictures and the questions of evaluation sets. `folders`: where the files of `image_path` may lie, beside
    each TSV's own folder. Raises UserError for a TSV that is none.

    `embed` (texts -> rows) and the cosine `near` from which two questions are one: the second opinion.
    """

    def __init__(
        self, paths: Sequence[Path], folders: Sequence[Path] = (), embed: Embedder | None = None, near: float = 1.0
    ) -> None:
        self.faults: list[dict[str, str]] = []
        """What of the rows could not be read, so that nothing is compared with it: `row` and `reason`."""
        self.counts = {"files": len(paths), "rows": 0, "pictures": 0}
        thumbnails: list[NDArray[np.uint8]] = []
        self._owners: list[list[tuple[str, str]]] = []
        place: dict[bytes, int] = {}
        self._asked: list[_Asked] = []
        for path in paths:
            for row in evaluation_tsv.read(path, folders):
                self.counts["rows"] += 1
                self.faults += [{"row": row.name, "reason": reason} for reason in row.faults]
                shown: set[bytes] = set()
                for image in row.images:
                    thumbnail = hashing.thumbnail(image)
                    key = thumbnail.tobytes()
                    shown.add(key)
                    if key not in place:
                        place[key] = len(thumbnails)
                        thumbnails.append(thumbnail)
                        self._owners.append([])
                    self._owners[place[key]].append((row.file, row.index))
                if row.question:
                    read = question(row.question, row.answer, row.options)
                    self._asked.append(_Asked(row.file, row.index, row.question, read, frozenset(shown)))
        self.counts["pictures"] = len(thumbnails)
        side = hashing.SIDE
        self._gallery = Gallery(np.stack(thumbnails) if thumbnails else np.zeros((0, side, side, 3), np.uint8))
        self._plain: dict[str, list[int]] = defaultdict(list)
        self._postings: dict[str, list[int]] = defaultdict(list)
        under: dict[str, set[frozenset[bytes]]] = defaultdict(set)
        for number, asked in enumerate(self._asked):
            self._plain[asked.read.plain].append(number)
            under[asked.read.plain].add(asked.pictures)
            for token in asked.read.bag:
                self._postings[token].append(number)
        self._embed, self._near = embed, near
        self._rows = _unit(embed([asked.text for asked in self._asked])) if embed and self._asked else None
        self._repeated = {plain for plain, pictures in under.items() if len(pictures) > 1}

    def pictures(self, thumbnails: Sequence[NDArray[np.uint8]]) -> list[list[Evidence]]:
        """The evidence against each picture (thumbnails [S, S, 3]): one entry for each row that shows it."""
        found: list[list[Evidence]] = [[] for _ in thumbnails]
        for begin in range(0, len(thumbnails), 512):
            for hit in self._gallery.find(np.stack(thumbnails[begin : begin + 512])):
                for file, index in self._owners[hit.known]:
                    evidence = Evidence(file, index, hit.kind, hit.likeness, hit.distance)
                    found[begin + hit.query].append(evidence)
        return found

    def asked(self, text: str, answer: str | None, *, pictured: bool, options: Sequence[str] = ()) -> Evidence | None:
        """The nearest evaluation question that asks the same; None when there is none. `pictured`: is it of one."""
        read = question(text, answer, options)
        best: tuple[float, int] | None = None
        for number in self._candidates(read):
            asked = self._asked[number]
            if pictured and asked.pictures and not self._specific(asked, read):
                continue
            same, overlap = alike(read, asked.read)
            if same and (best is None or overlap > best[0]):
                best = overlap, number
        best = best or self._embedded(text, read, pictured)
        if best is None:
            return None
        asked = self._asked[best[1]]
        return Evidence(asked.file, asked.index, "question", round(best[0], 4), None, asked.text)

    def _embedded(self, text: str, read: Question, pictured: bool) -> tuple[float, int] | None:
        """The nearest row by its embedding that the rules do not contradict: (cosine, number)."""
        if self._embed is None or self._rows is None:
            return None
        cosines = self._rows @ _unit(self._embed([text]))[0]
        for number in (int(at) for at in np.argsort(-cosines, kind="stable")):
            if cosines[number] < self._near:
                break
            asked = self._asked[number]
            general = pictured and asked.pictures and not self._specific(asked, read)
            if not general and not contradictory(read, asked.read):
                return float(cosines[number]), number
        return None

    def _candidates(self, read: Question) -> Iterable[int]:
        """Rows that share a word which is not in all of them, or the whole wording."""
        most = max(_FEW, _COMMON * len(self._asked))
        tally: Counter[int] = Counter()
        for token in read.bag:
            rows = self._postings.get(token, ())
            if len(rows) <= most:
                tally.update(rows)
        return sorted({*tally, *self._plain.get(read.plain, ())[:_FEW]})

    def _specific(self, asked: _Asked, read: Question) -> bool:
        return min(len(asked.read.bag), len(read.bag)) >= SPECIFIC and asked.read.plain not in self._repeated


def _unit(rows: Floats) -> Floats:
    """Rows of length 1; a zero row stays one."""
    rows = np.asarray(rows, np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.where(norms == 0, 1, norms)).astype(np.float32)
